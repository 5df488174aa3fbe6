"""The comparisons that a plan named before anything was made, tested.

Success, strictly or not, by the judge, and "acceptable" by most votes of people, on the same pictures: McNemar's exact
test of two arms where just one succeeded, Cochran's Q (1950) of more; the difference of two rates with a 95 % interval
by bootstrap over samples, all edits of a sample drawn together. An edit that failed counts as no success. Ratings: the
difference in the ordinal model (`ordinal`). Pairs: the difference in strength (`preference`). Holm's step-down
correction (1979) goes over all comparisons of the plan, those that wait for answers among them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.errors import InputError, LimnerError
from limner.runtime.study.analysis.answers import Answers
from limner.runtime.study.analysis.intervals import Estimate
from limner.runtime.study.analysis.ordinal import fit_ratings
from limner.runtime.study.analysis.preference import fit_pairs
from limner.runtime.study.analysis.votes import majorities
from limner.runtime.study.plans.making import Study
from limner.runtime.study.plans.plan import Arm, Comparison
from limner.runtime.study.plans.size import scipy_stats
from limner.runtime.study.rows import Run
from limner.runtime.study.scores import counted, strict, success
from limner.runtime.study.tables import as_table

__all__ = ["Compared", "as_comparison_table", "cochran", "compare", "compare_study", "holm"]

Bools = NDArray[np.bool_]
Outcomes = dict[tuple[str, int], bool]  # (edit, sample) -> whether it came out
DRAWS = 4000  # of the bootstrap
BY_PEOPLE = ("acceptable", "rating", "pair")


@dataclass(frozen=True)
class Compared:
    """One comparison that was tested, or one that waits for answers."""

    arms: tuple[str, ...]
    outcome: str
    edit: str
    test: str
    count: int = 0  # pictures, or answers
    values: tuple[float, ...] = ()  # rates of the arms
    difference: tuple[float, float, float] | None = None  # of two arms: value, low, high
    alone: tuple[int, ...] = ()  # pictures where only the first, only the second arm succeeded
    p: float | None = None
    p_holm: float | None = None
    waits: str = ""  # for what


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


def cochran(outcomes: Bools) -> float:
    """p of Cochran's Q for outcomes [pictures, arms]; 1 where no two arms differ on any picture."""
    mixed = outcomes[(outcomes.sum(1) > 0) & (outcomes.sum(1) < outcomes.shape[1])]
    return float(_statsmodels().cochrans_q(mixed.astype(int)).pvalue) if len(mixed) else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p-values as they are to be compared with alpha, in the given order."""
    _statsmodels()
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(values, method="holm")[1]] if values else []


def compare_study(study: Study, answers: Answers | None = None) -> list[Compared]:
    """The plan's comparisons, those that wait for people's answers among them."""
    runs = {arm.name: (arm, run) for arm, run in zip(study.arms, study.runs(), strict=True)}
    found = [_compared(study, one, runs, answers) for one in study.plan.comparisons]
    corrected = holm([1.0 if one.p is None else one.p for one in found])
    return [one if one.p is None else replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)]


def _compared(
    study: Study, one: Comparison, runs: dict[str, tuple[Arm, Run]], answers: Answers | None
) -> Compared:  # fmt: skip
    asked = Compared(one.arms, one.outcome, one.edit, _test(one))
    if one.outcome not in BY_PEOPLE:
        return _yes_or_no(asked, [_outcomes(study, *runs[name], one) for name in one.arms], study.plan.seed)
    if answers is None:
        return replace(asked, waits="people's answers")
    try:
        if one.outcome == "acceptable":
            return _yes_or_no(asked, _by_votes(answers, one), study.plan.seed)
        if one.outcome == "pair":
            return _of_model(asked, fit_pairs(answers.votes("pair").of_edit(one.edit)).difference(*one.arms))
        fit = fit_ratings(answers.votes("quality").of_edit(one.edit)) if one.edit else answers.ratings
        return _of_model(asked, fit.difference(*one.arms))
    except InputError as reason:
        return replace(asked, waits=f"answers: {reason}")
    except ValueError:  # an arm without an answer
        return replace(asked, waits="answers about both arms")


def _test(one: Comparison) -> str:
    named = {"rating": "ordinal model", "pair": "Bradley-Terry"}
    return named.get(one.outcome) or ("McNemar" if len(one.arms) == 2 else "Cochran's Q")


def _yes_or_no(asked: Compared, outcomes: Sequence[Outcomes], seed: int) -> Compared:
    both = sorted(set(outcomes[0]).intersection(*outcomes[1:]))
    if not both:
        return replace(asked, waits="pictures that all of its arms have")
    table = np.array([[one[key] for one in outcomes] for key in both], bool)
    rates = tuple(float(rate) for rate in table.mean(0))
    if len(outcomes) > 2:
        return replace(asked, count=len(both), values=rates, p=cochran(table))
    first, second = table.T
    p, low, high = compare(first, second, np.array([sample for _, sample in both], np.int64), seed)
    alone = (int(np.sum(first & ~second)), int(np.sum(second & ~first)))
    return replace(asked, count=len(both), values=rates, difference=(rates[0] - rates[1], low, high), alone=alone, p=p)


def _of_model(asked: Compared, found: Estimate) -> Compared:
    return replace(asked, count=found.answers, difference=(found.value, found.low, found.high), p=found.p)


def _outcomes(study: Study, arm: Arm, run: Run, one: Comparison) -> Outcomes:
    test, found = {"success": success, "strict": strict}[one.outcome], {}
    for edit in run.header.methods[arm.method]["edits"]:
        if one.edit in ("", edit):
            spec = run.header.edit(edit)
            for row in counted(run, study.plan.part, arm.method, edit):
                found[edit, row.index] = row.error is None and test(run.header, spec, row.before, row.after)
    return found


def _by_votes(answers: Answers, one: Comparison) -> list[Outcomes]:
    votes = answers.votes("acceptable").of_edit(one.edit)
    found = majorities(votes)
    return [
        {(edit, sample): yes for (arm, edit, sample), yes in found.items() if votes.arms[arm] == name}
        for name in one.arms
    ]


def as_comparison_table(found: Sequence[Compared]) -> str:
    """Markdown: planned comparisons."""
    titles = ["comparison", "edit", "outcome", "test", "pictures or answers", "rates", "difference, 95 %", "one alone",
              "p", "p, Holm"]  # fmt: skip
    rows = [
        [" - ".join(one.arms), one.edit or "all", one.outcome, one.test, str(one.count),
         " - ".join(f"{100 * rate:.0f}" for rate in one.values) + " %" if one.values else "-", _difference(one),
         " - ".join(map(str, one.alone)) or "-", f"{one.p:.2g}", f"{one.p_holm:.2g}"]
        for one in found if one.p is not None
    ]  # fmt: skip
    waiting = [f"- {' - '.join(one.arms)}, {one.outcome}: waits for {one.waits}" for one in found if one.p is None]
    return "\n\n".join(part for part in (as_table(titles, rows) if rows else "", "\n".join(waiting)) if part) + "\n"


def _difference(one: Compared) -> str:
    if one.difference is None:
        return "-"
    value, low, high = one.difference
    if one.values:
        return f"{100 * value:+.0f} ({100 * low:+.0f} to {100 * high:+.0f})"
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f}) log odds"


def _statsmodels() -> Any:
    try:
        from statsmodels.stats import contingency_tables
    except ImportError as reason:
        raise LimnerError("tests need statsmodels: pip install 'limner[study]'") from reason
    return contingency_tables
