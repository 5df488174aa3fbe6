"""Who sees what, in which order: balanced over raters, the same for a rater's number whenever it is asked.

The edits of a question stand in one line: pass p over all (edit, sample) in a shuffled order takes the arm number
(place + p) of each. Rater r has the next `pages` of that line behind rater r - 1, so that every edit gets as many votes
as any other (one more at most), nobody sees a source twice before all were seen, and the arms are even in each rater.

The order within a rater follows Williams's Latin squares (1949): every arm is as often first, second, third, and
follows every other as often. Pages of a known answer, untouched pictures and repeats stand between, drawn by the
plan's seed and the rater's number; a repeat comes in the last half, and not next to its page where there is room.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np

from limner.runtime.errors import InputError
from limner.runtime.study.plans.making import Study
from limner.runtime.study.plans.plan import Plan, Question
from limner.runtime.study.scores import counted

__all__ = ["RUINED", "UNTOUCHED", "Kind", "Page", "cells_of", "check_rater", "deal", "latin_rows", "votes"]

Kind = Literal["edit", "control", "check", "repeat"]
Cell = tuple[str, int]  # an edit and a sample
Shown = tuple[str, ...]  # the arms of a page: one, or two from left to right
APART = 3  # pages between a page and its repeat, where there is room
UNTOUCHED, RUINED = "untouched", "ruined"  # stand for an arm where no edit is shown


@dataclass(frozen=True)
class Page:
    """One question about one picture or two."""

    question: Question
    kind: Kind
    edit: str
    sample: int
    shown: Shown  # arms, or UNTOUCHED and RUINED
    repeats: int | None = None  # the position of the page that this one repeats


def cells_of(study: Study) -> dict[Cell, tuple[str, ...]]:
    """(edit, sample) -> the arms that have a picture there and count for the table, in the plan's order."""
    found: dict[Cell, list[str]] = {}
    for arm, run in zip(study.arms, study.runs(), strict=True):
        for edit in run.header.methods[arm.method]["edits"]:
            for row in counted(run, study.plan.part, arm.method, edit):
                if row.picture is not None:
                    found.setdefault((edit, row.index), []).append(arm.name)
    return {cell: tuple(arms) for cell, arms in sorted(found.items())}


def shown_of(plan: Plan, question: Question, arms: Sequence[str]) -> list[Shown]:
    """What may be shown of a cell with those arms: each alone, or the pairs that the plan compares, all if none is."""
    if question != "pair":
        return [(arm,) for arm in arms]
    named = [(one.arms[0], one.arms[1]) for one in plan.comparisons if one.outcome == "pair"]
    pairs = list(dict.fromkeys(tuple(sorted(pair, key=arms.index)) for pair in named if set(pair) <= set(arms)))
    return pairs if named else list(combinations(arms, 2))


def line_of(plan: Plan, question: Question, cells: Mapping[Cell, tuple[str, ...]]) -> list[tuple[Cell, Shown]]:
    """Every edit of a question once, in the order in which raters get them. InputError where there is none."""
    rng = np.random.default_rng([plan.seed, _number(question)])
    order = [list(cells)[int(k)] for k in rng.permutation(len(cells))]
    shown = {cell: shown_of(plan, question, cells[cell]) for cell in order}
    found = [
        (cell, shown[cell][(place + turn) % len(shown[cell])])
        for turn in range(max(map(len, shown.values()), default=0))
        for place, cell in enumerate(order)
        if turn < len(shown[cell])
    ]
    if not found:
        raise InputError("plan.questions", repr(question), "a question of pictures that the study has")
    return found


def deal(study: Study, rater: int, cells: Mapping[Cell, tuple[str, ...]] | None = None) -> tuple[Page, ...]:
    """All pages of a rater, by number from 0, in their order; questions come one after another, in an order that
    turns from rater to rater. InputError for a rater beyond the plan's, and for a study with no pictures to ask about.
    """
    plan, known = study.plan, cells_of(study) if cells is None else cells
    check_rater(plan, rater)
    turn = rater % len(plan.questions)
    found: list[Page] = []
    for question in (*plan.questions[turn:], *plan.questions[:turn]):
        found += _shifted(_of_question(plan, question, known, rater), len(found))
    return tuple(found)


