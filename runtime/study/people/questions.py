"""What people are asked, word by word, and which answers there are.

acceptable   the picture before and after: was the change made, and was the rest kept? Both yes: acceptable
quality      one picture, 1 (bad) to 5 (perfect); untouched pictures are hidden among them
pair         the picture before and two edits of it: which is better?
"""

from collections.abc import Mapping
from typing import Any

from limner.runtime.errors import InputError
from limner.runtime.study.people.dealing import RUINED, Page
from limner.runtime.study.plans.plan import Question

__all__ = ["ANSWERS", "WORDS", "acceptable", "check_answer", "right"]

ANSWERS: Mapping[Question, Mapping[str, tuple[Any, ...]]] = {
    "acceptable": {"made": (True, False), "kept": (True, False)},
    "quality": {"rating": (1, 2, 3, 4, 5)},
    "pair": {"better": ("left", "right")},
}
# Of the pages. {text} is the edit's, as methods were given it.
WORDS: Mapping[Question, Mapping[str, str]] = {
    "acceptable": {
        "title": "Asked for: {text}",
        "made": "Was the change made?",
        "kept": "Was the rest kept?",
        "help": "Left is the picture before, right the one after.",
    },
    "quality": {
        "title": "How good is this picture?",
        "rating": "1 is bad, 5 is perfect",
        "help": "Some pictures were made or changed by a computer, some were not.",
    },
    "pair": {
        "title": "Asked for: {text}",
        "better": "Which change is better?",
        "help": "Above is the picture before. Better: the change was made, and the rest was kept.",
    },
}
MOST_BAD = 2  # a ruined picture may get so many points


def check_answer(question: Question, value: object) -> dict[str, Any]:
    """The answer as it is kept; InputError for one that the question does not have."""
    known = ANSWERS[question]
    allowed = "; ".join(f"{name} of {', '.join(map(repr, values))}" for name, values in known.items())
    if not isinstance(value, dict) or set(value) != set(known):
        raise InputError("value", f"{value!r}"[:100], allowed)
    for name, values in known.items():
        one = value[name]
        if not any(one == item and type(one) is type(item) for item in values):
            raise InputError(f"value.{name}", f"{one!r}"[:100], ", ".join(map(repr, values)))
    return {name: value[name] for name in known}


def acceptable(value: Mapping[str, Any]) -> bool:
    """Both yes."""
    return bool(value["made"] and value["kept"])


def right(page: Page, value: Mapping[str, Any]) -> bool:
    """Whether a page of a known answer got it: nothing was changed; ruin is bad; ruin is not better."""
    if page.question == "acceptable":
        return not value["made"]
    if page.question == "quality":
        return int(value["rating"]) <= MOST_BAD
    return page.shown[("left", "right").index(value["better"])] != RUINED
