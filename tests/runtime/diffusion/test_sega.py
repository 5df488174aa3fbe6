"""SEGA against diffusers' SemanticStableDiffusionPipeline, and the rows that it leaves out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.deprecated.semantic_stable_diffusion.pipeline_semantic_stable_diffusion import (
    SemanticStableDiffusionPipeline,
)
from support.torch_twin import CLASSES, SD15, TinyModels, difference

from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.diffusion.sources import DiffusionStart, resolve_start
from limner.runtime.errors import InputError
from limner.runtime.guidance.concepts import Concept, SemanticGuidance, quantile
from limner.runtime.guidance.sega import edited_latents
from limner.runtime.methods.registry import loaded
from limner.runtime.methods.sega import method
from limner.runtime.recipe import PromptEdit, Recipe, Source
from limner.runtime.schema import to_dict
from limner.runtime.timing import Timer

TOLERANCE = 1e-3  # in latents after 50 steps, relative to the largest; fp32 on both sides
PROMPTS = ["a cat", "b dog in hat"]
# Seeds with two values next to a threshold that rounding can swap would move a pixel, on either side; 8 has none.
NOISE = np.random.RandomState(8).randn(2, 4, 16, 16).astype(np.float32)
CONCEPTS: list[dict[str, Any]] = [
    {"text": "red", "scale": 6.0, "threshold": 0.8, "warmup": 3, "cooldown": 20, "weight": 0.5},
    {"text": "big", "scale": 9.0, "threshold": 0.95, "warmup": 7, "cooldown": 40, "weight": 2.0, "reverse": True},
    {"text": "q", "scale": 4.0, "threshold": 0.0, "warmup": 12, "cooldown": 50, "weight": -1.0},
    {"text": "w z", "scale": 5.0, "threshold": 0.9, "warmup": 5, "cooldown": 50, "weight": 1.0},
]
CASES: dict[str, dict[str, Any]] = {
    "all arguments": {"concepts": CONCEPTS, "momentum": (0.3, 0.6)},
    "published defaults": {"concepts": [{"text": "red"}, {"text": "big", "reverse": True}], "prompts": 1},
    "no momentum": {"concepts": CONCEPTS, "momentum": (0.0, 0.6), "prompts": 1, "steps": 15},
    "one never warms up": {
        "concepts": [CONCEPTS[0] | {"cooldown": 100}, CONCEPTS[1] | {"warmup": 60, "cooldown": 70}],
        "momentum": (0.5, 0.2),
        "prompts": 1,
        "steps": 15,
    },
    "pndm": {"concepts": CONCEPTS, "sampler": "pndm", "prompts": 1, "steps": 15},
    "euler": {"concepts": CONCEPTS, "sampler": "euler", "prompts": 1, "steps": 15},
    "velocity": {"concepts": CONCEPTS, "prediction_type": "v_prediction", "prompts": 1, "steps": 15},
}


def published(tiny: TinyModels, case: dict[str, Any]) -> np.ndarray:
    """Latents of diffusers' pipeline."""
    concepts, count = case["concepts"], case.get("prompts", 2)
    config = SD15 | {"prediction_type": case.get("prediction_type", "epsilon")}
    scheduler = CLASSES[case.get("sampler", "ddim")].from_config(config)
    pipe = tiny.pipeline(SemanticStableDiffusionPipeline, scheduler)
    scale, beta = case.get("momentum", (0.1, 0.4))
    arguments: dict[str, Any] = {}
    if "threshold" in concepts[0]:
        for name, key in (("steps", "warmup"), ("steps", "cooldown")):
            arguments[f"edit_{key}_{name}"] = [concept[key] for concept in concepts]
        arguments["edit_threshold"] = [concept["threshold"] for concept in concepts]
        arguments["edit_guidance_scale"] = [concept["scale"] for concept in concepts]
        arguments["edit_weights"] = [concept["weight"] for concept in concepts]
    return np.asarray(
        pipe(
            PROMPTS[:count],
            negative_prompt=["x"] * count,
            num_inference_steps=case.get("steps", 50),
            guidance_scale=5.0,
            latents=torch.from_numpy(NOISE[:count]),
            editing_prompt=[concept["text"] for concept in concepts],
            reverse_editing_direction=[concept.get("reverse", False) for concept in concepts],
            edit_momentum_scale=scale,
            edit_mom_beta=beta,
            output_type="latent",
            **arguments,
        ).images
    )


