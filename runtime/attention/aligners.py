"""Which token of the source each token of an edit takes its attention from.

Prompt-to-Prompt (Hertz et al. 2022, section 3) as linear algebra on the source's attention A_s [pixels,77]: the
edit's column n is (A_s M)[:,n] where `matched[n]` is 1, and its own where it is 0.

    word swap    a word's columns go to the word in its place; over another number of tokens they are summed and
                 spread evenly, so that the attention is neither more nor less
    refinement   M[a(n),n] = 1 for the tokens that both prompts have (Needleman-Wunsch), the others keep their own

Here padding takes the source's padding of the same place, and keeps its own where the source has a word there.
compat="published" does as the published code (seq_aligner.py in google/prompt-to-prompt) does, where it differs:
words are what stands between blanks, after the last swapped word every column n takes column n, so that a swap
that changes the number of tokens shifts what follows, and padding takes column n even where that is a word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from limner.runtime.attention.words import Prompt, Word
from limner.runtime.errors import InputError
from limner.runtime.methods.prompt_to_prompt import Compat

__all__ = ["Alignment", "Kind", "align", "infer_kind"]

Kind = Literal["replace", "refine", "reweight"]
FloatArray = NDArray[np.float32]
TOKENS = 77
GAP, MATCH, MISMATCH = 0, 1, -1  # ScoreParams(0, 1, -1) of the published aligner


@dataclass(frozen=True, eq=False)
class Alignment:
    """How the columns of the source's attention become those of an edit."""

    transfer: FloatArray  # M [77,77]: source column -> edit column
    matched: FloatArray  # gamma [77]: 1 where the edit takes M's column, 0 where it keeps its own


def align(
    kind: Kind,
    source: Prompt,
    target: Prompt,
    compat: Compat = "correct",
    field: str = "prompts.text",  # what errors name
    tokens: int = TOKENS,
) -> Alignment:
    """Return the alignment of two prompts.

    Raises InputError for a word swap between prompts of different length, and for a re-weighting of a prompt that
    is not the source's.
    """
    if kind == "reweight":
        if compat == "correct" and source.ids != target.ids:
            hint = "a word swap and a refinement take weights as well"
            raise InputError(field, repr(target.text), f"the source's own text {source.text!r} to re-weight", hint)
        return Alignment(np.eye(tokens, dtype=np.float32), np.ones(tokens, dtype=np.float32))
    if kind == "refine":
        return _refine(source, target, compat, tokens)
    if compat == "published":
        return _published_replace(source, target, field, tokens)
    return _replace(source, target, field, tokens)


def infer_kind(source: Prompt, target: Prompt) -> Kind:
    """Return the kind of edit that two prompts are: the same words are re-weighted, a word that stands in the
    place of another is a swap, anything else a refinement.
    """
    if source.ids == target.ids:
        return "reweight"
    before, after = ([_key(prompt, word) for word in prompt.spelled] for prompt in (source, target))
    changes = [code for code in SequenceMatcher(None, before, after, False).get_opcodes() if code[0] != "equal"]
    swaps = all(b - a == d - c for _, a, b, c, d in changes)
    return "replace" if swaps and changes else "refine"


def _key(prompt: Prompt, word: Word) -> tuple[int, ...]:
    return tuple(prompt.ids[token] for token in word.tokens)


def _replace(source: Prompt, target: Prompt, field: str, tokens: int) -> Alignment:
    before, after = source.spelled, target.spelled
    _same_length(source, target, before, after, field)
    transfer = _start(source, target, tokens)
    for left, right in zip(before, after, strict=True):
        _spread(transfer, left.tokens, right.tokens)
    for left_gap, right_gap in zip(_gaps(source), _gaps(target), strict=True):  # the punctuation between the words
        ids = [source.ids[i] for i in left_gap], [target.ids[i] for i in right_gap]
        for i, j in _common(*ids):
            transfer[left_gap[i], right_gap[j]] = 1
    return Alignment(transfer, _has_source(transfer))