def check_rater(plan: Plan, rater: int) -> None:
    """InputError for a number beyond the plan's raters."""
    if not plan.questions:
        raise InputError("plan.questions", "none", "a plan that asks people something")
    if not 0 <= rater < plan.raters:
        raise InputError("rater", rater, f"a whole number from 0 to {plan.raters - 1}: the plan has {plan.raters}")


def votes(study: Study, question: Question, cells: Mapping[Cell, tuple[str, ...]]) -> float:
    """Answers that an edit gets, mean, if every rater of the plan answers."""
    asked = min(study.plan.people.pages_of(question), len(line_of(study.plan, question, cells)))
    return study.plan.raters * asked / len(line_of(study.plan, question, cells))


def latin_rows(count: int) -> list[tuple[int, ...]]:
    """Williams's design (1949): rows of 0..count-1, `count` of them, or twice as many for an odd count.

    Every number is equally often at every place, and directly behind every other one.
    """
    zigzag = [(step + 1) // 2 if step % 2 else (count - step // 2) % count for step in range(count)]
    rows = [tuple((one + shift) % count for one in zigzag) for shift in range(count)]
    return rows + [row[::-1] for row in rows] if count % 2 and count > 1 else rows


def _of_question(plan: Plan, question: Question, cells: Mapping[Cell, tuple[str, ...]], rater: int) -> list[Page]:
    rng = np.random.default_rng([plan.seed, _number(question), rater])
    line = line_of(plan, question, cells)
    pages = min(plan.people.pages_of(question), len(line))
    mine = [line[(rater * pages + k) % len(line)] for k in range(pages)]
    passes = rater * pages // len(line)
    ordered = _in_latin_order(mine, rater)
    asked = [
        # which of two is left turns with every pass and every page
        Page(question, "edit", *cell, shown[::-1] if (passes + rater + k) % 2 and question == "pair" else shown)
        for k, (cell, shown) in enumerate(ordered)
    ]
    return _with_repeats(_with_others(plan, question, cells, asked, rng), plan.people.repeats, rng)


def _in_latin_order(mine: Sequence[tuple[Cell, Shown]], rater: int) -> list[tuple[Cell, Shown]]:
    names = sorted({shown for _, shown in mine})
    waiting = {name: [one for one in mine if one[1] == name] for name in names}
    rows, found, turn = latin_rows(len(names)), list[tuple[Cell, Shown]](), rater
    while len(found) < len(mine):
        for place in rows[turn % len(rows)]:
            found += [waiting[names[place]].pop(0)] if waiting[names[place]] else []
        turn += 1
    return found


def _with_others(
    plan: Plan, question: Question, cells: Mapping[Cell, tuple[str, ...]], asked: Sequence[Page],
    rng: np.random.Generator,
) -> list[Page]:  # fmt: skip
    """Untouched pictures and pages with a known answer, of any cells, at places that are drawn."""
    shown: dict[Question, Shown] = {"acceptable": (UNTOUCHED,), "quality": (RUINED,), "pair": (UNTOUCHED, RUINED)}
    every = list(cells)
    more = [Page(question, "check", *every[int(rng.integers(len(every)))], shown[question][:: int(rng.choice([1, -1]))])
            for _ in range(plan.people.checks)]  # fmt: skip
    more += [Page(question, "control", *every[int(rng.integers(len(every)))], (UNTOUCHED,))
             for _ in range(plan.people.controls if question == "quality" else 0)]  # fmt: skip
    found = list(asked)
    for page in more:
        found.insert(int(rng.integers(len(found) + 1)), page)
    return found


def _with_repeats(pages: list[Page], count: int, rng: np.random.Generator) -> list[Page]:
    """Some pages of edits once more: those of the first half, shuffled into the last."""
    half = (len(pages) + 1) // 2
    first = [k for k in range(half) if pages[k].kind == "edit"]
    chosen = [first[int(k)] for k in rng.permutation(len(first))[:count]]
    tail = [(place, pages[place]) for place in range(half, len(pages))]
    again = [(-1, replace(pages[k], kind="repeat", repeats=k)) for k in chosen]
    for one in again:
        k = one[1].repeats or 0
        low = max(0, min(len(tail), k + 1 + APART - half))
        tail.insert(int(rng.integers(low, len(tail) + 1)), one)
    return pages[:half] + [page for _, page in tail]


def _shifted(pages: Sequence[Page], by: int) -> list[Page]:
    return [page if page.repeats is None else replace(page, repeats=page.repeats + by) for page in pages]


def _number(question: Question) -> int:
    return ("acceptable", "quality", "pair").index(question)
