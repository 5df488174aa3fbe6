"""Captions: what they claim is true, they are seeded, they have words for everything, their English stands."""

from __future__ import annotations

import re

import numpy as np
import pytest

from limner.runtime.errors import InputError
from limner.training.avatars import captions as table
from limner.training.avatars.attributes import AVATAAARS, sample_in_split
from limner.training.avatars.captions import caption, captions, counterfactual, prompt_for

VALUES = {name: AVATAAARS.attribute_values(name) for name, _ in AVATAAARS.attributes}


def words(index: int) -> dict[str, str]:
    return sample_in_split(AVATAAARS, "train", index).attributes(AVATAAARS)


def test_a_caption_is_true_of_its_picture_and_seeded() -> None:
    for i in range(200):
        first = caption(words(i), np.random.default_rng(i))
        assert first.agrees(words(i))
        assert first == caption(words(i), np.random.default_rng(i))
        assert all(value != "hidden" for _, value in first.mentions)


def test_asked_attributes_are_mentioned() -> None:
    given = {**words(3), "hair": "short", "hair_color": "red"}
    found = caption(given, np.random.default_rng(0), ("hair", "hair_color"))
    assert found.mentions == (("hair", "short"), ("hair_color", "red"))
    assert re.search(r"(red|ginger|orange) hair", found.text) or "haircut" in found.text
    with pytest.raises(InputError, match="eyewear"):
        caption(given, np.random.default_rng(0), ("eyewaer",))


def test_every_value_has_words_and_a_prompt() -> None:
    rng = np.random.default_rng(0)
    for name, values in VALUES.items():
        for value in values:
            if value == "hidden":
                continue
            assert caption({name: value}, rng, (name,)).mentions == ((name, value),)
            assert prompt_for(name, value)
    assert prompt_for("facial_hair", "beard") == "a person with a beard"
    with pytest.raises(InputError, match="did you mean 'hair'"):
        prompt_for("hairr", "bald")
    with pytest.raises(InputError, match="allowed"):
        prompt_for("hair_color", "hidden")


def test_prompts_cover_exactly_the_style() -> None:
    for name, values in VALUES.items():
        assert set(table.PROMPTS[name]) == set(values) - {"hidden"}


def test_templates_and_synonyms_vary() -> None:
    rng = np.random.default_rng(1)
    texts = {c.text for c in captions(words(0), rng, 100)}
    assert len(texts) > 80
    beards = {caption({"facial_hair": "none"}, rng, ("facial_hair",)).text for _ in range(200)}
    assert any("clean" in t for t in beards) and any("no beard" in t for t in beards)


def test_english_stands() -> None:
    rng = np.random.default_rng(2)
    for i in range(400):
        text = caption(words(i), rng).text
        assert "{" not in text and "  " not in text and text == text.strip() and text
        assert not re.search(r"\ba [aeiou]\w", text.replace("a u", "")), text
        assert not re.search(r"\ban [^aeiou ]", text), text
        assert " ," not in text and not text.endswith(","), text


def test_counterfactual_changes_one_attribute() -> None:
    rng = np.random.default_rng(3)
    for i in range(50):
        before = words(i)
        after = counterfactual(before, VALUES, rng)
        assert sum(before[n] != after[n] for n in before) == 1


def test_mention_counts_are_shares() -> None:
    assert abs(sum(table.MENTION_COUNTS) - 1) < 1e-9
    assert abs(sum(weight for _, weight in table.SHAPES) - 1) < 1e-9
