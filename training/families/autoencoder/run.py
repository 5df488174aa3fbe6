"""The latent autoencoder's run: config, networks, data, checkpoint in diffusers' format."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from limner.runtime.errors import InputError
from limner.training.avatars.attributes import STYLES
from limner.training.avatars.dataset import AvatarsConfig, AvatarsDataset, image_float
from limner.training.families.autoencoder.figures import evaluate, latent_deviation, reconstruct
from limner.training.families.autoencoder.module import AutoencoderModule, AutoencoderTraining
from limner.training.families.card import Card
from limner.training.families.stylegan2.figures import save_grid
from limner.training.loop.batches import StepData
from limner.training.loop.runner import OptimizerConfig, TrainerConfig, pictures_seen
from limner.training.models.diffusion import AutoencoderConfig, build_autoencoder, load_autoencoder, save_autoencoder
from limner.training.models.irse import IdentityNet
from limner.training.models.judge import Judge
from limner.training.models.patches import PatchDiscriminator
from limner.training.models.store import load_model

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

SHOWN = 16  # pictures in the card's grid


@dataclass(frozen=True)
class Run:
    """Everything that makes one autoencoder. Folders are those of finished checkpoints; an empty one is left out."""

    identity: str = "checkpoints/avatars/identity"  # features of the perceptual term
    judge: str = "checkpoints/avatars/judge"  # for the card's figures alone
    start: str = ""  # folder of an autoencoder of the same sizes to go on from; empty: anew
    data: AvatarsConfig = field(default_factory=AvatarsConfig)
    model: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    training: AutoencoderTraining = field(default_factory=AutoencoderTraining)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        if self.model.size != self.data.size:
            raise ValueError(f"model.size is {self.model.size} and data.size is {self.data.size}; allowed: the same")
        if self.training.decoder_only and not self.start:
            raise ValueError("training.decoder_only is true without `start`, the autoencoder whose latents stay")


def load_features(run: Run) -> IdentityNet | None:
    if not run.identity:
        return None
    model = load_model(run.identity)
    if not isinstance(model, IdentityNet):
        raise InputError("identity", f"{run.identity}, a {type(model).__name__}", "the folder of an identity network")
    return model


def build(run: Run, cache: Path) -> tuple[AutoencoderModule, StepData]:
    """The module and its data; the discriminator is fresh, and the autoencoder unless there is `run.start`."""
    discriminator = PatchDiscriminator() if run.training.adversarial else None
    module = AutoencoderModule(
        first_network(run), discriminator, load_features(run), run.training, run.optimizer,
        run.trainer.max_steps, run.trainer.seed,
    )  # fmt: skip
    data = StepData(
        lambda: AvatarsDataset(run.data, "train", cache), lambda: AvatarsDataset(run.data, "validation", cache),
        run.trainer.batch_size, run.trainer.seed, run.trainer.validation_limit, run.trainer.workers,
    )  # fmt: skip
    return module, data


def first_network(run: Run) -> AutoencoderKL:
    network = build_autoencoder(run.model)
    if run.start:
        try:
            network.load_state_dict(load_autoencoder(run.start).state_dict())
        except RuntimeError as reason:
            raise InputError(
                "start", f"{run.start}, of other sizes", "an autoencoder with this run's `model`"
            ) from reason
    return network


def scaling_factor(run: Run, network: AutoencoderKL, cache: Path) -> float:
    """What brings the latents to deviation 1; of latents that stayed, the one that they had."""
    if run.training.decoder_only:
        return float(load_autoencoder(run.start).config.scaling_factor)
    return 1.0 / latent_deviation(network, AvatarsDataset(run.data, "train", cache))


def save(run: Run, module: AutoencoderModule, folder: Path, cache: Path) -> dict[str, Any]:
    """Measure the scaling factor, write the checkpoint, measure it on test pictures, write the card."""
    network = module.network.eval()
    scale = scaling_factor(run, network, cache)
    save_autoencoder(folder, network, scale)
    stored = load_autoencoder(folder)
    judge = load_model(run.judge) if run.judge else None
    test = AvatarsDataset(run.data, "test", cache)
    figures = {
        "pictures seen in training": pictures_seen(module, run.trainer),
        "scaling factor": round(scale, 5),
        **evaluate(stored, judge if isinstance(judge, Judge) else None, test),
    }
    image = image_float(test.batch(torch.arange(min(SHOWN, len(test))).numpy())["image"])
    pairs = torch.stack([image, reconstruct(stored, image)], 1).flatten(0, 1)
    save_grid(pairs, folder / "reconstructions.png")
    what = WHAT.format(channels=run.model.latent_channels, factor=run.model.factor)
    Card("Autoencoder of the avatars", "autoencoder", what, run, STYLES[run.data.style], figures, NOTES).write(folder)
    return figures


WHAT = """diffusers' AutoencoderKL at a small size: a picture to latents with {channels} channels and 1/{factor}
of its sides, and back. Losses, as far as the recipe below gives them a weight: L1, squared error, a perceptual distance
on the frozen identity network, the KL divergence to a unit Gaussian, the correlation between latent channels, and a
patch discriminator in the last part of the training. The folder is in diffusers' format, weights in fp16."""
NOTES = "![Held-out pictures, each followed by its reconstruction](reconstructions.png)"
