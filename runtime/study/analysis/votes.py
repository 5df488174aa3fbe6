"""Answers as arrays, one line each: what the figures of people's answers are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limner.runtime.study.people.questions import acceptable
from limner.runtime.study.people.store import Given
from limner.runtime.study.plans.plan import Question

__all__ = ["Floats", "Ints", "Votes", "majorities", "votes_of"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Votes:
    """Answers to one question about edits [N]; repeats and pages that test the rater are not among them."""

    arms: tuple[str, ...]
    value: Floats  # acceptable: 0 or 1; quality: 1 to 5; pair: 1 where the left one is better
    arm: Ints  # of `arms`; pair: the left one
    other: Ints  # pair: the right one; else -1
    rater: Ints
    sample: Ints
    edit: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.value)

    def take(self, chosen: NDArray[np.bool_]) -> "Votes":
        """Those of a mask [N]."""
        edits = tuple(np.array(self.edit, object)[chosen])
        return Votes(self.arms, self.value[chosen], self.arm[chosen], self.other[chosen], self.rater[chosen],
                     self.sample[chosen], edits)  # fmt: skip

    def of_edit(self, edit: str) -> "Votes":
        """Those about one edit; all if it is empty."""
        return self if not edit else self.take(np.array([one == edit for one in self.edit], bool))

    @property
    def picture(self) -> Ints:
        """A number for each picture that was shown: arm, edit and sample."""
        names = [f"{a} {e} {s}" for a, e, s in zip(self.arm, self.edit, self.sample, strict=True)]
        return np.unique(names, return_inverse=True)[1].astype(np.int64) if names else np.zeros(0, np.int64)


def votes_of(question: Question, given: Sequence[Given], raters: Sequence[str], arms: Sequence[str]) -> Votes:
    """The answers to a question by those raters."""
    place, number = {arm: k for k, arm in enumerate(arms)}, {name: k for k, name in enumerate(raters)}
    rows = [one for one in given if one.page.question == question and one.page.kind == "edit" and one.rater in number]
    return Votes(
        tuple(arms),
        np.array([_value(question, one.value) for one in rows], np.float64),
        np.array([place[one.page.shown[0]] for one in rows], np.int64),
        np.array([place[one.page.shown[1]] if question == "pair" else -1 for one in rows], np.int64),
        np.array([number[one.rater] for one in rows], np.int64),
        np.array([one.page.sample for one in rows], np.int64),
        tuple(one.page.edit for one in rows),
    )


def majorities(votes: Votes) -> dict[tuple[int, str, int], bool]:
    """(arm, edit, sample) -> whether more than half of its votes are yes."""
    found: dict[tuple[int, str, int], list[float]] = {}
    for value, arm, edit, sample in zip(votes.value, votes.arm, votes.edit, votes.sample, strict=True):
        found.setdefault((int(arm), edit, int(sample)), []).append(float(value))
    return {key: sum(values) > len(values) / 2 for key, values in found.items()}


def _value(question: Question, value: Mapping[str, object]) -> float:
    if question == "acceptable":
        return float(acceptable(value))
    return float(str(value["rating"])) if question == "quality" else float(value["better"] == "left")
