"""The answers of a study that count: read once, screened, by question."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from limner.runtime.study.analysis.ordinal import OrdinalFit, fit_ratings
from limner.runtime.study.analysis.screening import Screened, screen
from limner.runtime.study.analysis.votes import Votes, votes_of
from limner.runtime.study.people.store import Given, RaterKind, Store
from limner.runtime.study.plans.making import Study
from limner.runtime.study.plans.plan import Question

__all__ = ["Answers", "answers_of"]


@dataclass(frozen=True)
class Answers:
    """People's answers, or simulated ones; never both."""

    kind: RaterKind
    study: Study
    given: Sequence[Given]
    screened: Sequence[Screened]

    def votes(self, question: Question) -> Votes:
        """The answers to a question by raters who were not left out."""
        kept = [one.rater for one in self.screened if one.kept]
        return votes_of(question, self.given, kept, [arm.name for arm in self.study.arms])

    @cached_property
    def ratings(self) -> OrdinalFit:
        """The model of all ratings; raises what `fit_ratings` raises."""
        return fit_ratings(self.votes("quality"))

    def controls(self) -> list[Given]:
        """Ratings of untouched pictures by raters who were not left out."""
        kept = {one.rater for one in self.screened if one.kept}
        return [one for one in self.given if one.page.kind == "control" and one.rater in kept]


def answers_of(store: Store) -> Answers:
    """Read and screen a store."""
    given = store.given()
    screened = screen(given, store.study.plan.people.screen, lambda number: len(store.pages(number)))
    return Answers(store.kind, store.study, given, screened)
