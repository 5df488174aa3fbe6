"""The method: recipes to pictures, edits that share their source, pictures inverted four ways, and what is refused."""

import re
from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from support.attention_twin import Twin, text_table, tiny_unet

from limner.runtime.attention.keep import feathered
from limner.runtime.bundle.manifest import DiffusionMeta
from limner.runtime.completing import idle_settings, refuse_idle
from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.diffusion.samplers.schedule import SchedulerConfig
from limner.runtime.diffusion.sources import resolve_start
from limner.runtime.errors import InputError
from limner.runtime.guidance.masks import enlarged
from limner.runtime.methods.registry import find_method, loaded
from limner.runtime.outcome import Outcome
from limner.runtime.recipe import PromptEdit, Recipe, Source
from limner.runtime.text.tokenizer import Tokenizer
from limner.runtime.timing import Timer

STEPS = 6
TEXT = "a person with red hair"
PICTURE = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


@pytest.fixture(scope="module")
def networks(tokenizer: Tokenizer) -> DiffusionNetworks:
    twin = Twin(tiny_unet(), text_table(1097))
    meta = DiffusionMeta(0.5, "epsilon", 4, 8)
    config = SchedulerConfig.from_dict(SCHEDULE | {"_class_name": "DDIMScheduler", "set_alpha_to_one": False})
    return DiffusionNetworks(twin, meta, tokenizer, config)


def recipe(text: str = "a person with blue hair", **changes: Any) -> Recipe:
    options = changes.pop("options", {})
    parameters = {"steps": STEPS} | changes.pop("parameters", {})
    prompt = PromptEdit(text, strength=changes.pop("strength", None), options=options)
    source = changes.pop("source", Source.from_prompt(TEXT, 7))
    return Recipe("prompt-to-prompt", source, (prompt,), parameters, **changes)


def run(networks: DiffusionNetworks, *recipes: Recipe) -> list[Outcome]:
    given = [PICTURE if one.source.kind == "image" else None for one in recipes]
    pairs = zip(recipes, given, strict=True)
    starts = [resolve_start(networks, one, array, (None, None)) for one, array in pairs]
    networks.graphs.calls.clear()  # type: ignore[attr-defined]
    method = find_method("prompt-to-prompt")
    outcomes = loaded(method.run)(networks, starts, [start.recipe for start in starts], Timer(), None)
    assert isinstance(outcomes, list)
    return outcomes


def picture(outcome: Outcome) -> np.ndarray:
    return outcome.render(outcome.recipe)


def calls(networks: DiffusionNetworks) -> list[int]:
    found: list[int] = networks.graphs.calls  # type: ignore[attr-defined]
    return found


def test_recipe_is_filled_in_and_replays(networks: DiffusionNetworks) -> None:
    first = run(networks, recipe(options={"weights": {"blue": 2.0}, "blend": ["hair"]}))[0]
    prompt = first.recipe.prompts[0]
    assert prompt.strength == 1.0 and prompt.options.kind == "replace"
    assert first.recipe.parameters.cross_replace == 0.8
    again = run(networks, Recipe.from_json(first.recipe.to_json()))[0]
    assert again.recipe == first.recipe
    np.testing.assert_array_equal(picture(again), picture(first))


def test_edits_of_one_source_share_it(networks: DiffusionNetworks) -> None:
    """Three edits of two sources: 2 (2 + 1) and 2 (1 + 1) rows, each the picture that it is alone."""
    other = Source.from_prompt(TEXT, 8)
    recipes = [recipe(), recipe(source=other), recipe("a smiling person with red hair")]
    together = run(networks, *recipes)
    assert calls(networks) == [6] * STEPS + [4] * STEPS
    for one, outcome in zip(recipes, together, strict=True):
        alone = run(networks, one)[0]
        assert np.abs(picture(outcome) - picture(alone)).max() < 1e-4
        assert outcome.recipe == alone.recipe
    assert np.abs(picture(together[0]) - picture(together[1])).max() > 0.05


