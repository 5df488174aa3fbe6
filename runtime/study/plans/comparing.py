"""The comparisons that a plan named before anything was made, tested on what the judge saw.

Two arms on the same pictures: McNemar's exact test on the pictures where just one succeeded (Holm's step-down
correction over all comparisons of the plan), and the difference of the rates with a 95 % interval by bootstrap over
samples, all edits of a sample drawn together. An edit that failed counts as no success.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from limner.runtime.study.plans.making import Study
from limner.runtime.study.plans.plan import Comparison
from limner.runtime.study.plans.size import scipy_stats
from limner.runtime.study.rows import Run
from limner.runtime.study.scores import counted, strict, success
from limner.runtime.study.tables import as_table

__all__ = ["Compared", "as_comparison_table", "compare", "compare_study", "holm"]

Bools = NDArray[np.bool_]
DRAWS = 4000  # of the bootstrap
BY_PEOPLE = ("rating", "pair")


@dataclass(frozen=True)
class Compared:
    """One comparison: rates of two arms on the same pictures."""

    arms: tuple[str, ...]
    outcome: str
    edit: str
    pictures: int
    first: float
    second: float
    low: float  # of the difference first - second
    high: float
    first_alone: int  # pictures where only the first arm succeeded
    second_alone: int
    p: float
    p_holm: float = 1.0


def compare(first: Bools, second: Bools, samples: NDArray[np.int64], seed: int = 0) -> tuple[float, float, float]:
    """Return p of McNemar's exact test and the interval of the difference, for outcomes [N] on samples [N]."""
    first_alone, second_alone = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    several = first_alone + second_alone
    p = 1.0 if not several else float(scipy_stats().binomtest(first_alone, several).pvalue)
    names, places = np.unique(samples, return_inverse=True)
    counts = np.bincount(places)
    sums = np.bincount(places, first.astype(float) - second)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWS)
    low, high = np.quantile((drawn @ sums) / (drawn @ counts), (0.025, 0.975))
    return p, float(low), float(high)


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): p-values as they are to be compared with alpha, in the given order."""
    order = np.argsort(values, kind="stable")
    found, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[int(place)]))
        found[int(place)] = largest
    return found


def compare_study(study: Study) -> tuple[list[Compared], list[Comparison]]:
    """The plan's comparisons that the judge can answer, and those that wait for people's answers."""
    runs = dict(zip((arm.name for arm in study.arms), study.runs(), strict=True))
    methods = {arm.name: arm.method for arm in study.arms}
    asked = [one for one in study.plan.comparisons if one.outcome not in BY_PEOPLE]
    found = [_compared(study, one, [(runs[name], methods[name]) for name in one.arms]) for one in asked]
    corrected = holm([one.p for one in found])
    return ([replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)],
            [one for one in study.plan.comparisons if one.outcome in BY_PEOPLE])  # fmt: skip


def _compared(study: Study, one: Comparison, arms: Sequence[tuple[Run, str]]) -> Compared:
    outcomes = [_outcomes(run, study.plan.part, method, one) for run, method in arms]
    both = sorted(set(outcomes[0]) & set(outcomes[1]))
    first, second = (np.array([table[key] for key in both], bool) for table in outcomes)
    samples = np.array([index for _, index in both], np.int64)
    p, low, high = compare(first, second, samples, study.plan.seed) if both else (1.0, 0.0, 0.0)
    return Compared(
        arms=one.arms,
        outcome=one.outcome,
        edit=one.edit,
        pictures=len(both),
        first=float(first.mean()) if both else 0.0,
        second=float(second.mean()) if both else 0.0,
        low=low,
        high=high,
        first_alone=int(np.sum(first & ~second)),
        second_alone=int(np.sum(second & ~first)),
        p=p,
    )


def _outcomes(run: Run, part: str, method: str, one: Comparison) -> dict[tuple[str, int], bool]:
    """(edit, sample) -> whether it came out."""
    test, found = {"success": success, "strict": strict}[one.outcome], {}
    for edit in run.header.methods[method]["edits"]:
        if one.edit in ("", edit):
            spec = run.header.edit(edit)
            for row in counted(run, part, method, edit):
                found[edit, row.index] = row.error is None and test(run.header, spec, row.before, row.after)
    return found


def as_comparison_table(found: Sequence[Compared], waiting: Sequence[Comparison]) -> str:
    """Markdown: planned comparisons, and what they cannot say."""
    rows = [
        [f"{one.arms[0]} - {one.arms[1]}", one.edit or "all", one.outcome, str(one.pictures),
         f"{100 * one.first:.0f} - {100 * one.second:.0f} %", f"{100 * one.low:+.0f} to {100 * one.high:+.0f}",
         f"{one.first_alone} - {one.second_alone}", f"{one.p:.2g}", f"{one.p_holm:.2g}"]
        for one in found
    ]  # fmt: skip
    titles = ["comparison", "edit", "outcome", "pictures", "rates", "difference, 95 %", "one alone", "p", "p, Holm"]
    notes = [f"{one.arms[0]} - {one.arms[1]}, {one.outcome}: waits for people's answers." for one in waiting]
    notes.append(
        "Planned before anything was made; what else the tables show is exploratory. The judge is a network: it sees "
        "attributes, not beauty, and its errors are part of every rate. Pictures are drawings of one style."
    )
    return as_table(titles, rows) + "\n\n" + "\n".join(notes) + "\n"
