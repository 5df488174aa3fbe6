"""Recipes: JSON and back, and every refusal names its field."""

import json
from typing import Any

import pytest

from limner.runtime.errors import InputError
from limner.runtime.methods.registry import find_method, method_names
from limner.runtime.recipe import PromptEdit, Recipe, Source

SEED = Source.from_seed(3)
BEARD = PromptEdit("a person with a beard")


def recipe(**changes: Any) -> Recipe:
    fields: dict[str, Any] = {"method": "global-directions", "source": SEED, "prompts": (BEARD,)}
    return Recipe(**(fields | changes))


@pytest.mark.parametrize(
    "one",
    [
        recipe(),
        recipe(
            prompts=[
                BEARD,
                PromptEdit('ünïcode 日本 "quoted"', strength=-3.5, options={"neutral": "a person", "beta": 0.1}),
            ]
        ),
        recipe(method="latent-optimization", parameters={"steps": 5, "layers": ("coarse", "fine")}),
        recipe(source=Source.from_image("a/b.png"), inversion={"refine_steps": 3}, bundle="0" * 64),
        recipe(source=Source("w_plus", "w.npy", sha256="f" * 64)),
    ],
)
def test_json_and_back_is_the_same_recipe(one: Recipe) -> None:
    assert Recipe.from_json(one.to_json()) == one
    assert Recipe.from_json(one.to_json(indent=2)).to_json() == one.to_json()
    json.loads(one.to_json())


def test_recipes_of_the_first_version_are_read() -> None:
    """Version 1 had `neutral` and `beta` beside a text; other methods had them as null."""
    old = {"method": "global-directions", "source": {"kind": "seed", "seed": 3}, "version": 1, "parameters": {}}
    text = {"text": "a beard", "strength": 2.0, "neutral": "a face", "beta": None, "options": {}}
    read = Recipe.from_dict(old | {"prompts": [text]})
    assert read == recipe(prompts=(PromptEdit("a beard", 2.0, {"neutral": "a face", "beta": None}),))
    mapped = Recipe.from_dict(old | {"method": "latent-mapper", "prompts": [text | {"neutral": None}]})
    assert mapped.to_dict()["prompts"] == [{"text": "a beard", "strength": 2.0, "options": {}}]
    with pytest.raises(InputError, match="neutral"):
        Recipe.from_dict(old | {"method": "latent-mapper", "prompts": [text]})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"method": "global-direction"}, "method"),
        ({"method": 3}, "method"),
        ({"extra": 1}, "extra"),
        ({"prompts": []}, "prompts"),
        ({"prompts": [{"text": "a"}] * 9}, "prompts"),
        ({"prompts": [{"text": " "}]}, "prompts.text"),
        ({"prompts": [{"text": "?!"}]}, "prompts.text"),
        ({"prompts": [{"text": "word " * 500}]}, "prompts.text"),
        ({"prompts": [{"text": "x" * 700}]}, "prompts.text"),
        ({"prompts": [{"text": 5}]}, "prompts[0].text"),
        ({"prompts": [{"text": "a Face", "options": {"neutral": "A  face"}}]}, "prompts.options.neutral"),
        ({"prompts": [{"text": "a face", "options": {"neutral": ""}}]}, "prompts.options.neutral"),
        ({"prompts": [{"text": "a face", "options": {"beta": 1.5}}]}, "prompts.options.beta"),
        ({"prompts": [{"text": "a face", "options": {"beta": -0.1}}]}, "prompts.options.beta"),
        ({"prompts": [{"text": "a face", "strength": 31}]}, "prompts.strength"),
        ({"prompts": [{"text": "a face", "alpha": 3}]}, "prompts[0].alpha"),
        ({"parameters": {"alfa": 3}}, "parameters.alfa"),
        ({"parameters": {"beta": 2}}, "parameters.beta"),
        ({"parameters": {"templates": ["no braces"]}}, "parameters.templates"),
        ({"inversion": {"refine_steps": 3}}, "inversion"),
        ({"source": {"kind": "seed"}}, "source.seed"),
        ({"source": {"kind": "seed", "seed": -1}}, "source.seed"),
        ({"source": {"kind": "seed", "seed": 2**32}}, "source.seed"),
        ({"source": {"kind": "seed", "seed": 1, "truncation": 1.5}}, "source.truncation"),
        ({"source": {"kind": "seed", "seed": 1, "path": "a.png"}}, "source.path"),
        ({"source": {"kind": "image", "path": "a.png", "seed": 1}}, "source.seed"),
        ({"source": {"kind": "picture", "path": "a.png"}}, "source.kind"),
        ({"source": {"kind": "image", "path": "a.png", "sha256": "abc"}}, "source.sha256"),
        ({"bundle": "abc"}, "bundle"),
        ({"version": 3}, "version"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_is_refused_is_named(change: dict[str, Any], field: str) -> None:
    data = recipe().to_dict() | change
    with pytest.raises(InputError) as caught:
        Recipe.from_dict(data)
    assert caught.value.field == field
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("prompts", "parameters", "field"),
    [
        ((BEARD, PromptEdit("a smile")), {}, "prompts"),
        ((PromptEdit("a smile", options={"neutral": "a face"}),), {"objective": "text"}, "prompts.options.neutral"),
        ((PromptEdit("a smile", options={"beta": 0.1}),), {}, "prompts.options.beta"),
        ((PromptEdit("a smile", strength=2.5),), {}, "prompts.strength"),
        ((PromptEdit("a smile", strength=-0.1),), {}, "prompts.strength"),
        ((BEARD,), {"steps": 0}, "parameters.steps"),
        ((BEARD,), {"layers": []}, "parameters.layers"),
        ((BEARD,), {"layers": ["fine", "fine"]}, "parameters.layers"),
        ((BEARD,), {"l2_weight": -1}, "parameters.l2_weight"),
        ((BEARD,), {"learning_rate": 0}, "parameters.learning_rate"),
    ],
)
def test_latent_optimization_refuses(prompts: Any, parameters: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        recipe(method="latent-optimization", prompts=prompts, parameters=parameters)
    assert caught.value.field == field


def test_an_unknown_method_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        find_method("latent-optimisation")
    message = str(caught.value)
    assert all(name in message for name in method_names())
    assert "did you mean 'latent-optimization'" in message


def test_every_method_loads_and_bears_its_own_name() -> None:
    for name in method_names():
        assert find_method(name).name == name
        assert find_method(name).summary


def test_nan_and_a_key_twice_are_refused() -> None:
    for text in (
        recipe().to_json().replace("0.7", "NaN"),
        '{"method": "a", "method": "b"}',
        "[]",
        "{",
        b"\xff",
    ):
        with pytest.raises(InputError):
            Recipe.from_json(text)
    with pytest.raises(InputError):
        PromptEdit("a face", strength=float("nan"))


def test_scaled_multiplies_every_strength() -> None:
    two = recipe(
        prompts=(
            PromptEdit("a", strength=4.0, options={"neutral": "b"}),
            PromptEdit("c", strength=-2.0, options={"neutral": "d"}),
        )
    )
    assert [prompt.strength for prompt in two.scaled(0.5).prompts] == [2.0, -1.0]
    assert [prompt.strength for prompt in two.scaled(1.5).scaled(0.7).prompts] == [4.2, -2.1]