def test_strength_mixes_the_latents(networks: DiffusionNetworks) -> None:
    whole = run(networks, recipe())[0]
    assert whole.reconstruction is not None
    np.testing.assert_allclose(whole.render(whole.recipe.scaled(0.0)), whole.reconstruction(), atol=1e-6)
    half = run(networks, recipe(strength=0.5))[0]
    np.testing.assert_array_equal(picture(half), whole.render(whole.recipe.scaled(0.5)))
    with pytest.raises(InputError, match="weights make a word stronger"):
        whole.recipe.scaled(3.0)


@pytest.mark.parametrize(("kind", "rows"), [("direct", 3), ("negative-prompt", 3), ("ddim", 4)])
def test_pictures(networks: DiffusionNetworks, kind: str, rows: int) -> None:
    source = Source("image", prompt=TEXT)
    found = run(networks, recipe(source=source, inversion={"kind": kind}, parameters={"self_replace": 1.0}))[0]
    assert calls(networks) == [1] * STEPS + [rows] * STEPS
    assert found.recipe.inversion.kind == kind and found.recipe.parameters.sampler == "ddim"
    assert found.reconstruction is not None
    exact = networks.decode(resolve_start(networks, recipe(source=source), PICTURE, (None, None)).clean)  # type: ignore[arg-type]
    error = np.abs(found.reconstruction() - exact).max()
    assert error == 0.0 if kind == "direct" else error > 0.0
    assert np.abs(picture(found) - found.reconstruction()).max() > 0.01


@pytest.mark.parametrize("skip", [0.0, 0.5])
def test_edit_friendly_pictures(networks: DiffusionNetworks, skip: float) -> None:
    """The source is exact; without windows the edit is DDPM sampling with the noise maps, as diffusers does it."""
    source, text = Source("image", prompt=TEXT), "a person with blue hair"
    changes: dict[str, Any] = {"source": source, "inversion": {"kind": "edit-friendly", "skip": skip}, "seed": 3}
    windows = {"cross_replace": 0.0, "self_replace": 0.0, "guidance_scale": 5.0}
    found = run(networks, recipe(text, parameters=windows, **changes))[0]
    assert calls(networks) == [2] * STEPS + [2] * STEPS  # guided inversion, then the edit's two rows
    assert found.recipe.inversion.guidance_scale == 3.5 and found.recipe.parameters.eta == 1.0
    start = resolve_start(networks, recipe(text, **changes), PICTURE, (None, None))
    clean = start.clean
    assert clean is not None and found.reconstruction is not None
    np.testing.assert_array_equal(found.reconstruction(), networks.decode(clean))
    states = {one: networks.token_states([one]) for one in (TEXT, text, "")}

    def guided(sample: Any, timestep: Any, told: str, scale: float) -> Any:
        given = sample.numpy().astype(np.float32)
        free, shown = (networks.unet(given, float(timestep), states[one]).output for one in ("", told))
        return torch.from_numpy(free + scale * (shown - free)).double()

    total, draw = int(STEPS * (1 + skip)), np.random.RandomState(3)
    scheduler = diffusers.DDIMScheduler.from_config(SCHEDULE | {"set_alpha_to_one": False})
    scheduler.set_timesteps(total)
    steps = scheduler.timesteps[total - STEPS :]
    picture_latents, bars = torch.from_numpy(clean).double(), scheduler.alphas_cumprod.double()
    noisy = {STEPS: picture_latents}
    for k in reversed(range(STEPS)):
        noise = torch.from_numpy(draw.standard_normal(clean.shape[1:]))
        noisy[k] = bars[steps[k]].sqrt() * picture_latents + (1 - bars[steps[k]]).sqrt() * noise
    kept, edited = noisy[0], noisy[0]
    for k, timestep in enumerate(steps):
        output = guided(kept, timestep, TEXT, 3.5)
        mean = scheduler.step(output, timestep, kept, eta=1.0, variance_noise=torch.zeros_like(kept)).prev_sample
        other = guided(edited, timestep, text, 5.0)
        moved = scheduler.step(other, timestep, edited, eta=1.0, variance_noise=torch.zeros_like(kept)).prev_sample
        shared = noisy[k + 1] - mean if timestep > 0 else 0.0  # sigma z; the step to 0 has no variance
        edited, kept = moved + shared, noisy[k + 1]
    expected = networks.decode(edited.numpy().astype(np.float32))
    assert float(np.abs(picture(found) - expected).max()) < 1e-3
    assert float(np.abs(expected - found.reconstruction()).max()) > 0.01