def recipes_of(case: dict[str, Any], factor: float = 1.0) -> list[Recipe]:
    prompts = []
    for concept in case["concepts"]:
        options = {key: concept[key] for key in ("threshold", "warmup", "cooldown", "weight") if key in concept}
        if options.get("cooldown", 0) >= case.get("steps", 50):  # refused in a recipe: it never comes
            del options["cooldown"]
        strength = concept.get("scale", 5.0) * (-1.0 if concept.get("reverse") else 1.0)
        prompts.append(PromptEdit(concept["text"], strength=factor * strength, options={"warmup": 10} | options))
    scale, beta = case.get("momentum", (0.1, 0.4))
    parameters = {"steps": case.get("steps", 50), "guidance_scale": 5.0, "sampler": case.get("sampler", "ddim")}
    parameters |= {"negative_prompt": "x", "momentum_scale": scale, "momentum_beta": beta, "guidance": "semantic"}
    count = case.get("prompts", 2)
    limit = max(option.options["warmup"] for option in prompts)
    if limit >= parameters["steps"]:  # refused in a recipe; the arithmetic is compared all the same
        parameters["steps"] = limit + 1
    made = [Recipe("sega", Source.from_prompt(text, 0), tuple(prompts), parameters) for text in PROMPTS[:count]]
    for recipe in made:
        changed = replace(recipe.parameters, steps=case.get("steps", 50))
        object.__setattr__(recipe, "parameters", changed)
    return made


class FixedStart(DiffusionStart):
    """A start whose noise is given."""

    def draws(self) -> Callable[[], np.ndarray]:  # type: ignore[override]
        return lambda: NOISE[self.seed : self.seed + 1]


def starts_of(recipes: list[Recipe]) -> list[DiffusionStart]:
    return [FixedStart(recipe, recipe.source.prompt or "", row, (4, 16, 16)) for row, recipe in enumerate(recipes)]


@pytest.mark.parametrize("name", CASES)
def test_against_semantic_stable_diffusion_pipeline(tiny: TinyModels, name: str) -> None:
    case = CASES[name]
    networks = tiny.networks(case.get("prediction_type", "epsilon"))
    recipes = recipes_of(case)
    mine, masks = edited_latents(networks, starts_of(recipes), recipes, None, None)
    theirs = published(tiny, case)
    assert difference(mine, theirs) <= TOLERANCE
    for recipe, found in zip(recipes, masks, strict=True):
        assert set(found) <= {prompt.text for prompt in recipe.prompts} and found
        assert all(mask.shape == (16, 16) and 0.0 <= mask.min() <= mask.max() <= 1.0 for mask in found.values())
    plain = recipes_of(case, 0.0)
    unedited, _ = edited_latents(networks, starts_of(plain), plain, None, None)
    assert np.abs(mine - unedited).max() > 0.05  # the concepts do something


def test_a_gap_without_active_concepts_gives_no_nan(tiny: TinyModels) -> None:
    """One concept has cooled down while the other still warms up: diffusers divides 0 by 0 there."""
    concepts = [CONCEPTS[0] | {"warmup": 1, "cooldown": 3}, CONCEPTS[1] | {"warmup": 6, "cooldown": 9}]
    case = {"concepts": concepts, "prompts": 1, "steps": 10}
    recipes = recipes_of(case)
    mine, _ = edited_latents(tiny.networks(), starts_of(recipes), recipes, None, None)
    assert np.isfinite(mine).all()
    assert np.isnan(published(tiny, case)).all()


