"""Aligners against the published ones, written out here with loops, and the cases where those are wrong."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from limner.runtime.attention.aligners import align, infer_kind
from limner.runtime.attention.words import Prompt
from limner.runtime.errors import InputError

Read = Callable[[str], Prompt]
SQUIRREL = "a squirrel with red hair and a hat"
PERSON = "a person with red hair and a hat"


def published_word_places(prompt: Prompt, which: int) -> list[int]:
    """get_word_inds for the word number `which` between blanks, letters counted token by token."""
    parts = prompt.text.split(" ")
    pieces = {i: word.text for word in prompt.words for i in word.tokens}
    offsets = prompt.offsets
    out, length, at = [], 0, 0
    assert len(pieces) == len(offsets)
    for i, (first, last) in enumerate(offsets):
        length += last - first
        if at == which:
            out.append(i + 1)
        if length >= len(parts[at]):
            at, length = at + 1, 0
    return out


def published_replace(x: Prompt, y: Prompt) -> NDArray[np.float64]:
    """get_replacement_mapper_."""
    words_x, words_y = x.text.split(" "), y.text.split(" ")
    differ = [i for i in range(len(words_y)) if words_x[i] != words_y[i]]
    source = [published_word_places(x, i) for i in differ]
    target = [published_word_places(y, i) for i in differ]
    mapper = np.zeros((77, 77))
    i = j = at = 0
    while i < 77 and j < 77:
        if at < len(source) and source[at][0] == i:
            if len(source[at]) == len(target[at]):
                mapper[source[at], target[at]] = 1
            else:
                for place in target[at]:
                    mapper[source[at], place] = 1 / len(target[at])
            i, j, at = i + len(source[at]), j + len(target[at]), at + 1
        elif at < len(source):
            mapper[i, j] = 1
            i, j = i + 1, j + 1
        else:
            mapper[j, j] = 1
            i, j = i + 1, j + 1
    return mapper


def published_refine(x: list[int], y: list[int]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """get_mapper: gap 0, match 1, mismatch -1; left before up before diagonal."""
    score = np.zeros((len(x) + 1, len(y) + 1), dtype=int)
    trace = np.zeros((len(x) + 1, len(y) + 1), dtype=int)
    trace[0, 1:], trace[1:, 0], trace[0, 0] = 1, 2, 4
    for i in range(1, len(x) + 1):
        for j in range(1, len(y) + 1):
            left, up = score[i, j - 1], score[i - 1, j]
            diagonal = score[i - 1, j - 1] + (1 if x[i - 1] == y[j - 1] else -1)
            score[i, j] = max(left, up, diagonal)
            trace[i, j] = 1 if score[i, j] == left else 2 if score[i, j] == up else 3
    i, j = len(x), len(y)
    pairs: list[tuple[int, int]] = []
    while i > 0 or j > 0:
        if trace[i, j] == 3:
            i, j = i - 1, j - 1
            pairs.append((j, i))
        elif trace[i, j] == 1:
            j -= 1
            pairs.append((j, -1))
        elif trace[i, j] == 2:
            i -= 1
        else:
            break
    base = np.array(pairs[::-1])
    alphas, mapper = np.ones(77), np.zeros(77, dtype=np.int64)
    alphas[: len(base)] = base[:, 1] != -1
    mapper[: len(base)] = base[:, 1]
    mapper[len(base) :] = len(y) + np.arange(77 - len(y))
    return mapper, alphas


def refined(mapper: NDArray[np.int64], alphas: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mapper as a matrix."""
    matrix = np.zeros((77, 77))
    for n in range(77):
        if alphas[n]:
            matrix[mapper[n], n] = 1
    return matrix


SWAPS = [
    ("a person with a beard", "a cat with a beard"),  # one token for several
    ("a squirrel with a beard", "a person with a beard"),  # several for one
    ("a person with a beard", "a person with a hat"),
    ("a squirrel, with a cat", "a cat, with a squirrel"),
    ("a person", "a person"),
]


@pytest.mark.parametrize(("before", "after"), SWAPS)
def test_published_swap_is_the_published_one(prompt: Read, before: str, after: str) -> None:
    found = align("replace", prompt(before), prompt(after), "published")
    np.testing.assert_allclose(found.transfer, published_replace(prompt(before), prompt(after)), atol=1e-7)
    assert found.matched.all()


REFINEMENTS = [
    ("a person with a hat", "a smiling person with a red hat and a beard"),
    ("a person with a beard and a hat", "a person with a hat"),
    ("a person with a person", "a person"),
    ("a red person with a red hat", "a red hat"),
    ("a person", "photo, a squirrel and a person."),
]