def test_what_an_inversion_does_not_use_is_refused() -> None:
    source = Source("image", prompt=TEXT)
    drawn: dict[str, Any] = {"inversion": {"kind": "edit-friendly", "skip": 0.3}, "seed": 3}
    whole = recipe(source=source, **drawn)
    refuse_idle(whole, idle_settings(whole))
    for kind in (None, "direct", "negative-prompt", "ddim"):
        for changes, words in (
            ({"seed": 3, "inversion": {"kind": kind}}, "seed: got 3; allowed: 0 beside the inversion's kind"),
            ({"inversion": {"kind": kind, "skip": 0.3}}, "inversion.skip: got 0.3; allowed: nothing beside the"),
        ):
            whole = recipe(source=source, **changes)
            with pytest.raises(InputError, match=re.escape(words)):
                refuse_idle(whole, idle_settings(whole))
    with pytest.raises(InputError, match="which draws nothing"):
        recipe(seed=3)  # a source from a prompt has its own


def test_edit_friendly_takes_the_attention_of_the_source(networks: DiffusionNetworks) -> None:
    source = Source("image", prompt=TEXT)
    given: dict[str, Any] = {"source": source, "inversion": {"kind": "edit-friendly"}}
    free, held = (
        run(networks, recipe(parameters={"cross_replace": part, "self_replace": part}, **given))[0] for part in (0, 1)
    )
    assert float(np.abs(picture(free) - picture(held)).max()) > 0.01
    local = run(networks, recipe(options={"blend": ["hair"]}, **given))[0]
    assert "mask" in local.pictures and local.reconstruction is not None
    outside = local.pictures["mask"][:, :, 0] == 0
    share = feathered(~outside, outside.shape[0] // 8) == 0
    np.testing.assert_array_equal(picture(local)[0][:, share], local.reconstruction()[0][:, share])


def test_source_of_a_picture_is_dropped_after_the_windows(networks: DiffusionNetworks) -> None:
    run(networks, recipe(source=Source("image", prompt=TEXT), parameters={"cross_replace": 0.3, "self_replace": 0.4}))
    assert calls(networks) == [1] * STEPS + [3, 3, 2, 2, 2, 2]  # int(0.3 * 7) = int(0.4 * 6) = 2


def test_maps_and_masks_are_pictures(networks: DiffusionNetworks) -> None:
    plain = run(networks, recipe(options={"blend": ["hair"]}))[0]
    assert list(plain.pictures) == ["mask"] and plain.pictures["mask"].shape == (64, 64, 3)
    assert set(np.unique(plain.pictures["mask"])) <= {0, 255}
    drawn = run(networks, recipe(options={"blend": ["hair"]}, parameters={"maps": True}))[0]
    assert set(drawn.pictures) == {"mask", "maps-words", "maps-source-steps", "maps-edit-steps"}
    for image in drawn.pictures.values():
        assert image.dtype == np.uint8 and image.ndim == 3 and image.std() > 0
    assert np.abs(picture(drawn) - picture(plain)).max() < 1e-4


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"parameters": {"guidance_scale": 1.0}}, "parameters.guidance_scale", "more than 1"),
        ({"parameters": {"steps": 0}}, "parameters.steps", "from 1"),
        ({"parameters": {"cross_replace": 1.2}}, "parameters.cross_replace", "from 0 to 1"),
        ({"parameters": {"self_replace": [0.5, 0.2]}}, "parameters.self_replace", "ascending"),
        ({"options": {"word_windows": {"hair": [0.0, 2.0]}}}, "prompts.options.word_windows.hair", "from 0 to 1"),
        ({"options": {"kind": "swap"}}, "prompts.options.kind", "'replace'"),
        ({"options": {"subtract": ["hair"]}}, "prompts.options.subtract", "without blend"),
        ({"source": Source("image")}, "source.prompt", "what the picture shows"),
        ({"source": Source("image", prompt=TEXT), "inversion": {"kind": "null-text"}}, "inversion.kind", "direct"),
        ({"source": Source("image", prompt=TEXT), "inversion": {"skip": 1.0}}, "inversion.skip", "from 0 to 0.9"),
        (
            {
                "source": Source("image", prompt=TEXT),
                "inversion": {"kind": "negative-prompt"},
                "parameters": {"negative_prompt": "a hat"},
            },
            "parameters.negative_prompt",
            "takes its place",
        ),
        ({"source": Source.from_seed(1)}, "source.kind", "'prompt'"),
        ({"strength": -1.0}, "prompts.strength", "0 to 2"),
    ],
)
def test_recipes_that_are_refused(changes: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        recipe(**changes)
    assert caught.value.field == field and words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "options", "field", "words"),
    [
        (TEXT, {}, "prompts.text", "no weights"),
        ("a person with blue hair", {"weights": {"beard": 2.0}}, "prompts.options.weights", "'beard', which is not in"),
        ("a person with blue hair", {"blend": ["hat"]}, "prompts.options.blend", "'hat'"),
        ("a person", {"kind": "replace"}, "prompts.text", "of 2 words; allowed: 5 words"),
        (TEXT + " hat" * 2, {"weights": {"hat": 2, "Hat": 3}}, "prompts.options.weights", "'Hat' beside 'hat'"),
        (TEXT + " hat" * 2, {"weights": {"hat": 2, "hat#2": 3}}, "prompts.options.weights", "'hat#2' beside 'hat'"),
        (TEXT + " hat", {"word_windows": {"hat": 0.2, "hat.": 0.3}}, "prompts.options.word_windows", "'hat.' beside"),
        (TEXT + " hat", {"blend": ["hat:hat:hat"]}, "prompts.options.blend", "':hat' at character 8"),
        (TEXT + " hat", {"blend": [":"]}, "prompts.options.blend", "':' at character 1"),
    ],
)
def test_texts_that_are_refused(
    networks: DiffusionNetworks, text: str, options: dict[str, Any], field: str, words: str
) -> None:
    """Before the UNet runs."""
    with pytest.raises(InputError) as caught:
        run(networks, recipe(text, options=options))
    assert caught.value.field == field and words in str(caught.value)
    assert calls(networks) == []


