"""Settings that cannot act are refused where they were given, and are not in the recipe that comes back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.toy_bundle import ToyWeights, toy_fixture  # noqa: F401

from limner.runtime.bundle.loading import Bundle
from limner.runtime.editor import Editor
from limner.runtime.errors import InputError
from limner.runtime.pictures.images import write_png_atomically
from limner.runtime.recipe import PromptEdit, Recipe, Source
from limner.runtime.schema import to_dict

Toy = tuple[Bundle, ToyWeights]
BEARD = PromptEdit("a person with a beard")
SEED = Source.from_seed(3)


def directions(prompt: PromptEdit = BEARD, **parameters: Any) -> Recipe:
    return Recipe("global-directions", SEED, (prompt,), parameters)


def optimization(prompt: PromptEdit = BEARD, **parameters: Any) -> Recipe:
    return Recipe("latent-optimization", SEED, (prompt,), {"steps": 3} | parameters)


@pytest.mark.parametrize(
    ("recipe", "field", "reason"),
    [
        (directions(replace(BEARD, strength=2.0), alpha=3.0), "parameters.alpha", "the strength of each text"),
        (directions(replace(BEARD, options={"beta": 0.1}), beta=0.1), "parameters.beta", "the beta of each text"),
        (directions(replace(BEARD, options={"beta": 0.1}), channels=5), "parameters.channels", "the beta of each text"),
        (directions(channels=5, beta=0.2), "parameters.beta", "channels, which is 5"),
        (optimization(replace(BEARD, strength=0.5), strength=1.0), "parameters.strength", "the strength of the text"),
        (optimization(min_improvement=0.1), "parameters.min_improvement", "patience, which is 0"),
        (optimization(direction_scale=2.0), "parameters.direction_scale", "objective, which is 'text'"),
        (optimization(space="s", start=2.0), "parameters.start", "objective, which is 'text'"),
        (optimization(objective="direction", relevance=0.1), "parameters.relevance", "space, which is 'w_plus'"),
        (optimization(objective="direction", space="s", start_beta=0.1), "parameters.start_beta", "start, which is 0"),
    ],
)
def test_is_refused(toy: Toy, recipe: Recipe, field: str, reason: str) -> None:
    with pytest.raises(InputError, match="it would change nothing") as caught:
        Editor(toy[0], threads=1).edit(recipe)
    assert caught.value.field == field and reason in caught.value.allowed


def test_is_no_part_of_the_recipe_that_comes_back_which_replays(toy: Toy) -> None:
    editor = Editor(toy[0], threads=1)
    for recipe, kept in (
        (directions(alpha=2.0), {"templates"}),
        (directions(channels=4), {"templates", "channels"}),
        (optimization(), {"steps", "learning_rate", "space", "patience", "layers", "keep_every"}),
    ):
        edit = editor.edit(recipe)
        said = set(to_dict(edit.recipe.parameters))
        assert kept <= said
        assert not {"alpha", "beta", "strength", "min_improvement", "start"} & said
        again = editor.edit(edit.recipe)
        assert again.recipe == edit.recipe
        np.testing.assert_array_equal(again.image, edit.image)


def test_settings_of_a_refinement_that_does_not_run(toy: Toy, tmp_path: Path) -> None:
    editor = Editor(toy[0], threads=1)
    picture = write_png_atomically(tmp_path / "a.png", editor.sample(4).image)
    recipe = Recipe("global-directions", Source.from_image(picture), (BEARD,), inversion={"learning_rate": 0.1})
    with pytest.raises(InputError, match=r"inversion\.learning_rate: got 0\.1; allowed: nothing beside refine_steps"):
        editor.edit(recipe)
    assert to_dict(editor.edit(replace(recipe, inversion={})).recipe.inversion) == {
        "refine_steps": 0, "feature_steps": 0}  # fmt: skip
    refined = editor.edit(replace(recipe, inversion={"refine_steps": 2, "learning_rate": 0.1})).recipe.inversion
    assert refined.learning_rate == 0.1 and len(to_dict(refined)) == 9
    with pytest.raises(InputError, match=r"inversion\.feature_fade: got 0\.1; allowed: nothing beside feature_steps"):
        editor.edit(replace(recipe, inversion={"refine_steps": 2, "feature_steps": 0, "feature_fade": 0.1}))


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"seed": 9}, "seed", "it is for prompt-to-prompt, sega with a picture file"),
        ({"prompts": (replace(BEARD, options={"weights": {"a": 2}}),)}, "prompts.options.weights", "prompt-to-"),
        (
            {"method": "latent-mapper", "prompts": (replace(BEARD, options={"beta": 0.1}),)},
            "prompts.options.beta",
            "global-directions has",
        ),
        (
            {"method": "latent-mapper", "prompts": (replace(BEARD, options={"neutral": "a person"}),)},
            "prompts.options.neutral",
            "global-directions, latent-optimization have it",
        ),
        ({"method": "sega"}, "source.kind", "--source-prompt TEXT"),
        ({"source": Source.from_prompt("a person", 3)}, "source.kind", "prompt-to-prompt, sega"),
        ({"source": Source.from_image("a.png", "a person")}, "source.prompt", "prompt-to-prompt, sega take one"),
    ],
)
def test_what_a_method_has_no_use_for_names_those_that_have(changes: dict[str, Any], field: str, words: str) -> None:
    values: dict[str, Any] = {"method": "global-directions", "source": SEED, "prompts": (BEARD,)} | changes
    with pytest.raises(InputError) as caught:
        Recipe(**values)
    assert caught.value.field == field and words in str(caught.value)


def test_truncation_belongs_to_a_seed() -> None:
    with pytest.raises(InputError, match=r"source\.truncation: got 0\.5 for a source of kind 'image'"):
        Source("image", path="a.png", truncation=0.5)


@pytest.mark.parametrize(
    "text",
    ["a (red:1.3) hat", "(red hat:.5)", "a person, (beard : 2)", "[red:blue:0.4] hat", "[red:0.4]", "<lora:x:0.8> hat"],
)
def test_weights_of_other_programs_in_a_text_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"prompts\.text: got '.*' at character \d+ of .*; allowed: words alone; "):
        PromptEdit(text)


@pytest.mark.parametrize(
    "text", ["a person (smiling)", "a clock (10:30)", "a hat: red", "[red] hat", "a ratio of 16:9"]
)
def test_brackets_and_colons_alone_are_no_weights(text: str) -> None:
    PromptEdit(text)