def _refine(source: Prompt, target: Prompt, compat: Compat, tokens: int) -> Alignment:
    transfer = np.zeros((tokens, tokens), dtype=np.float32) if compat == "published" else _start(source, target, tokens)
    for i, j in _common(source.ids, target.ids):
        transfer[i, j] = 1
    if compat == "published":
        rest = np.arange(target.length, tokens)
        transfer[rest, rest] = 1
    return Alignment(transfer, _has_source(transfer))


def _published_replace(source: Prompt, target: Prompt, field: str, tokens: int) -> Alignment:
    """get_replacement_mapper_ of the published seq_aligner.py: gamma is 1 everywhere."""
    before, after = _between_blanks(source), _between_blanks(target)
    _same_length(source, target, before, after, field)
    swaps = [pair for pair in zip(before, after, strict=True) if pair[0].text != pair[1].text]
    transfer = np.zeros((tokens, tokens), dtype=np.float32)
    i = j = 0
    for left, right in swaps:
        while i < left.tokens[0]:
            transfer[i, j] = 1
            i, j = i + 1, j + 1
        _spread(transfer, left.tokens, right.tokens)
        i, j = i + len(left.tokens), j + len(right.tokens)
    rest = np.arange(j, j + min(tokens - i, tokens - j))
    transfer[rest, rest] = 1  # as published: [j,j], not [i,j]
    return Alignment(transfer, np.ones(tokens, dtype=np.float32))


def _same_length(source: Prompt, target: Prompt, before: Sequence[Word], after: Sequence[Word], field: str) -> None:
    if len(before) != len(after):
        given = f"{target.text!r} of {len(after)} words"
        allowed = f"{len(before)} words to swap with those of {source.text!r}"
        raise InputError(field, given, allowed, "kind refine takes prompts of different length")


def _between_blanks(prompt: Prompt) -> list[Word]:
    """The words as the published code splits them: punctuation belongs to its word."""
    parts: dict[int, list[Word]] = {}
    for word in prompt.words:
        parts.setdefault(word.group, []).append(word)
    return [
        Word("".join(word.text for word in words), tuple(i for word in words for i in word.tokens), True, group)
        for group, words in parts.items()
    ]


def _gaps(prompt: Prompt) -> list[list[int]]:
    """The tokens of the punctuation before the first word, between the words and after the last."""
    gaps: list[list[int]] = [[]]
    for word in prompt.words:
        if word.spelled:
            gaps.append([])
        else:
            gaps[-1] += word.tokens
    return gaps


def _start(source: Prompt, target: Prompt, tokens: int) -> FloatArray:
    """M with start, end and padding alone."""
    transfer = np.zeros((tokens, tokens), dtype=np.float32)
    transfer[0, 0] = transfer[source.length - 1, target.length - 1] = 1
    padding = np.arange(max(source.length, target.length), tokens)
    transfer[padding, padding] = 1
    return transfer


def _spread(transfer: FloatArray, left: Sequence[int], right: Sequence[int]) -> None:
    """One token for one, or the sum over `left` spread evenly over `right`."""
    if len(left) == len(right):
        transfer[left, right] = 1
    else:
        transfer[np.ix_(left, right)] = 1 / len(right)


def _has_source(transfer: FloatArray) -> FloatArray:
    matched: FloatArray = (transfer.sum(axis=0) > 0).astype(np.float32)
    return matched


def _common(left: Sequence[int], right: Sequence[int]) -> list[tuple[int, int]]:
    """Return the pairs (i,j), left[i] = right[j], of a global alignment (Needleman and Wunsch 1970).

    Scores and ties are the published ones: of equal alignments the one that leaves out tokens of `right` from the
    end, then tokens of `left`. A mismatch costs more than two gaps, so only equal tokens are paired.
    """
    score = np.zeros((len(left) + 1, len(right) + 1), dtype=np.int64)
    for i in range(1, len(left) + 1):
        for j in range(1, len(right) + 1):
            pair = score[i - 1, j - 1] + (MATCH if left[i - 1] == right[j - 1] else MISMATCH)
            score[i, j] = max(score[i, j - 1] + GAP, score[i - 1, j] + GAP, pair)
    pairs, i, j = [], len(left), len(right)
    while i > 0 and j > 0:
        if score[i, j] == score[i, j - 1] + GAP:
            j -= 1
        elif score[i, j] == score[i - 1, j] + GAP:
            i -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]
