"""A prompt as words and tokens, and where a word stands in it.

A word is a whole word of the text, or a part of one between hyphens: "cat" is found in "A Cat." and in "a cat-like
hat", and neither in "tomcat" nor in "cats". Case does not matter, nor does the punctuation around a word. A word of
several tokens gives all of them, and a word that stands there twice gives both places. `word#2` is the second one
alone. What belongs to a word are letters, digits and their marks, an apostrophe between two letters but for 's at the
end, and a point or comma between two digits.

The published look-up (get_word_inds in google/prompt-to-prompt) compares the letters between single blanks: "cat"
is not found in "a cat." or "a Cat", and what is not found edits nothing without a word about it.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from limner.runtime.errors import InputError, nearest
from limner.runtime.grammar import not_understood, split_colon
from limner.runtime.text.tokenizer import Tokenizer, clean

__all__ = ["Prompt", "Word", "find_word", "pair_tokens", "read_prompt", "word_tokens"]

OCCURRENCE = re.compile(r"(.+)#([1-9][0-9]{0,5})")
POSSESSIVE = re.compile(r"['\u2019]s(?!\w)", re.IGNORECASE)


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
    offsets: tuple[tuple[int, int], ...] = field(repr=False)  # characters of `text`, of each token but start and end

    @property
    def length(self) -> int:
        """How many tokens are not padding, start and end included."""
        return len(self.ids)

    @property
    def spelled(self) -> tuple[Word, ...]:
        """The words without the punctuation."""
        return tuple(word for word in self.words if word.spelled)

    def places(self, phrase: str) -> list[tuple[int, ...]]:
        """Return the tokens of every place where `phrase` (one word or several) stands; none is no error."""
        wanted = clean(phrase)
        bare = _without_marks(wanted)
        found = self._tokens_of(bare) if bare else []
        if not found and wanted != bare:  # a mark, or an added token like <cat-toy>
            found = self._tokens_of(wanted)
        return found

    def _tokens_of(self, phrase: str) -> list[tuple[int, ...]]:
        pattern = r"\s+".join(re.escape(part) for part in phrase.split())
        found = []
        for match in re.finditer(pattern, self.text, re.IGNORECASE):
            first, last = match.span()
            if _inside_word(self.text, first) or _inside_word(self.text, last):
                continue
            touched = [1 + i for i, (start, end) in enumerate(self.offsets) if start < last and end > first]
            whole = all(first <= start and end <= last for start, end in (self.offsets[i - 1] for i in touched))
            if touched and whole:
                found.append(tuple(touched))
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
    return Prompt(cleaned, (tokenizer.start, *ids, tokenizer.eos), tuple(words), tuple(offsets))


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
    places = prompt.places(phrase)
    numbered = OCCURRENCE.fullmatch(phrase.strip())
    if not places and numbered is not None:
        places, number = prompt.places(numbered[1]), int(numbered[2])
        if places and number > len(places):
            times = "once" if len(places) == 1 else f"{len(places)} times"
            given = f"{phrase!r}, but {numbered[1]!r} stands {times} in {prompt.text!r}"
            raise InputError(field, given, f"#1 to #{len(places)}" if len(places) > 1 else "#1")
        places = places[number - 1 : number]
    return tuple(token for place in places for token in place) or None


def _inside_word(text: str, place: int) -> bool:
    """Whether the characters before and after `place` belong to one word."""
    if not 0 < place < len(text):
        return False
    before, after = text[place - 1], text[place]
    if _of_word(before) and _of_word(after):
        return True
    if after in "'\u2019" or before in "'\u2019":
        mark = place if after in "'\u2019" else place - 1
        return _between(text, mark, "L") and POSSESSIVE.match(text, mark) is None
    mark = place if after in ".," else place - 1
    return text[mark] in ".," and _between(text, mark, "N")


def _between(text: str, mark: int, category: str) -> bool:
    """Whether the characters around text[mark] are both letters ("L") or both digits ("N")."""
    around = (text[mark - 1 : mark], text[mark + 1 : mark + 2])
    return all(character and unicodedata.category(character)[0] == category for character in around)


def _of_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNM"


def _without_marks(phrase: str) -> str:
    """The phrase without the punctuation and symbols around it."""
    kept = [place for place, character in enumerate(phrase) if _of_word(character)]
    return phrase[kept[0] : kept[-1] + 1] if kept else ""


def _split(part: str, start: int) -> Sequence[tuple[int, int, bool]]:
    """(first, last, spelled) of the punctuation before a word, the word and the punctuation after it."""
    marks = [unicodedata.category(character)[0] in "PS" for character in part]
    if all(marks):
        return [(start, start + len(part), False)]
    before = marks.index(False)
    after = len(part) - marks[::-1].index(False)
    cuts = [(0, before, False), (before, after, True), (after, len(part), False)]
    return [(start + first, start + last, spelled) for first, last, spelled in cuts if first < last]


BLEND_FORM = "WORD of both prompts, or SOURCE:TARGET with one of them left out or none"


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
