"""Real pictures: DDIM and edit-friendly inversion, and the masked guidance against LEDITS++ in diffusers."""

from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import LEditsPPPipelineStableDiffusion
from PIL import Image
from support.torch_twin import SD15, TinyModels, difference

from limner.runtime.diffusion import edit_friendly
from limner.runtime.diffusion.ddim_inversion import ddim_invert, invert_with_prompts
from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.diffusion.samplers.alpha import DDIM
from limner.runtime.diffusion.samplers.schedule import NoiseSchedule, SchedulerConfig
from limner.runtime.diffusion.sampling import Draws, denoise, plain_estimate
from limner.runtime.diffusion.sources import resolve_start
from limner.runtime.errors import InputError
from limner.runtime.guidance import masks
from limner.runtime.methods.registry import loaded
from limner.runtime.methods.sega import method
from limner.runtime.recipe import PromptEdit, Recipe, Source
from limner.runtime.schema import to_dict
from limner.runtime.timing import Timer

PICTURE = np.random.RandomState(4).randint(0, 256, (32, 32, 3), dtype=np.uint8)
STEPS, SKIP = 12, 0.15


def test_masked_guidance_against_ledits(tiny: TinyModels, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, Any] = {
        "editing_prompt": ["red hat", "big"],
        "reverse_editing_direction": [False, True],
        "edit_guidance_scale": [5.0, 4.0],
        "edit_threshold": [0.6, 0.8],
        "edit_warmup_steps": [0, 3],
        "edit_cooldown_steps": [9, 100],
    }
    options = [{"threshold": 0.6, "warmup": 0, "cooldown": 9}, {"threshold": 0.8, "warmup": 3}]
    for kind, attention, intersect in (("intersect", True, True), ("attention", True, False), ("noise", False, False)):
        theirs = ledits(tiny, monkeypatch, arguments, use_cross_attn_mask=attention, use_intersect_mask=intersect)
        prompts = (
            PromptEdit("red hat", strength=5.0, options=options[0]),
            PromptEdit("big", strength=-4.0, options=options[1]),
        )
        recipe = Recipe("sega", Source("image"), prompts, {"steps": STEPS, "masks": kind}, {"skip": SKIP})
        mine = edit_picture(tiny.networks(), recipe)
        assert difference(mine, theirs) <= 1e-3  # fp32 on both sides, 12 steps


def ledits(tiny: TinyModels, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], **kind: bool) -> np.ndarray:
    """Latents of diffusers' LEDITS++ on the random draws of our seed 0."""
    from diffusers.pipelines.ledits_pp import pipeline_leditspp_stable_diffusion as module

    before = tiny.unet.attn_processors
    pipe = tiny.pipeline(LEditsPPPipelineStableDiffusion, diffusers.DDIMScheduler.from_config(SD15))
    draw = Draws([0], (4, 16, 16))
    monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: torch.from_numpy(draw()))
    encode = pipe.encode_prompt

    def counted(*args: Any, **given: Any) -> Any:
        """Count the words' tokens; today's tokenizer counts the padding with them."""
        states, uncond, lengths = encode(*args, **given)
        texts = given["editing_prompt"] if given["enable_edit_guidance"] else None
        if isinstance(texts, list):
            lengths = [len(tiny.tokenizer(text, add_special_tokens=False).input_ids) for text in texts]
        return states, uncond, lengths

    monkeypatch.setattr(pipe, "encode_prompt", counted)
    add = pipe.scheduler.add_noise  # its caller hands floats, which torch no longer takes as an index
    monkeypatch.setattr(pipe.scheduler, "add_noise", lambda x, noise, t: add(x, noise, t.long()))
    pipe.invert(Image.fromarray(PICTURE), source_prompt="", num_inversion_steps=STEPS, skip=SKIP)
    try:
        return np.asarray(pipe(**arguments, **kind, output_type="latent").images)
    finally:
        tiny.unet.set_attn_processor(before)


def edit_picture(networks: DiffusionNetworks, recipe: Recipe) -> np.ndarray:
    """Latents of our edit of PICTURE."""
    found: list[np.ndarray] = []
    decode = networks.decode
    networks.decode = lambda latents: found.append(latents) or decode(latents)  # type: ignore[method-assign,func-returns-value]
    start = resolve_start(networks, recipe, PICTURE, (None, None))
    loaded(method.run)(networks, [start], [recipe], Timer(), None)
    return found[0]


