"""--word and --blend: from the command line to the options of an edit."""

from collections.abc import Callable
from typing import Any

import pytest

from limner.runtime.errors import InputError
from limner.runtime.methods.prompt_to_prompt import EditOptions
from limner.runtime.schema import from_dict
from limner.runtime.wording.words import word_options


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["red=2"], {"weights": {"red": 2.0}}),
        (["red=-1.5", "hat = 5e-1"], {"weights": {"red": -1.5, "hat": 0.5}}),
        (["red hair:weight=+3"], {"weights": {"red hair": 3.0}}),
        (["hair#2:weight=2, window=0.1-0.6"], {"weights": {"hair#2": 2.0}, "word_windows": {"hair#2": [0.1, 0.6]}}),
        (["hat:window=0.4"], {"word_windows": {"hat": 0.4}}),
        ([], {}),
    ],
)
def test_words(words: list[str], options: dict[str, Any]) -> None:
    found = word_options(words, None, None, None)
    assert found == options
    from_dict(EditOptions, found, "prompts.options")


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("red", "the end at character 4"),
        ("=2", "'=2' at character 1"),
        ("!=2", "'!=2' at character 1"),
        ("red=much", "'much' at character 5"),
        ("red=2=3", "'=3' at character 6"),
        ("red=1,5", "',5' at character 6"),
        ("red=nan", "'nan' at character 5"),
        ("red=1e999", "'1e999' at character 5"),
        ("red=", "the end at character 5"),
        ("red:1.3", "'1.3' at character 5"),
        ("red:weight", "'weight' at character 5"),
        ("red:weight=x", "'x' at character 12"),
        ("red:weight=1;window=0.5", "';window=0.5' at character 13"),
        ("red:weight=1,weight=2", "'weight=2' at character 14"),
        ("red:Weight=2", "'Weight=2' at character 5"),
        ("red:size=2", "'size=2' at character 5"),
        ("red:window=0.1-0.6-0.8", "'0.1-0.6-0.8' at character 12"),
    ],
)
def test_words_that_are_refused(word: str, shown: str) -> None:
    with pytest.raises(InputError) as caught:
        word_options([word], None, None, None)
    assert caught.value.field == "word" and shown in str(caught.value.given)


def test_colon_of_a_word_itself() -> None:
    assert word_options([r"10\:30=2"], None, None, None) == {"weights": {"10:30": 2.0}}


def test_word_twice() -> None:
    with pytest.raises(InputError, match="'red' twice"):
        word_options(["red=2", "red:weight=3"], None, None, None)


def test_blend_and_kind() -> None:
    found = word_options(None, ["cat:dog", "hat"], ["tree"], "refine")
    assert found == {"blend": ["cat:dog", "hat"], "subtract": ["tree"], "kind": "refine"}


SEED = ("edit", "seed:7", "--source-prompt", "a person with red hair")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--prompt", "a person with blue hair", "--set", "guidance_scale=1"), "parameters.guidance_scale: got 1 "),
        (("--prompt", "a person with blue hair", "--set", "cross_replace=1.5"), "parameters.cross_replace: got 1.5"),
        (("--prompt", "a person with blue hair", "--word", "blue:window=0.5-0.2"), "word_windows.blue: got (0.5, 0.2)"),
        (
            ("--prompt", "a person with blue hair", "--word", "blue"),
            "word: got the end at character 5 of 'blue'; allowed: WORD=WEIGHT",
        ),
        (("--prompt", "a person with blue hair", "--kind", "swap"), "prompts.options.kind: got 'swap'"),
        (("--prompt", "a person with blue hair", "--set", "steps=0"), "parameters.steps: got 0"),
        (("--word", "red=2", "--subtract", "hair"), "prompts.options.subtract: got ['hair']"),
        (("--concept", "+hat", "--blend", "hair"), "blend: got --blend with the method 'sega'"),
        (("--concept", "+hat", "--word", "hat=2"), "word: got --word with"),
    ],
)
def test_bad_input_is_one_sentence(limner: Callable[..., Any], arguments: tuple[str, ...], words: str) -> None:
    ran = limner(*SEED, *arguments)
    assert ran.code == 2 and ran.out == ""
    assert words in ran.err and ran.err.count("\n") == 1


def test_picture_needs_its_prompt(limner: Callable[..., Any]) -> None:
    ran = limner("edit", "photo.png", "-m", "prompt-to-prompt", "--prompt", "a person with a hat")
    assert ran.code == 2 and "source.prompt: got nothing" in ran.err and "--source-prompt" in ran.err
