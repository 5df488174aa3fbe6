"""Held-out avatars as data: their descriptions, the words of every edit, and the folder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from limner.runtime.bundle.loading import Bundle, load_bundle
from limner.runtime.bundle.shipped import shipped_bundle
from limner.runtime.errors import InputError
from limner.runtime.study.recipes import recipe_of
from limner.runtime.study.samples import Sample, load_samples
from limner.training.avatars.attributes import AVATAAARS, sample_in_split, split_of
from limner.training.avatars.descriptions import blend_word, concepts, describe
from limner.training.avatars.edits import EDITS
from limner.training.avatars.held_out import FIRST_SEED, asked_of, has_room, held_out_words, write_samples

WORDS = {
    "hair": "short",
    "hair_color": "red",
    "facial_hair": "beard",
    "eyewear": "glasses",
    "expression": "smiling",
    "skin": "pale",
    "clothes": "hoodie",
    "clothes_color": "blue",
    "background": "green",
}
BY_NAME = {edit.name: edit for edit in EDITS}
METHODS = ("prompt-to-prompt", "prompt-to-prompt-local", "sega")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(shipped_bundle("diffusion"))


def sample_of(words: dict[str, str]) -> Sample:
    edits = {edit.name: asked_of(edit, words) for edit in EDITS if has_room(edit, words)}
    return Sample(0, "0.png", "0" * 64, 3, words, describe(words), edits)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {},
            "a smiling person with pale skin, short red hair, a beard and glasses, wearing a blue hoodie, "
            "green background",
        ),
        (
            {"expression": "angry", "facial_hair": "none", "clothes": "overalls"},
            "an angry person with pale skin, short red hair, no beard and glasses, wearing blue overalls, "
            "green background",
        ),
        (
            {"expression": "neutral", "facial_hair": "none", "eyewear": "none", "hair": "bald", "hair_color": "hidden"},
            "a neutral person with pale skin, no hair, no beard and no glasses, wearing a blue hoodie, "
            "green background",
        ),
        (
            {"hair": "bob", "eyewear": "none"},
            "a smiling person with pale skin, a red bob, a beard and no glasses, wearing a blue hoodie, "
            "green background",
        ),
    ],
)
def test_descriptions(change: dict[str, str], sentence: str) -> None:
    assert describe(WORDS | change) == sentence


def test_what_an_edit_adds_is_not_denied_before(bundle: Bundle) -> None:
    bare = WORDS | {"facial_hair": "none", "eyewear": "none", "expression": "neutral"}
    rest = ", wearing a blue hoodie, green background"
    assert describe(bare, "facial_hair") == f"a neutral person with pale skin, short red hair and no glasses{rest}"
    assert describe(bare, "eyewear") == f"a neutral person with pale skin, short red hair and no beard{rest}"
    assert describe(bare, "expression") == f"a person with pale skin, short red hair, no beard and no glasses{rest}"
    assert describe(WORDS, "eyewear") == describe(WORDS)
    for method, said in (("sega", False), ("prompt-to-prompt", True)):
        found = recipe_of(bundle, method, BY_NAME["beard"], sample_of(bare), None, {})
        assert ("no beard" in str(found.source.prompt)) == said


def test_concepts_of_something_new_and_of_something_in_its_place() -> None:
    assert concepts(BY_NAME["beard"], WORDS | {"facial_hair": "none"}) == ("a beard",)
    assert concepts(BY_NAME["sunglasses"], WORDS) == ("sunglasses", "-glasses")
    assert concepts(BY_NAME["bald"], WORDS) == ("a bald head", "-short hair")


@pytest.mark.parametrize("hair", ["short", "bob", "bun", "hat", "curly"])
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)
def test_every_edit_has_words_in_both_descriptions(edit: Any, hair: str, bundle: Bundle) -> None:
    for rest in ({"facial_hair": "none", "eyewear": "none", "expression": "neutral"}, {"eyewear": "sunglasses"}):
        before = WORDS | {"hair": hair, "hair_color": "hidden" if hair == "hat" else "black"} | rest
        if not has_room(edit, before):
            continue
        source, target = describe(before), describe(before | {edit.attribute: edit.value})
        assert source != target
        left, right = blend_word(edit, before).split(":")
        assert left in source.split(" ") or f"{left}," in source.split(" ")
        assert right in target.split(" ") or f"{right}," in target.split(" ")
        for method in METHODS:
            wanted = describe(before, edit.attribute) if method == "sega" else source
            assert recipe_of(bundle, method, edit, sample_of(before), None, {}).source.prompt == wanted


def test_the_folder(tmp_path: Path) -> None:
    """Pictures of held-out identities with the renderer's record; the same again for the same arguments."""
    found = load_samples(write_samples(tmp_path / "a", "validation", 4, 32))
    again = load_samples(write_samples(tmp_path / "b", "validation", 4, 32))
    assert again.digest == found.digest and found.file.name == "avatars/validation"
    for sample in found:
        avatar = sample_in_split(AVATAAARS, "validation", sample.index, 0)
        assert split_of(avatar.identity(AVATAAARS)) == "validation"
        assert sample.words == avatar.attributes(AVATAAARS) == held_out_words("validation", sample.index)
        assert sample.seed == FIRST_SEED["validation"] + sample.index and found.picture(sample).is_file()
        assert set(sample.edits) == {edit.name for edit in EDITS if has_room(edit, sample.words)}
    hat = WORDS | {"hair": "hat", "hair_color": "hidden"}
    assert not has_room(BY_NAME["blonde"], hat) and has_room(BY_NAME["bald"], hat)
    with pytest.raises(InputError, match="validation"):
        write_samples(tmp_path / "c", "train", 1)
    with pytest.raises(InputError, match="already"):
        write_samples(tmp_path / "a", "test", 1)


def test_own_settings_of_an_edit_are_for_a_part_of_the_pictures(bundle: Bundle) -> None:
    sample = sample_of(WORDS)
    for picture, scale in ((None, 5.0), ("x.png", 3.0)):
        found = recipe_of(bundle, "sega", BY_NAME["sunglasses"], sample, picture, {})
        assert [(one.text, one.strength, one.options.away) for one in found.prompts] == [
            ("sunglasses", scale, False), ("glasses", scale, True)]  # fmt: skip
    for edit, picture in ((BY_NAME["blonde"], None), (BY_NAME["blue background"], "x.png")):  # no scale
        scales = [one.strength for one in recipe_of(bundle, "sega", edit, sample, picture, {}).prompts]
        assert scales == [None] * len(scales) and scales
    other = replace(BY_NAME["sunglasses"], own={})
    assert recipe_of(bundle, "sega", other, sample, None, {}).prompts[0].strength is None
