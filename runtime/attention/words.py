"""A prompt as words and tokens, and where a word stands in it.

A word is found by its tokens, not by its letters: "cat" is found in "A Cat.", "beard" in "a beard, smiling", a
word of several tokens gives all of them, and a word that stands there twice gives both places. `word#2` is the
second one alone.

The published look-up (get_word_inds in google/prompt-to-prompt) compares the letters between single blanks: "cat"
is not found in "a cat." or "a Cat", and what is not found edits nothing without a word about it.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from limner.runtime.errors import InputError, nearest
from limner.runtime.tokenizer import Tokenizer

__all__ = ["Prompt", "Word", "find_word", "read_prompt", "word_tokens"]

OCCURRENCE = re.compile(r"(.+)#([1-9][0-9]*)")


@dataclass(frozen=True)
class Word:
    """One word of a prompt, or the punctuation before or after one."""

    text: str  # as it was written
    tokens: tuple[int, ...]  # places among the prompt's tokens; the start token has place 0
    spelled: bool  # False for punctuation
    group: int  # which of the parts between blanks it belongs to


@dataclass(frozen=True)
class Prompt:
    """A text, its token ids and its words."""

    text: str  # cleaned
    ids: tuple[int, ...]  # start, the words, end; no padding
    words: tuple[Word, ...]
    _tokenizer: Tokenizer = field(repr=False, compare=False)

    @property
    def length(self) -> int:
        """How many tokens are not padding, start and end included."""
        return len(self.ids)

    @property
    def spelled(self) -> tuple[Word, ...]:
        """The words without the punctuation."""
        return tuple(word for word in self.words if word.spelled)

    def places(self, phrase: str, field: str = "word") -> list[tuple[int, ...]]:
        """Return the tokens of every place where `phrase` (one word or several) stands; none is no error."""
        wanted = self._tokenizer.tokens(phrase, field)
        found, place = [], 1
        while place + len(wanted) <= self.length - 1:
            if list(self.ids[place : place + len(wanted)]) == wanted:
                found.append(tuple(range(place, place + len(wanted))))
                place += len(wanted)
            else:
                place += 1
        return found


def read_prompt(tokenizer: Tokenizer, text: str, field: str = "prompt") -> Prompt:
    """Split a text into words; InputError naming `field` if it is empty or too long (the lost words are named)."""
    cleaned, ids, offsets = tokenizer.pieces(text, field)
    words = []
    for group, part in enumerate(re.finditer(r"\S+", cleaned)):
        for first, last, spelled in _split(part.group(), part.start()):
            tokens = tuple(1 + i for i, (start, _) in enumerate(offsets) if first <= start < last)
            if tokens:  # a character that the tokenizer drops gives none
                words.append(Word(cleaned[first:last], tokens, spelled, group))
    return Prompt(cleaned, (tokenizer.start, *ids, tokenizer.eos), tuple(words), tokenizer)


def find_word(prompt: Prompt, phrase: str, field: str = "word") -> tuple[int, ...]:
    """Return the tokens of `phrase` in the prompt, all its places; "phrase#2" is the second place alone.

    Raises InputError naming `field` if the phrase is empty or does not stand in the prompt.
    """
    found = word_tokens(prompt, phrase, field)
    if found is None:
        known = [word.text for word in prompt.spelled]
        raise InputError(
            field, f"{phrase!r}, which is not in {prompt.text!r}", ", ".join(known), nearest(phrase.lower(), known)
        )
    return found


def word_tokens(prompt: Prompt, phrase: str, field: str = "word") -> tuple[int, ...] | None:
    """Return the tokens of `phrase` as `find_word` does, or None if it does not stand in the prompt."""
    if not isinstance(phrase, str) or not phrase.strip():
        raise InputError(field, "an empty word" if isinstance(phrase, str) else repr(phrase), "a word of the prompt")
    places = prompt.places(phrase, field)
    numbered = OCCURRENCE.fullmatch(phrase.strip())
    if not places and numbered is not None:
        places, number = prompt.places(numbered[1], field), int(numbered[2])
        if places and number > len(places):
            given = f"{phrase!r}, but {numbered[1]!r} stands {len(places)} times in {prompt.text!r}"
            raise InputError(field, given, f"#1 to #{len(places)}")
        places = places[number - 1 : number]
    return tuple(token for place in places for token in place) or None


def _split(part: str, start: int) -> Sequence[tuple[int, int, bool]]:
    """(first, last, spelled) of the punctuation before a word, the word and the punctuation after it."""
    marks = [unicodedata.category(character)[0] in "PS" for character in part]
    if all(marks):
        return [(start, start + len(part), False)]
    before = marks.index(False)
    after = len(part) - marks[::-1].index(False)
    cuts = [(0, before, False), (before, after, True), (after, len(part), False)]
    return [(start + first, start + last, spelled) for first, last, spelled in cuts if first < last]
