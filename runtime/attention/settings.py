"""What may be asked of one Prompt-to-Prompt edit, as data.

A word is found as `limner.runtime.attention.words` says; "hair#2" is the second "hair" alone. Where words of both
prompts are asked for (`blend`, `subtract`), "cat:dog" is "cat" in the source and "dog" in the edit, "cat:" and ":dog"
one of the two, and "hair" is both, where it stands.
"""

from dataclasses import dataclass, field
from typing import Literal

from limner.runtime.attention.windows import read_window
from limner.runtime.attention.words import Prompt, find_word, word_tokens
from limner.runtime.checks import require_number
from limner.runtime.errors import InputError
from limner.runtime.grammar import not_understood, split_colon

__all__ = ["MAX_WEIGHT", "ControlSettings", "pair_tokens"]

MAX_WEIGHT = 100.0
BLEND_FORM = "WORD of both prompts, or SOURCE:TARGET with one of them left out or none"


@dataclass(frozen=True)
class ControlSettings:
    """The defaults are those of the published notebook; windows are parts of all steps, see `windows`."""

    kind: Literal["auto", "replace", "refine", "reweight"] = "auto"  # auto: what the two prompts are
    weights: dict[str, float] = field(default_factory=dict)  # word of the edit -> c (paper: -2 to 2)
    cross_replace: float | tuple[float, ...] = 0.8  # window of cross attention
    word_windows: dict[str, float | tuple[float, ...]] = field(default_factory=dict)  # of single words of the edit
    self_replace: float | tuple[float, ...] = 0.4  # window of self attention
    blend: tuple[str, ...] = ()  # local edit: the words that may change the picture
    subtract: tuple[str, ...] = ()  # the words whose place stays as it is, within the blend words'
    blend_start: float = 0.2  # part of the steps after which the local edit starts
    blend_threshold: float = 0.3  # 0 to 1, of the strongest attention
    subtract_threshold: float = 0.3
    compat: Literal["correct", "published"] = "correct"  # published: with the quirks of the published aligners

    def __post_init__(self) -> None:
        for word, weight in self.weights.items():
            hint = "1 leaves the word as it is, the paper takes -2 to 2"
            require_number(f"prompts.options.weights.{word}", weight, -MAX_WEIGHT, MAX_WEIGHT, hint)
        read_window("parameters.cross_replace", self.cross_replace)
        read_window("parameters.self_replace", self.self_replace)
        for word, window in self.word_windows.items():
            read_window(f"prompts.options.word_windows.{word}", window)
        for name in ("blend_start", "blend_threshold", "subtract_threshold"):
            require_number(f"parameters.{name}", getattr(self, name), 0.0, 1.0)
        if self.subtract and not self.blend:
            raise InputError("prompts.options.subtract", list(self.subtract), "nothing without blend words")


def pair_tokens(source: Prompt, target: Prompt, words: tuple[str, ...], name: str) -> tuple[list[int], list[int]]:
    """Return the tokens that the words are in the source and in the edit; InputError for a word in neither."""
    found: tuple[list[int], list[int]] = ([], [])
    where = f"prompts.options.{name}"
    for entry in words:
        left, place = split_colon(entry)
        right = "" if place is None else _one_word(where, entry, place + 1)
        if place is not None:
            if not left.strip() and not right.strip():
                raise not_understood(where, entry, place, BLEND_FORM)
            for side, prompt, word in zip(found, (source, target), (left, right), strict=True):
                if word.strip():
                    side.extend(find_word(prompt, word, where))
            continue
        places = [word_tokens(prompt, left, where) for prompt in (source, target)]
        if places == [None, None]:
            find_word(target, left, where)  # raises, naming the words that there are
        for side, tokens in zip(found, places, strict=True):
            side.extend(tokens or ())
    return found


def _one_word(field: str, entry: str, start: int) -> str:
    """What stands from `start` on, which holds no further colon."""
    word, place = split_colon(entry, start)
    if place is not None:
        raise not_understood(field, entry, place, BLEND_FORM)
    return word
