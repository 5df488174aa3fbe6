"""The denoiser: noise and weights against formulas, sampling against diffusers, captions, latents, a tiny run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.small_autoencoder import MODEL

from limner.runtime.errors import InputError
from limner.training.avatars.attributes import STYLES, sample_in_split
from limner.training.avatars.captions import BACKGROUND, EYEWEAR, FACIAL_HAIR, HAIR_COLORS
from limner.training.avatars.dataset import AvatarsConfig, AvatarsDataset, image_float
from limner.training.avatars.descriptions import describe
from limner.training.avatars.tokens import CaptionTokenizer, write_tokenizer
from limner.training.families.diffusion.drawing import Sampler, noise_levels
from limner.training.families.diffusion.figures import held_out_captions
from limner.training.families.diffusion.latents import latents_of
from limner.training.families.diffusion.module import (
    DenoiserModule,
    DenoiserTraining,
    Describer,
    snr_weights,
    spread_steps,
)
from limner.training.loop.runner import OptimizerConfig
from limner.training.models.clip import build_clip, clip_config
from limner.training.models.diffusion import (
    SCHEDULER,
    DenoiserConfig,
    build_autoencoder,
    build_denoiser,
    load_autoencoder,
    save_autoencoder,
    text_encoder_of,
)
from limner.training.models.store import save_model
from limner.training.running import resolve, run_family

UNET = DenoiserConfig(widths=(16, 32), head_width=16, groups=8)
STYLE = STYLES["avataaars"]
TINY = AvatarsConfig(size=32, train=24, validation=8, test=8)


def tiny_clip(folder: Path) -> tuple[CaptionTokenizer, Any]:
    """A tokenizer of bytes, and a random CLIP of its size, in `folder`."""
    count = write_tokenizer(folder, [])
    config = clip_config(count, 32, 16, 16, 1, 1, 16, 2, 2, 8)
    torch.manual_seed(1)
    clip = build_clip(config)
    save_model(folder, "clip", config, clip.state_dict())
    return CaptionTokenizer(folder), clip


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("clip")
    tokenizer, clip = tiny_clip(folder)
    vae = build_autoencoder(MODEL).eval()
    torch.manual_seed(2)
    unet = build_denoiser(UNET, 4, 4, 16).eval()
    vae.register_to_config(scaling_factor=0.5)
    return {"folder": folder, "tokenizer": tokenizer, "clip": clip, "vae": vae, "unet": unet,
            "encoder": text_encoder_of(clip)}  # fmt: skip


@torch.no_grad()
def test_text_encoder_is_clips_text_tower(parts: dict[str, Any]) -> None:
    ids = parts["tokenizer"].encode(["a person with a beard", ""], 77)
    wanted = parts["clip"].text_model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(parts["encoder"](ids).last_hidden_state, wanted)


def test_noise_levels_against_diffusers() -> None:
    from diffusers import DDIMScheduler

    wanted = DDIMScheduler.from_config(SCHEDULER).alphas_cumprod
    torch.testing.assert_close(noise_levels(SCHEDULER), wanted, rtol=1e-5, atol=1e-7)


def test_snr_weights_against_the_formula() -> None:
    levels = noise_levels(SCHEDULER)
    a = levels.double().numpy()
    wanted = np.minimum(a / (1 - a), 5) / (a / (1 - a))
    np.testing.assert_allclose(snr_weights(levels, 5.0).numpy(), wanted, rtol=1e-4)
    assert (snr_weights(levels, 0.0) == 1).all()


def test_steps_of_a_batch_are_spread_evenly_and_uniform() -> None:
    drawn = torch.stack([spread_steps(10, 1000, torch.Generator().manual_seed(seed)) for seed in range(300)])
    assert all(sorted((row // 100).tolist()) == list(range(10)) for row in drawn), "one step in each tenth"
    assert drawn.min() >= 0 and drawn.max() <= 999
    assert abs(drawn[:, 0].float().mean() - 499.5) < 4 * 1000 / (12 * 300) ** 0.5, "every row is uniform"


@torch.no_grad()
def test_noisy_latents_are_the_schedulers(parts: dict[str, Any]) -> None:
    from diffusers import DDIMScheduler

    net = DenoiserModule(parts["unet"], parts["encoder"], Sampler(parts["vae"], parts["tokenizer"], 4),
                         DenoiserTraining(), OptimizerConfig(), 10)  # fmt: skip
    moments = torch.cat([torch.randn(3, 4, 4, 4), torch.full((3, 4, 4, 4), -60.0)], 1)
    sample, noise, step = net.noisy({"moments": moments}, torch.Generator().manual_seed(0))
    clean = moments[:, :4] * 0.5
    wanted = DDIMScheduler.from_config(SCHEDULER).add_noise(clean, noise, step)
    torch.testing.assert_close(sample, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_pictures_against_diffusers_pipeline(parts: dict[str, Any]) -> None:
    """The same noise, guidance and steps through StableDiffusionPipeline with its DDIMScheduler."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    texts, tokenizer = ["a person with a beard", "a smiling person"], parts["tokenizer"]
    sampler = Sampler(parts["vae"], tokenizer, 4)
    made = sampler.pictures(parts["unet"], parts["encoder"], texts, 3.0, 5, seed=3, shared=False)
    pipeline = StableDiffusionPipeline(
        vae=parts["vae"], text_encoder=parts["encoder"], tokenizer=None, unet=parts["unet"],
        scheduler=DDIMScheduler.from_config(SCHEDULER), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    states = [parts["encoder"](tokenizer.encode(words, 77)).last_hidden_state for words in (texts, ["", ""])]
    found = pipeline(prompt_embeds=states[0], negative_prompt_embeds=states[1], num_inference_steps=5,
                     guidance_scale=3.0, latents=noise, output_type="pt").images  # fmt: skip
    torch.testing.assert_close(made, found * 2 - 1, rtol=0, atol=2e-4)


def test_captions_are_true_and_cover_synonyms_order_and_place() -> None:
    rng = np.random.default_rng(0)
    describer = Describer(STYLE, None, DenoiserTraining(caption_dropout=0.2))  # type: ignore[arg-type]
    avatars = [sample_in_split(STYLE, "train", i) for i in range(40)]
    wanted = {"hair": "long", "eyewear": "glasses"}
    avatar = next(a for a in avatars if wanted.items() <= a.attributes(STYLE).items())
    words, row = avatar.attributes(STYLE), avatar.attribute_indices(STYLE)
    texts = [describer.text(row, rng) for _ in range(600)]
    assert 0.14 < sum(text == "" for text in texts) / 600 < 0.26
    named = [text for text in texts if text]
    assert any(text.endswith(f"{words['background']} background") for text in named)
    for color in set(HAIR_COLORS[words["hair_color"]]):
        assert any(color in text for text in named)
    others = {c for name, cs in HAIR_COLORS.items() if name != words["hair_color"] for c in cs}
    assert not any(f" {color} hair" in text for color in others for text in named)
    backgrounds = [p.split("{c}")[1].strip() for slot in BACKGROUND.values() for p in slot]
    assert sum(any(end and end in text for text in named) for end in set(backgrounds)) >= 3
    places = [text.index("glasses") / len(text) for text in named if "glasses" in text]
    assert max(places) - min(places) > 0.3


def test_some_captions_are_descriptions_of_all_that_there_is() -> None:
    rng = np.random.default_rng(0)
    training = DenoiserTraining(caption_dropout=0.0, described=0.5)
    describer = Describer(STYLE, None, training)  # type: ignore[arg-type]
    avatar = next(a for a in (sample_in_split(STYLE, "train", i) for i in range(200))
                  if {"facial_hair": "none", "eyewear": "glasses"}.items() <= a.attributes(STYLE).items())  # fmt: skip
    words = avatar.attributes(STYLE)
    texts = [describer.text(avatar.attribute_indices(STYLE), rng) for _ in range(400)]
    known = {describe(words, silent) for silent in ("", "facial_hair", "eyewear", "expression")}
    assert 0.4 < sum(text in known for text in texts) / 400 < 0.6
    assert {describe(words), describe(words, "facial_hair")} <= set(texts)
    with pytest.raises(InputError, match=r"training\.described.*personas, without clothes.*allowed: 0"):
        Describer(STYLES["personas"], None, training)  # type: ignore[arg-type]


def test_what_is_worn_is_named() -> None:
    rng = np.random.default_rng(0)
    describer = Describer(STYLE, None, DenoiserTraining(caption_dropout=0.0, worn_is_named=1.0))  # type: ignore[arg-type]
    seen = set()
    for index in range(200):
        avatar = sample_in_split(STYLE, "train", index)
        text, words = describer.text(avatar.attribute_indices(STYLE), rng), avatar.attributes(STYLE)
        for name, table in (("facial_hair", FACIAL_HAIR), ("eyewear", EYEWEAR)):
            if words[name] != "none":
                assert any(phrase in text for phrases in table[words[name]].values() for phrase in phrases), (
                    name,
                    text,
                )
                seen.add(words[name])
    assert seen == {"beard", "moustache", "glasses", "sunglasses"}


def test_held_out_captions_name_four_attributes_of_test_avatars() -> None:
    found = held_out_captions("avataaars", 5, 4)
    assert all(len(one.mentions) == 4 for one in found)
    assert found == held_out_captions("avataaars", 5, 4)
    for index, one in enumerate(found):
        assert one.agrees(sample_in_split(STYLE, "test", index).attributes(STYLE))


def test_a_saved_network_does_not_say_where_it_was_loaded_from(tmp_path: Path) -> None:
    save_autoencoder(tmp_path / "first", build_autoencoder(MODEL), 1.0)
    loaded = load_autoencoder(tmp_path / "first")
    assert str(tmp_path) in loaded.config["_name_or_path"]
    save_autoencoder(tmp_path / "again", loaded, 0.5)
    assert str(tmp_path) not in (tmp_path / "again" / "config.json").read_text()
    assert load_autoencoder(tmp_path / "again").config["scaling_factor"] == 0.5


@torch.no_grad()
def test_latents_are_the_encoders_and_follow_its_weights(tiny_cache: Path, tmp_path: Path) -> None:
    network = build_autoencoder(MODEL).eval()
    save_autoencoder(tmp_path / "vae", network, 1.0)
    latents = latents_of(TINY, "validation", tmp_path / "vae", tiny_cache)
    rows = np.array([1, 6])
    image = image_float(AvatarsDataset(TINY, "validation", tiny_cache).batch(rows)["image"])
    wanted = load_autoencoder(tmp_path / "vae").encode(image).latent_dist.parameters
    torch.testing.assert_close(latents.batch(rows)["moments"], wanted, rtol=1e-3, atol=1e-3)
    network.quant_conv.bias += 1.0
    save_autoencoder(tmp_path / "vae", network, 1.0)
    other = latents_of(TINY, "validation", tmp_path / "vae", tiny_cache)
    assert not torch.equal(other.batch(rows)["moments"], latents.batch(rows)["moments"])


def test_levels_that_do_not_halve_the_latents_are_refused() -> None:
    with pytest.raises(InputError, match="levels"):
        build_denoiser(DenoiserConfig((32, 32, 32, 32)), 4, 4, 16)


def test_tiny_run_resumes_and_diffusers_reads_it(
    tiny_cache: Path, tmp_path: Path, tiny_data: dict[str, object], parts: dict[str, Any]
) -> None:
    from diffusers import StableDiffusionPipeline

    save_autoencoder(tmp_path / "vae", parts["vae"], 0.5)
    values = [
        f"data={tiny_data}", f"autoencoder={tmp_path / 'vae'}", f"clip={parts['folder']}", "judge=",
        "model={widths: [16, 32], head_width: 16, groups: 8}", "trainer.batch_size=8", "trainer.validation_limit=8",
        "trainer.validate_every=2", "trainer.checkpoint_every=2", "training.steps=2",
        "training.prompts=[a person, a hat]",
    ]  # fmt: skip
    run = resolve("diffusion", overrides=[*values, "trainer.max_steps=2"])
    run_family("diffusion", run, tmp_path / "run", tmp_path / "model", tiny_cache)
    run = resolve("diffusion", overrides=[*values, "trainer.max_steps=4"])
    run_family("diffusion", run, tmp_path / "run", tmp_path / "model", tiny_cache, resume=True)
    pipeline = StableDiffusionPipeline.from_pretrained(str(tmp_path / "model"), torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a person", num_inference_steps=2, output_type="np").images.shape == (1, 32, 32, 3)
    ids = pipeline.tokenizer(["a person with Glasses!"], padding="max_length", max_length=77).input_ids
    assert ids == CaptionTokenizer(parts["folder"]).encode(["a person with Glasses!"], 77).tolist()
    assert "Columns:" in (tmp_path / "model" / "README.md").read_text()


def test_a_denoiser_whose_words_learn_their_places(
    tiny_cache: Path, tmp_path: Path, tiny_data: dict[str, object], parts: dict[str, Any]
) -> None:
    """The term is in the loss and in the logs of steps and validations."""
    save_autoencoder(tmp_path / "vae", parts["vae"], 0.5)
    run = resolve("diffusion", overrides=[
        f"data={tiny_data}", f"autoencoder={tmp_path / 'vae'}", f"clip={parts['folder']}", "judge=",
        "model={widths: [16, 32], head_width: 16, groups: 8}", "trainer.batch_size=8", "trainer.validation_limit=8",
        "trainer.validate_every=3", "trainer.max_steps=3", "trainer.log_every=1", "training.steps=2",
        "training.prompts=[a person]", "training.places=1",
    ])  # fmt: skip
    run_family("diffusion", run, tmp_path / "run", tmp_path / "model", tiny_cache)
    rows = [line.split(",") for line in (tmp_path / "run" / "csv" / "0" / "metrics.csv").read_text().splitlines()]
    found = dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))
    for name in ("train/places", "validation/places"):
        assert any(value and float(value) > 0 for value in found[name])
    with pytest.raises(InputError, match="places is -1"):
        resolve("diffusion", overrides=["training.places=-1"])
