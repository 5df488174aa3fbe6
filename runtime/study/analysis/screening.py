"""Whose answers count, by the rules that the plan fixed before the first of them (`study.plans.plan.Screen`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from limner.runtime.study.people.questions import acceptable, right
from limner.runtime.study.people.store import Given
from limner.runtime.study.plans.plan import Screen

__all__ = ["Screened", "screen"]

NEAR = 1  # points by which a rating may differ when it is asked again


@dataclass(frozen=True)
class Screened:
    """One rater."""

    rater: str
    answers: int
    ended: bool
    checks: float | None  # share of known answers that were right
    repeats: float | None  # share of repeated pages that were answered alike
    seconds: float  # median of a page
    same: float  # the largest share of one answer to one question
    why: str  # left out: the rule that was broken; "" if the answers count

    @property
    def kept(self) -> bool:
        """Whether the answers count."""
        return not self.why


def screen(given: Sequence[Given], rules: Screen, pages: Callable[[int], int]) -> list[Screened]:
    """Every rater, in the order of the answers; `pages` says how many a rater's number has."""
    raters: dict[str, list[Given]] = {}
    for one in given:
        raters.setdefault(one.rater, []).append(one)
    return [_screened(name, mine, rules, len(mine) >= pages(mine[0].number)) for name, mine in raters.items()]


def _screened(name: str, mine: Sequence[Given], rules: Screen, ended: bool) -> Screened:
    known = [right(one.page, one.value) for one in mine if one.page.kind == "check"]
    by_position = {one.position: one for one in mine}
    again = [
        _alike(by_position[one.page.repeats], one)
        for one in mine
        if one.page.repeats is not None and one.page.repeats in by_position
    ]
    checks = float(np.mean(known)) if known else None
    repeats = float(np.mean(again)) if again else None
    seconds, same = float(np.median([one.seconds for one in mine])), _same(mine)
    broken = {
        "did not reach the end": not ended,
        f"{_percent(checks)} of the known answers": checks is not None and checks < rules.checks,
        f"{_percent(repeats)} of repeated pages alike": repeats is not None and repeats < rules.repeats,
        f"{seconds:.1f} s a page": seconds < rules.seconds,
        f"{_percent(same)} the same answer": same > rules.same,
    }
    why = next((words for words, is_so in broken.items() if is_so), "")
    return Screened(name, len(mine), ended, checks, repeats, seconds, same, why)


def _alike(first: Given, second: Given) -> bool:
    if first.page.question == "quality":
        return bool(abs(first.value["rating"] - second.value["rating"]) <= NEAR)
    if first.page.question == "acceptable":
        return acceptable(first.value) == acceptable(second.value)
    return bool(first.value == second.value)


def _same(mine: Sequence[Given]) -> float:
    """Of answers about edits: an edit's rater may find every change made and kept, but not every picture a 3."""
    found = 0.0
    for question in ("quality", "pair"):
        values = [str(one.value) for one in mine if one.page.question == question and one.page.kind == "edit"]
        if len(values) > 1:
            found = max(found, max(values.count(value) for value in set(values)) / len(values))
    return found


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
