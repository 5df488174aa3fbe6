"""Words are found where they stand, whatever stands around them."""

from collections.abc import Callable

import pytest

from limner.runtime.attention.words import Prompt, find_word, read_prompt
from limner.runtime.errors import InputError
from limner.runtime.tokenizer import Tokenizer

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


def test_too_long_a_prompt_names_the_words_that_fall_off(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="these words fall off: 'a beard'"):
        read_prompt(tokenizer, " ".join(["red"] * 75) + " a beard", "prompts.text")