def test_pictures_have_one_source_in_a_batch(networks: DiffusionNetworks) -> None:
    source = Source("image", prompt=TEXT)
    found = run(networks, recipe(source=source), recipe("a smiling person with red hair", source=source))
    assert calls(networks)[STEPS:][0] == 5  # 2 N + 1
    assert found[0].recipe.source.sha256 == found[1].recipe.source.sha256
    assert replace(found[0].recipe, prompts=found[1].recipe.prompts) == found[1].recipe


def test_pixels_outside_a_local_edits_mask_are_the_sources(networks: DiffusionNetworks) -> None:
    local: dict[str, Any] = {"options": {"blend": ["hair"]}}
    kept, spilled = run(networks, recipe(**local)), run(networks, recipe(parameters={"keep_outside": False}, **local))
    outside = kept[0].pictures["mask"][:, :, 0] == 0
    assert 0 < outside.mean() < 1
    np.testing.assert_array_equal(kept[0].pictures["mask"], spilled[0].pictures["mask"])
    assert kept[0].reconstruction is not None
    source, made, plain = kept[0].reconstruction(), picture(kept[0]), picture(spilled[0])
    np.testing.assert_array_equal(made[..., outside], source[..., outside])
    share = feathered(~outside, 8)
    np.testing.assert_allclose(made, source + share * (plain - source), atol=1e-6)
    assert np.abs(made - source).max() > 0.01, "inside the mask the edit shows"


def test_a_feathered_mask_is_0_outside_and_1_well_inside() -> None:
    mask = enlarged(np.pad(np.ones((2, 3), bool), 1), (32, 40))
    assert mask.sum() == 16 * 24
    share = feathered(mask, 8)
    assert (share[~mask] == 0).all()
    inner = np.zeros_like(mask)
    inner[10:22, 10:30] = True
    assert (share[inner] == 1).all() and (share[8, 12:28] < 0.5).all()
    assert (feathered(np.ones((16, 16), bool), 8) == 1).all(), "a mask of the whole picture has no rim"
