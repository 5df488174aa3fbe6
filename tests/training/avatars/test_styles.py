"""Every style of the data: drawn as its table says, with words for each value, and usable by all that reads styles."""

from __future__ import annotations

import json
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest

from limner.training.avatars.attributes import STYLES, Avatar, code_size, option_code, sample_in_split
from limner.training.avatars.captions import ATTRIBUTES, caption, prompt_for
from limner.training.avatars.dataset import AvatarsConfig, AvatarsDataset
from limner.training.avatars.identities import near_identity, same_identity
from limner.training.avatars.render import dicebear_options, render
from limner.training.avatars.style_spec import StyleSpec
from limner.training.families.stylegan2.mapping import Coupling

every_style = pytest.mark.parametrize("style", STYLES.values(), ids=list(STYLES))


def definition(style: StyleSpec) -> dict[str, dict[str, object]]:
    path = distribution("dicebear-styles").locate_file(f"dicebear_styles/{style.name}.json")
    found: dict[str, dict[str, object]] = json.loads(Path(str(path)).read_text(encoding="utf-8"))
    return found


@every_style
def test_the_table_names_what_the_drawing_has(style: StyleSpec) -> None:
    drawing = definition(style)
    for name, component in style.components:
        variants = drawing["components"][component]["variants"]  # type: ignore[index]
        assert set(style.option(name).values) - {"none"} <= set(variants)
    for _, targets in style.colors:
        known = {f"{color}Color" for color in drawing["colors"]} | {"backgroundColor"}
        assert set(targets) <= known
    licence = drawing["meta"]["license"]["name"]  # type: ignore[index]
    assert style.licence.lower() in (licence.lower(), "free for personal and commercial use")


@every_style
def test_every_choice_changes_the_picture(style: StyleSpec) -> None:
    """From a picture whose hair shows its colour, each other choice of each option is another picture."""
    avatar = next(a for a in (sample_in_split(style, "train", i) for i in range(50))
                  if a.attributes(style)["hair"] == "short")  # fmt: skip
    drawn = render(style, avatar, 64).astype(int)
    for i, option in enumerate(style.options):
        if option.name == "hat_color":
            continue
        for k in range(len(option.choices)):
            if k != avatar.options[i]:
                moved = Avatar((*avatar.options[:i], k, *avatar.options[i + 1 :]), avatar.pose)
                assert np.abs(render(style, moved, 64).astype(int) - drawn).max() > 8, (option.name, option.values[k])


@every_style
def test_every_value_has_words(style: StyleSpec) -> None:
    rng = np.random.default_rng(0)
    for name, _ in style.attributes:
        assert name in ATTRIBUTES
        for value in style.attribute_values(name):
            if value != "hidden":
                assert prompt_for(name, value)
    for i in range(40):
        words = sample_in_split(style, "train", i).attributes(style)
        assert caption(words, rng).agrees(words)


@every_style
def test_identities_codes_and_coupling(style: StyleSpec) -> None:
    rng = np.random.default_rng(1)
    for i in range(20):
        avatar = sample_in_split(style, "test", i)
        assert same_identity(style, avatar, rng, 0.0).identity(style) == avatar.identity(style)
        assert near_identity(style, avatar, rng, 0.0).identity(style) != avatar.identity(style)
    code = option_code(style, np.array([avatar.options]), np.array([avatar.pose]))
    assert code.shape == (1, code_size(style))
    assert set(np.unique(code[0, : -len(avatar.pose)])) == {0.0, 1.0}
    coupling = Coupling(style, 64, 0)
    assert coupling is not None


@pytest.mark.parametrize("name", ["personas", "micah"])
def test_a_style_is_a_switch_of_the_data(name: str, tmp_path: Path) -> None:
    data = AvatarsDataset(AvatarsConfig(style=name, size=32, train=4, validation=2, test=2), "test", tmp_path)
    assert len(data) == 2
    avatar = sample_in_split(STYLES[name], "test", 1)
    assert data.avatar(1).options == avatar.options
    assert np.array_equal(data.images[1], render(STYLES[name], data.avatar(1), 32))


def test_the_first_style_draws_as_it_did() -> None:
    """The options given to DiceBear for one avatar: caches and weights were made from these."""
    style = STYLES["avataaars"]
    found = dicebear_options(style, sample_in_split(style, "train", 0), 128)
    assert found["topProbability"] in (0, 100)
    assert {"hairColor", "facialHairColor", "hatColor", "skinColor", "clothesColor", "backgroundColor"} <= set(found)
    assert found["hairColor"] == found["facialHairColor"]
    assert found["accessoriesColor"] == "262e33"
    assert "clothesProbability" not in found
