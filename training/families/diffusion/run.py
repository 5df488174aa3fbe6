"""The diffusion model's run: config, networks, latents, and the checkpoint as a folder that diffusers reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from limner.runtime.errors import InputError
from limner.training.avatars.attributes import STYLES
from limner.training.avatars.dataset import AvatarsConfig
from limner.training.avatars.tokens import CaptionTokenizer
from limner.training.families.card import Card
from limner.training.families.diffusion.drawing import Sampler
from limner.training.families.diffusion.figures import evaluate
from limner.training.families.diffusion.latents import latents_of
from limner.training.families.diffusion.module import DenoiserModule, DenoiserTraining, Describer
from limner.training.families.stylegan2.figures import save_grid
from limner.training.loop.batches import StepData
from limner.training.loop.runner import OptimizerConfig, TrainerConfig, pictures_seen
from limner.training.models.diffusion import (
    DenoiserConfig,
    build_denoiser,
    load_autoencoder,
    load_denoiser,
    save_pipeline,
    text_encoder_of,
)
from limner.training.models.judge import Judge
from limner.training.models.store import load_model

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel


@dataclass(frozen=True)
class Run:
    """Everything that makes one diffusion model. Folders are those of finished checkpoints."""

    autoencoder: str = "checkpoints/avatars/autoencoder"  # its latents are what the UNet learns
    clip: str = "checkpoints/avatars/clip"  # its text tower and tokenizer
    judge: str = "checkpoints/avatars/judge"  # for the card's figures alone; empty leaves them out
    figures_of: int = 100  # pictures that the card's figures are measured on
    start: str = ""  # folder of a pipeline whose UNet has the same sizes, to go on from; empty: anew
    data: AvatarsConfig = field(default_factory=AvatarsConfig)
    model: DenoiserConfig = field(default_factory=DenoiserConfig)
    training: DenoiserTraining = field(default_factory=DenoiserTraining)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        if self.figures_of < 1:
            raise ValueError(f"figures_of is {self.figures_of}; allowed: 1 or more")


def load_text_encoder(run: Run) -> CLIPTextModel:
    from transformers import CLIPModel

    model = load_model(run.clip)
    if not isinstance(model, CLIPModel):
        raise InputError("clip", f"{run.clip}, a {type(model).__name__}", "the folder of a CLIP")
    return text_encoder_of(model)


def build(run: Run, cache: Path) -> tuple[DenoiserModule, StepData]:
    """The module and its data; the UNet is fresh, latents are encoded unless the cache has them."""
    vae, text_encoder = load_autoencoder(run.autoencoder), load_text_encoder(run)
    tokenizer, style = CaptionTokenizer(run.clip), STYLES[run.data.style]
    latent_size = run.data.size // 2 ** (len(vae.config.block_out_channels) - 1)
    channels, width = int(vae.config.latent_channels), int(text_encoder.config.hidden_size)
    module = DenoiserModule(
        first_network(run, latent_size, channels, width), text_encoder, Sampler(vae, tokenizer, latent_size),
        run.training, run.optimizer, run.trainer.max_steps, run.trainer.seed,
    )  # fmt: skip
    places = run.training.places > 0
    data = StepData(
        lambda: latents_of(run.data, "train", run.autoencoder, cache, places),
        lambda: latents_of(run.data, "validation", run.autoencoder, cache, places),
        run.trainer.batch_size, run.trainer.seed, run.trainer.validation_limit, run.trainer.workers,
        Describer(style, tokenizer, run.training),
    )  # fmt: skip
    return module, data


def first_network(run: Run, latent_size: int, channels: int, text_width: int) -> UNet2DConditionModel:
    """A fresh UNet, or the one of `run.start`."""
    network = build_denoiser(run.model, latent_size, channels, text_width)
    if run.start:
        earlier = load_denoiser(Path(run.start) / "unet")
        try:
            network.load_state_dict(earlier.state_dict())
        except RuntimeError as reason:
            raise InputError("start", f"{run.start}, of other sizes", "a UNet with this run's `model`") from reason
    return network


def save(run: Run, module: DenoiserModule, folder: Path, cache: Path) -> dict[str, Any]:
    """Write the folder, draw the grid of the card, measure prompted attributes, write the card."""
    unet, sampler = module.network.eval(), module.sampler
    save_pipeline(folder, unet, sampler.vae, module.text_encoder, Path(run.clip))
    if run.trainer.accelerator != "cpu" and torch.cuda.is_available():  # pictures are made where it was trained
        for part in (unet, sampler.vae, module.text_encoder):
            part.to("cuda")
    judge = load_model(run.judge) if run.judge else None
    seen = pictures_seen(module, run.trainer)
    figures = {
        "captioned latents seen in training": seen,
        **evaluate(unet, module.text_encoder, sampler, judge if isinstance(judge, Judge) else None, run.data.style,
                   run.figures_of, run.training.guidance),
    }  # fmt: skip
    prompts = list(run.training.prompts)
    rows = [sampler.pictures(unet, module.text_encoder, prompts, run.training.guidance, 25, seed) for seed in range(4)]
    save_grid(torch.cat(rows), folder / "samples.png", columns=len(prompts))
    notes = "![One row a seed, one column a prompt](samples.png)\n\nColumns:\n\n" + "\n".join(
        f"{i}. {prompt}" for i, prompt in enumerate(prompts, 1)
    )
    Card("Diffusion model of the avatars", "diffusion", WHAT, run, STYLES[run.data.style], figures, notes).write(folder)
    return figures


WHAT = """A latent diffusion model in diffusers' folder format: a UNet2DConditionModel with attention at 16, 8 and 4,
the avatars' autoencoder, and the text tower of the avatars' CLIP, frozen. It predicts the noise under Stable
Diffusion's schedule, so that every scheduler of Stable Diffusion applies. Captions name several attributes at once, in
any order and with synonyms; one in ten is empty, for classifier-free guidance. Weights are stored in fp16."""
