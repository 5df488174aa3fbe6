"""One picture of a finished bundle beside its folder's own pipeline, on the same noise.

The graphs are compared with the networks that torch loaded; what neither side computes (a shift of the latents, a
clipped sample, a text that is cut elsewhere) would not show there. Here the other side is the pipeline that
model_index.json names, from tokenizer to pixels.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from limner.export.diffusion.folder import DiffusionFolder
from limner.runtime.bundle.loading import Bundle
from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.diffusion.samplers.by_name import default_sampler, make_sampler
from limner.runtime.diffusion.sampling import generate
from limner.runtime.errors import InputError
from limner.runtime.graphs.sessions import Sessions
from limner.runtime.pictures.images import to_u8
from limner.runtime.settings import SamplingParameters

PROMPT, NEGATIVE = "a portrait of a person with red hair", "a hat"
STEPS, GUIDANCE = 4, 5.0
LARGEST_SIDE = 256  # pixels: enough to see what is left out, quick at any size
LEVELS = 2.0  # of 255, mean over the picture, that it may differ by


@dataclass(frozen=True)
class PictureParity:
    """How far the bundle's picture is from the pipeline's."""

    pipeline: str
    sampler: str
    steps: int
    height: int
    width: int
    mean_levels: float  # of 255
    largest_levels: int

    @property
    def passed(self) -> bool:
        return self.mean_levels <= LEVELS

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"allowed_mean_levels": LEVELS}

    def sentence(self) -> str:
        size = f"{self.height} x {self.width}"
        return (f"picture of {size} by {self.sampler}, {self.steps} steps: {self.mean_levels:.3f} of 255 levels "
                f"from {self.pipeline} in the mean, {self.largest_levels} at most")  # fmt: skip


def compare_picture(folder: DiffusionFolder, bundle: Bundle, threads: int = 1) -> PictureParity:
    """Make one picture by both and compare them. A sampler that draws noise takes one step, which needs none."""
    networks = DiffusionNetworks.from_bundle(bundle, Sessions(bundle, threads=threads))
    sampler = default_sampler(networks.scheduler)
    steps = 1 if make_sampler(networks.scheduler, sampler, STEPS).draws_noise else STEPS
    height, width = (_side(side, bundle.diffusion.multiple) for side in
                     (bundle.diffusion.image_size, bundle.diffusion.image_width))  # fmt: skip
    shape = networks.latent_shape(height, width)
    noise = np.random.RandomState(0).standard_normal((1, *shape)).astype(np.float32)
    prompt, negative = (_fitting(networks, text) for text in (PROMPT, NEGATIVE))
    parameters = SamplingParameters(steps=steps, guidance_scale=GUIDANCE, height=height, width=width)
    mine = generate(networks, [prompt], [0], parameters, negative=negative, latents=noise)
    ours = to_u8(networks.decode(mine))[0].astype(np.int64)
    theirs = _pipeline_picture(folder, noise, steps, (prompt, negative)).astype(np.int64)
    change = np.abs(ours - theirs)
    return PictureParity(folder.pipeline, sampler, steps, height, width, float(change.mean()), int(change.max()))


def _side(side: int, multiple: int) -> int:
    return side if side <= LARGEST_SIDE else max(1, LARGEST_SIDE // multiple) * multiple


def _fitting(networks: DiffusionNetworks, text: str) -> str:
    """As many of the text's words as the vocabulary has tokens for."""
    words = text.split()
    while len(words) > 1:
        try:
            networks.tokenizer.encode(" ".join(words))
            break
        except InputError:
            words = words[:-1]
    return " ".join(words)


@torch.no_grad()
def _pipeline_picture(folder: DiffusionFolder, noise: np.ndarray, steps: int, texts: tuple[str, str]) -> np.ndarray:
    """uint8 [H,W,3] of the pipeline; its latents are decoded by what the VAE's config says."""
    with quiet():
        import diffusers

    parts: dict[str, Any] = {"unet": folder.unet, "vae": folder.vae, "text_encoder": folder.text_encoder}
    if folder.text_encoder_2 is not None:
        parts["text_encoder_2"] = folder.text_encoder_2
    with quiet():
        kind: Any = getattr(diffusers, folder.pipeline)
        if folder.pipeline == "StableDiffusionPipeline":
            parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        parts["scheduler"] = _scheduler(folder)
        parts |= {
            name: _tokenizer(folder, name) for name in ("tokenizer", "tokenizer_2") if (folder.root / name).is_dir()
        }
        pipe = kind(**parts)
        pipe.set_progress_bar_config(disable=True)
        factor = 2 ** (len(folder.vae.config.block_out_channels) - 1)
        found = pipe(
            texts[0], negative_prompt=texts[1], num_inference_steps=steps, guidance_scale=GUIDANCE,
            height=noise.shape[2] * factor, width=noise.shape[3] * factor, latents=torch.from_numpy(noise.copy()),
            output_type="latent",
        ).images  # fmt: skip
    latents = found / folder.vae.config.scaling_factor
    if folder.latents_mean:
        centre, spread = (
            torch.tensor(values).view(1, -1, 1, 1) for values in (folder.latents_mean, folder.latents_std)
        )
        latents = latents * spread + centre
    return to_u8(folder.vae.decode(latents).sample.numpy())[0]


def _scheduler(folder: DiffusionFolder) -> Any:
    import json

    import diffusers

    config = json.loads(folder.scheduler.read_text(encoding="utf-8"))
    scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    if getattr(scheduler.config, "clip_sample", False):  # as StableDiffusionPipeline does; latents reach beyond 1
        scheduler.register_to_config(clip_sample=False)
    return scheduler


def _tokenizer(folder: DiffusionFolder, name: str) -> Any:
    from transformers import CLIPTokenizer

    found = CLIPTokenizer.from_pretrained(str(folder.root / name), local_files_only=True)
    found.model_max_length = folder.tokens
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what diffusers says of safety checkers and old configs off the terminal."""
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