@pytest.mark.parametrize(("before", "after"), REFINEMENTS)
def test_published_refinement_is_the_published_one(prompt: Read, before: str, after: str) -> None:
    source, target = prompt(before), prompt(after)
    found = align("refine", source, target, "published")
    mapper, alphas = published_refine(list(source.ids), list(target.ids))
    np.testing.assert_array_equal(found.matched, alphas)
    np.testing.assert_array_equal(found.transfer, refined(mapper, alphas))


@pytest.mark.parametrize(("before", "after"), REFINEMENTS)
def test_refinement_pairs_the_same_tokens_as_the_published_one(prompt: Read, before: str, after: str) -> None:
    source, target = prompt(before), prompt(after)
    found = align("refine", source, target)
    published = align("refine", source, target, "published")
    words = np.s_[:, : target.length]
    np.testing.assert_array_equal(found.transfer[words], published.transfer[words])
    if source.length <= target.length:  # where the published one is right it is the same
        np.testing.assert_array_equal(found.transfer, published.transfer)
        np.testing.assert_array_equal(found.matched, published.matched)


def test_refinement_with_a_shorter_target_takes_no_word_for_padding(prompt: Read) -> None:
    source, target = prompt("a person with a beard and a hat"), prompt("a person with a hat")
    between = np.arange(target.length, source.length)
    published = align("refine", source, target, "published")
    assert published.transfer[between, between].all()  # upstream: the padding looks where "and a hat" looked
    found = align("refine", source, target)
    assert not found.matched[between].any()
    assert not found.transfer[:, between].any()
    after = np.arange(source.length, 77)
    assert found.transfer[after, after].all() and found.matched[after].all()


def test_swap_of_another_length_does_not_shift_the_later_words(prompt: Read) -> None:
    source, target = prompt(SQUIRREL), prompt(PERSON)
    found = align("replace", source, target)
    for left, right in zip(source.spelled, target.spelled, strict=True):
        if left.text == right.text:
            assert found.transfer[left.tokens[0], right.tokens[0]] == 1
    assert found.transfer[source.length - 1, target.length - 1] == 1
    published = align("replace", source, target, "published")
    hat, was = target.spelled[-1].tokens[0], source.spelled[-1].tokens[0]
    assert published.transfer[was, hat] == 0 and published.transfer[hat, hat] == 1  # shifted upstream


def test_swap_moves_all_of_the_attention_and_no_more(prompt: Read) -> None:
    source, target = prompt(SQUIRREL), prompt(PERSON)
    for left, right in ((source, target), (target, source)):
        found = align("replace", left, right)
        assert found.transfer[: left.length].sum(axis=1) == pytest.approx(1)


def test_swap_of_one_length_is_the_published_one(prompt: Read) -> None:
    source, target = prompt("a person with red hair"), prompt("a person with blue hair")
    found = align("replace", source, target)
    np.testing.assert_array_equal(found.transfer, np.eye(77))
    np.testing.assert_array_equal(found.transfer, align("replace", source, target, "published").transfer)


def test_punctuation_is_no_word_of_a_swap(prompt: Read) -> None:
    source, target = prompt("a person with red hair"), prompt("A person, with BLUE hair.")
    assert infer_kind(source, target) == "replace"
    found = align("replace", source, target)
    comma = next(word for word in target.words if word.text == ",").tokens[0]
    assert found.matched[comma] == 0 and not found.transfer[:, comma].any()
    assert found.transfer[source.spelled[-1].tokens[0], target.spelled[-1].tokens[0]] == 1


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ("a person with red hair", "A person with red hair", "reweight"),
        ("a person with red hair", "a person with blue hair", "replace"),
        ("a person with red hair", "a squirrel with blue hair", "replace"),
        ("a person with red hair", "a smiling person with red hair", "refine"),
        ("a person with red hair", "a person", "refine"),
        ("a photo of a house", "photo of a red house", "refine"),  # as long, but nothing is swapped
        ("a person with a beard", "a person with sunglasses", "refine"),
    ],
)
def test_kind_is_inferred(prompt: Read, before: str, after: str, kind: str) -> None:
    assert infer_kind(prompt(before), prompt(after)) == kind


def test_swap_of_different_length_is_refused(prompt: Read) -> None:
    for compat in ("correct", "published"):
        with pytest.raises(InputError, match="of 2 words; allowed: 4 words to swap"):
            align("replace", prompt("a person with hair"), prompt("a person"), compat)


def test_reweighting_another_prompt_is_refused(prompt: Read) -> None:
    with pytest.raises(InputError, match="the source's own text"):
        align("reweight", prompt("a person"), prompt("a cat"))
    assert (align("reweight", prompt("a person"), prompt("a cat"), "published").transfer == np.eye(77)).all()