@pytest.mark.parametrize("prompt", [None, "a red cat"])
def test_edit_friendly_inversion_gives_the_picture_back(tiny: TinyModels, prompt: str | None) -> None:
    networks = tiny.networks()
    source = Source("image", prompt=prompt)
    recipe = Recipe("sega", source, (PromptEdit("red", strength=0.0),), {"steps": 10})
    latents = edit_picture(networks, recipe)
    start = resolve_start(networks, recipe, PICTURE, (None, None))
    assert start.clean is not None
    assert difference(latents, start.clean) <= 1e-4
    assert networks.unet_rows == 2 * 10 * (1 if prompt is None else 2)  # no row for a concept of scale 0


def test_noise_maps_are_those_of_the_paper() -> None:
    """x_{t-1} = mean(x_t) + sigma_t z_t in float64, with x_t drawn independently for every t."""

    class Networks:
        scheduler = SchedulerConfig.from_dict(SD15)

    clean = np.random.RandomState(0).randn(1, 4, 6, 6).astype(np.float32)
    draw = Draws([9], (4, 6, 6))
    estimate = lambda sample, timestep, index: np.tanh(sample) * np.float32(0.7)  # noqa: E731
    found = edit_friendly.edit_friendly_invert(Networks(), clean, estimate, 8, 0.25, draw)  # type: ignore[arg-type]
    assert (len(found.sampler.timesteps), found.first, found.maps.shape) == (10, 2, (8, 1, 4, 6, 6))
    bars = found.sampler.schedule.alphas_cumprod.astype(np.float64)
    draws, plan = Draws([9], (4, 6, 6)), [int(t) for t in found.sampler.timesteps[2:]]
    noisy = {len(plan): clean.astype(np.float64)}
    for k in reversed(range(len(plan))):
        noisy[k] = np.sqrt(bars[plan[k]]) * clean + np.sqrt(1 - bars[plan[k]]) * draws()
    np.testing.assert_allclose(found.start, noisy[0], atol=1e-5)
    for k, t in enumerate(plan):
        a, b = bars[t], bars[t - 100] if t >= 100 else bars[0]
        eps = np.tanh(noisy[k]) * 0.7
        variance = (1 - b) / (1 - a) * (1 - a / b)
        mean = np.sqrt(b) * (noisy[k] - np.sqrt(1 - a) * eps) / np.sqrt(a) + np.sqrt(1 - b - variance) * eps
        np.testing.assert_allclose(found.maps[k], (noisy[k + 1] - mean) / np.sqrt(variance), atol=2e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_ddim_inversion_against_diffusers(tiny: TinyModels, prediction: str) -> None:
    networks = tiny.networks(prediction)
    clean = np.random.RandomState(6).randn(2, 4, 16, 16).astype(np.float32)
    path = invert_with_prompts(networks, clean, ["a cat", "b"], 10)
    states = torch.from_numpy(networks.token_states(["a cat", "b"]))
    bars = diffusers.DDIMScheduler.from_config(SD15).alphas_cumprod.double()
    latents, forward = torch.from_numpy(clean), diffusers.DDIMScheduler.from_config(SD15)
    forward.set_timesteps(10)
    for timestep in reversed(forward.timesteps):  # next_step of the published null-text inversion
        a = bars[timestep - 100] if timestep >= 100 else bars[0]
        b = bars[timestep]
        with torch.no_grad():
            output = tiny.unet(latents, timestep, encoder_hidden_states=states).sample
        eps, x0 = output, (latents - (1 - a).sqrt() * output) / a.sqrt()
        if prediction == "v_prediction":
            x0 = a.sqrt() * latents - (1 - a).sqrt() * output
            eps = a.sqrt() * output + (1 - a).sqrt() * latents
        latents = (b.sqrt() * x0 + (1 - b).sqrt() * eps).float()
    assert path.latents.shape == (11, 2, 4, 16, 16)
    np.testing.assert_array_equal(path.clean, clean)
    assert difference(path.noise, latents.numpy()) <= 1e-4


def test_ddim_inversion_comes_back_and_direct_replay_is_exact(tiny: TinyModels) -> None:
    networks, smooth = tiny.networks(), lambda sample, timestep, index: np.tanh(sample) * np.float32(0.8)
    clean = np.random.RandomState(7).randn(1, 4, 16, 16).astype(np.float32)

    def sampler() -> DDIM:
        return DDIM(NoiseSchedule(networks.scheduler), 50)

    back = denoise(sampler(), ddim_invert(sampler(), clean, smooth).noise, smooth)
    assert 1e-4 < difference(back, clean) < 0.05  # the error of DDIM inversion itself
    # Negative-prompt inversion: the source's text in the unconditional place makes guidance do nothing.
    text = networks.token_states(["a cat"])
    path = invert_with_prompts(networks, clean, ["a cat"], 50)
    plain = plain_estimate(networks, text, None, 1.0)(clean, 500.0, 0)
    assert difference(plain_estimate(networks, text, text, 7.5)(clean, 500.0, 0), plain) <= 1e-4
    # Direct inversion: the source's row is replayed, whatever the sampler made of it.

    def replayed(index: int, latents: np.ndarray) -> np.ndarray:
        return np.concatenate([path.latents[index + 1], latents[1:]])

    both = denoise(
        sampler(),
        np.concatenate([path.noise, path.noise]),
        plain_estimate(networks, networks.token_states(["a cat", "b"]), networks.token_states(["", ""]), 7.5),
        after=replayed,
    )
    np.testing.assert_array_equal(both[:1], clean)
    assert difference(both[1:], clean) > 0.05


def test_masks_are_returned_as_pictures(tiny: TinyModels) -> None:
    recipe = Recipe("sega", Source("image"), (PromptEdit("red"), PromptEdit("big")), {"steps": 4})
    networks = tiny.networks()
    start = resolve_start(networks, recipe, PICTURE, (None, None))
    outcome = loaded(method.run)(networks, [start], [recipe], Timer(), None)[0]
    assert set(outcome.pictures) == {"mask-red", "mask-big"}
    picture = outcome.pictures["mask-red"]
    assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8
    assert 0 < picture.mean() < 255
    assert outcome.reconstruction is not None
    assert to_dict(outcome.recipe.inversion) == {"kind": "edit-friendly", "skip": 0.15, "guidance_scale": 3.5}
    weaker = outcome.recipe.scaled(0.5)
    assert np.abs(outcome.render(weaker) - outcome.render(outcome.recipe)).max() > 1e-4


def test_smoothing_and_masks_against_torch() -> None:
    attention = np.random.RandomState(8).rand(5, 4).astype(np.float32)
    grid = torch.exp(-(torch.arange(-1.0, 2.0) ** 2))
    kernel = torch.outer(grid, grid) / torch.outer(grid, grid).sum()
    padded = torch.nn.functional.pad(torch.from_numpy(attention)[None, None], (1, 1, 1, 1), mode="reflect")
    smoothed = torch.nn.functional.conv2d(padded, kernel[None, None])[0, 0]
    np.testing.assert_allclose(masks.smooth(attention), smoothed.numpy(), atol=1e-6)
    limit = torch.quantile(smoothed.flatten(), 0.6)
    expected = torch.nn.functional.interpolate((smoothed >= limit).float()[None, None], (10, 12))[0, 0]
    np.testing.assert_array_equal(masks.attention_mask(attention, 0.6, (10, 12)), expected.numpy())


def test_bad_pictures_are_named(tiny: TinyModels) -> None:
    networks = tiny.networks()
    recipe = Recipe("sega", Source("image"), (PromptEdit("red"),))
    for picture in (PICTURE[:30], PICTURE[..., :1], PICTURE.astype(np.float32)):
        with pytest.raises(InputError) as error:
            resolve_start(networks, recipe, picture, (None, None))
        assert error.value.field.startswith("source")
    altered = Recipe("sega", Source("image", sha256="0" * 64), (PromptEdit("red"),))
    with pytest.raises(InputError, match="altered"):
        resolve_start(networks, altered, PICTURE, (None, None))
    prompt = Recipe("sega", Source.from_prompt("a", 0), (PromptEdit("red"),))
    with pytest.raises(InputError, match="either of them"):
        resolve_start(networks, prompt, PICTURE, (None, None))
    long = Recipe("sega", Source("image"), (PromptEdit("red"),), {"steps": 990})
    start = resolve_start(networks, long, PICTURE, (None, None))
    with pytest.raises(InputError, match="at most 1000 steps"):
        loaded(method.run)(networks, [start], [long], Timer(), None)