def test_guidance_against_float64() -> None:
    """The update written out from the paper's equations, with momentum, warm-up, cool-down and negative weights."""
    random = np.random.RandomState(0)
    concepts = [Concept(3.0, 0.7, 2, 6, 0.5), Concept(-4.0, 0.4, 4, None, 1.5), Concept(2.0, 0.9, 0, 3, -1.0)]
    guidance = SemanticGuidance(concepts, 8, 0.2, 0.3)
    momentum = np.zeros((1, 4, 6, 6))
    for index in range(8):
        uncond, *estimates = random.randn(4, 1, 4, 6, 6)
        psis, gains = [], []
        for concept, estimate in zip(concepts, estimates, strict=True):
            psi = concept.scale * (estimate - uncond)
            limit = np.quantile(np.abs(psi).reshape(1, 4, -1), concept.threshold, axis=2)[..., None, None]
            off = concept.cooldown is not None and index >= concept.cooldown
            psis.append(np.where((np.abs(psi) >= limit) & (not off), psi, 0.0))
            gains.append(0.0 if off else max(concept.weight, 0.0))
        total = sum(g * p for g, p in zip(gains, psis, strict=True)) + 0.2 * momentum
        momentum = 0.3 * momentum + 0.7 * total
        warm = [c for c, concept in enumerate(concepts) if index >= concept.warmup]
        expected = np.zeros_like(uncond)
        if len(warm) == 3:
            expected = total
        elif sum(gains[c] for c in warm) > 0:
            expected = sum(gains[c] * psis[c] for c in warm) / sum(gains[c] for c in warm)
        given = {c: estimates[c].astype(np.float32) for c in guidance.needed(index)}
        found = guidance(index, uncond.astype(np.float32), given)
        np.testing.assert_allclose(0.0 if found is None else found, expected, atol=1e-5)


def test_rows_that_cannot_matter_are_left_out(tiny: TinyModels) -> None:
    case = {"concepts": CONCEPTS, "prompts": 1, "steps": 45, "momentum": (0.0, 0.4)}
    recipes = recipes_of(case)
    networks = tiny.networks()
    edited_latents(networks, starts_of(recipes), recipes, None, None)
    rows = networks.graphs.rows  # type: ignore[attr-defined]
    # 2 rows without and with text; "red" from 3 to 20, "big" from 7 to 40, "q" has no weight, "w z" from 5 on.
    assert rows == [2 + (3 <= i < 20) + (7 <= i < 40) + (i >= 5) for i in range(45)]


