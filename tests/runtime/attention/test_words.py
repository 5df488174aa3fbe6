"""Words are found where they stand, whatever stands around them."""

from collections.abc import Callable

import pytest

from limner.runtime.attention.words import Prompt, find_word, read_prompt
from limner.runtime.errors import InputError
from limner.runtime.text.tokenizer import Tokenizer

Read = Callable[[str], Prompt]


def shown(prompt: Prompt, word: str) -> list[int]:
    return list(find_word(prompt, word))


def test_word_of_one_token(prompt: Read) -> None:
    assert shown(prompt("a person with a beard"), "beard") == [5]


@pytest.mark.parametrize("text", ["A Person, with a Beard.", "a person , with a beard!", "  a  PERSON, with a (beard)"])
def test_case_blanks_and_punctuation_do_not_hide_a_word(prompt: Read, text: str) -> None:
    read = prompt(text)
    for word in ("person", "beard", "BEARD"):
        places = find_word(read, word)
        assert len(places) == 1
        assert [w.text.lower() for w in read.words if w.tokens == places] == [word.lower()]


def test_word_of_several_tokens(prompt: Read, tokenizer: Tokenizer) -> None:
    count = len(tokenizer.tokens("squirrel"))
    assert count > 1
    assert shown(prompt("a squirrel, smiling"), "squirrel") == list(range(2, 2 + count))


def test_part_of_a_word_is_not_the_word(prompt: Read) -> None:
    with pytest.raises(InputError, match="'squi'"):
        find_word(prompt("a squirrel"), "squi")


def test_repeated_words(prompt: Read) -> None:
    read = prompt("a person with a beard and a hat")
    assert shown(read, "a") == [1, 4, 7]
    assert shown(read, "a#2") == [4]
    with pytest.raises(InputError, match="stands 3 times"):
        find_word(read, "a#4")


def test_phrases(prompt: Read) -> None:
    read = prompt("a person with red hair and a red hat")
    assert shown(read, "red hair") == [4, 5]
    assert shown(read, "red") == [4, 8]


def test_hyphenated_word_is_one_word(prompt: Read) -> None:
    read = prompt("a red t-shirt.")
    assert [word.text for word in read.spelled] == ["a", "red", "t-shirt"]
    assert [word.text for word in read.words] == ["a", "red", "t-shirt", "."]
    assert len(find_word(read, "t-shirt")) == 3
    assert sorted(i for word in read.words for i in word.tokens) == list(range(1, read.length - 1))


def test_unknown_word_names_the_prompt_and_the_nearest(prompt: Read) -> None:
    with pytest.raises(InputError) as caught:
        find_word(prompt("a person with a beard"), "bread", "parameters.weights")
    assert caught.value.field == "parameters.weights"
    assert "person" in caught.value.allowed and "'beard'" in caught.value.hint


@pytest.mark.parametrize("word", ["", "  "])
def test_empty_word(prompt: Read, word: str) -> None:
    with pytest.raises(InputError, match="an empty word"):
        find_word(prompt("a person"), word)


def test_special_token_as_a_word(prompt: Read) -> None:
    with pytest.raises(InputError) as caught:
        find_word(prompt("a person"), "<|endoftext|>", "prompts.options.weights")
    assert caught.value.field == "prompts.options.weights"


def test_words_that_are_cut_off_are_not_found(tokenizer: Tokenizer) -> None:
    read = read_prompt(tokenizer, " ".join(["red"] * 75) + " a beard", "prompts.text")
    assert read.length == 77 and [word.text for word in read.words] == ["red"] * 75
    with pytest.raises(InputError, match="'beard', which is not in"):
        find_word(read, "beard")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("100 men", "10"),
        ("100 men", "00"),
        ("a redbeard", "beard"),
        ("a redbeard", "red"),
        ("a tomcat in a sunhat", "cat"),
        ("a tomcat in a sunhat", "hat"),
        ("a blond-haired person", "hair"),
        ("3.5 men", "5"),
        ("3,000 men", "000"),
        ("don't smile", "don"),
        ("o'brien", "brien"),
        ("cats", "cat"),
        ("a chat noir", "hat"),
    ],
)
def test_part_of_a_word_is_not_found_whatever_its_tokens(prompt: Read, text: str, word: str) -> None:
    with pytest.raises(InputError):
        find_word(prompt(text), word)


@pytest.mark.parametrize(
    ("text", "word", "shown"),
    [
        ("a blond-haired person", "haired", "haired"),
        ("a cat-like hat", "Cat", "cat"),
        ("the cat's hat", "cat", "cat"),
        ("blue hair, red hat", "Hair.", "hair"),
        ("blue hair, red hat", "(red  hat)", "red hat"),
        ("red/blue hat", "blue", "blue"),
        ("10 men of 100", "10", "10"),
        ("3.5 men", "3.5", "3.5"),
        ("don't smile", "DON'T", "don't"),
        ("a café", "CAFÉ", "café"),
        ("a caf\u0065\u0301", "café", "café"),
        ("hat!", "!", "!"),
    ],
)
def test_whole_words_are_found(prompt: Read, tokenizer: Tokenizer, text: str, word: str, shown: str) -> None:
    read = prompt(text)
    places = find_word(read, word)
    assert [read.ids[i] for i in places] == tokenizer.tokens(shown)
    assert list(places) == list(range(places[0], places[-1] + 1))
