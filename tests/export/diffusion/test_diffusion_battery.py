"""The words of the battery of diffusion edits."""

import pytest

from limner.export.battery import EDITS
from limner.export.diffusion.battery import _settings, concepts, describe
from limner.runtime.errors import InputError
from limner.runtime.recipe import PromptEdit

WORDS = {
    "hair": "short",
    "hair_color": "red",
    "facial_hair": "beard",
    "eyewear": "glasses",
    "expression": "smiling",
    "clothes_color": "blue",
    "background": "green",
}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, "a smiling person with short red hair, a beard and glasses, wearing blue clothes, green background"),
        (
            {"expression": "angry", "facial_hair": "none"},
            "an angry person with short red hair and glasses, wearing blue clothes, green background",
        ),
        (
            {"expression": "neutral", "facial_hair": "none", "eyewear": "none", "hair": "bald", "hair_color": "hidden"},
            "a person with no hair, wearing blue clothes, green background",
        ),
        (
            {"hair": "bob", "eyewear": "none"},
            "a smiling person with a red bob and a beard, wearing blue clothes, green background",
        ),
    ],
)
def test_descriptions(change: dict[str, str], sentence: str) -> None:
    assert describe(WORDS | change) == sentence


def test_every_edit_changes_the_description_and_has_concepts() -> None:
    for edit in EDITS:
        before = WORDS | ({"hair_color": "black"} if edit.name == "red hair" else {})
        before |= {"eyewear": "none"} if edit.name == "glasses" else {}
        before |= {"facial_hair": "none"} if edit.name == "beard" else {}
        before |= {"expression": "neutral"} if edit.name == "smiling" else {}
        assert describe(before | {edit.attribute: edit.value}) != describe(before), edit.name
        assert all(prompt.text for prompt in concepts(edit, before, None))
    swap = next(edit for edit in EDITS if edit.name == "sunglasses")
    assert concepts(swap, WORDS, 7.0) == (
        PromptEdit("sunglasses", strength=7.0),
        PromptEdit("glasses", strength=-7.0),
    )


def test_settings() -> None:
    assert _settings(["sega.steps=30", "prompt-to-prompt.sampler=ddim"]) == {
        "sega": {"steps": 30},
        "prompt-to-prompt": {"sampler": "ddim"},
    }
    with pytest.raises(InputError) as error:
        _settings(["steps=30"])
    assert error.value.field == "set"