@pytest.mark.parametrize("momentum", [(0.0, 0.4), (0.3, 0.4), (0.3, 1.0)])
def test_leaving_rows_out_changes_nothing(momentum: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    def run(everything: bool) -> list[np.ndarray]:
        random = np.random.RandomState(1)
        concepts = [Concept(3.0, 0.7, 2, 6, 0.5), Concept(-4.0, 0.4, 4), Concept(0.0), Concept(1.0, weight=-2.0)]
        guidance = SemanticGuidance([*concepts, Concept(2.0, 0.5, 3, 5)], 9, *momentum)
        found = []
        for index in range(9):
            uncond, *estimates = random.randn(6, 1, 4, 5, 5).astype(np.float32)
            wanted = range(5) if everything else guidance.needed(index)
            added = guidance(index, uncond, {c: estimates[c] for c in wanted})
            found.append(np.zeros_like(uncond) if added is None else added)
        return found

    plain = SemanticGuidance._term
    monkeypatch.setattr(  # a concept past its cool-down has no term, whoever computes its row
        SemanticGuidance,
        "_term",
        lambda self, c, uncond, e: plain(self, c, uncond, e) * (0.0 if self.concepts[c].cooled(self.step) else 1.0),
    )
    call = SemanticGuidance.__call__

    def counted(self: SemanticGuidance, index: int, *rest: Any) -> Any:
        self.step = index  # type: ignore[attr-defined]
        return call(self, index, *rest)

    monkeypatch.setattr(SemanticGuidance, "__call__", counted)
    for one, other in zip(run(True), run(False), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_quantile_is_that_of_torch() -> None:
    values = np.abs(np.random.RandomState(2).randn(2, 4, 255)).astype(np.float32)
    for q in (0.0, 0.1, 0.5, 0.8, 0.9, 0.975, 1.0, 203 / 254):
        expected = torch.quantile(torch.from_numpy(values), q, dim=2).numpy()
        np.testing.assert_array_equal(quantile(values, q), expected)


def test_run_fills_the_recipe_in_and_renders_other_strengths(tiny: TinyModels) -> None:
    networks = tiny.networks()
    prompts = (PromptEdit("red"), PromptEdit("big", strength=-3.0))
    recipe = Recipe("sega", Source.from_prompt("a cat", 3), prompts, {"steps": 12, "guidance_scale": 5.0})
    outcome = run(networks, recipe)
    assert [prompt.strength for prompt in outcome.recipe.prompts] == [5.0, -3.0]
    filled = {"threshold": 0.9, "warmup": 2, "cooldown": None, "weight": 1.0, "away": False}
    filled |= {"mask_add": None, "mask_remove": None}
    assert to_dict(outcome.recipe.prompts[0].options) == filled
    assert outcome.recipe.parameters.guidance == "semantic"
    image = outcome.render(outcome.recipe)
    assert image.shape == (1, 3, 32, 32)
    np.testing.assert_array_equal(run(networks, outcome.recipe).render(outcome.recipe), image)
    weaker = outcome.recipe.scaled(0.5)
    np.testing.assert_allclose(outcome.render(weaker), run(networks, weaker).render(weaker), atol=1e-6)


def run(networks: DiffusionNetworks, recipe: Recipe) -> Any:
    start = resolve_start(networks, recipe, None, (None, None))
    return loaded(method.run)(networks, [start], [recipe], Timer(), None)[0]


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("parameters.guidance_scale", {"parameters": {"guidance_scale": 1.0}}),
        ("parameters.steps", {"parameters": {"steps": 0}}),
        ("parameters.momentum_beta", {"parameters": {"momentum_beta": 1.5}}),
        ("parameters.masks", {"parameters": {"masks": "both"}}),
        ("prompts.text", {"prompts": (PromptEdit("Red hair"), PromptEdit(" red  hair", strength=-5.0))}),
        ("prompts.options.threshold", {"prompts": (PromptEdit("red", options={"threshold": 1.5}),)}),
        ("prompts.options.warmup", {"prompts": (PromptEdit("red", options={"warmup": 50}),)}),
        ("prompts.options.cooldown", {"prompts": (PromptEdit("red", options={"warmup": 9, "cooldown": 9}),)}),
        ("prompts.options.weight", {"prompts": (PromptEdit("red", options={"weight": 0.0}),)}),
        ("prompts.options.warmups", {"prompts": (PromptEdit("red", options={"warmups": 1}),)}),
        ("prompts.options.beta", {"prompts": (PromptEdit("red", options={"beta": 0.1}),)}),
        ("source.kind", {"source": Source.from_seed(1)}),
        ("source.prompt", {"source": Source.from_prompt("a cat", 1), "method": "global-directions"}),
        ("inversion", {"inversion": {"skip": 0.2}}),
        ("inversion.skip", {"source": Source.from_image("x.png"), "inversion": {"skip": 0.95}}),
        ("inversion.kind", {"source": Source.from_image("x.png"), "inversion": {"kind": "direct"}}),
        ("inversion.kind", {"source": Source.from_image("x.png"), "inversion": {"kind": "null-text"}}),
    ],
)
def test_bad_values_are_named(field: str, changes: dict[str, Any]) -> None:
    given: dict[str, Any] = {"method": "sega", "source": Source.from_prompt("a cat", 0)}
    given |= {"prompts": (PromptEdit("red"),)} | changes
    with pytest.raises(InputError) as error:
        Recipe(**given)
    assert error.value.field.startswith(field.partition(".")[0]) and error.value.exit_code == 2
    if given["method"] == "sega":
        assert error.value.field == field
