"""The encoder's run: config, networks, data, checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from limner.runtime.errors import InputError
from limner.training.avatars.attributes import STYLES
from limner.training.avatars.dataset import AvatarsConfig, AvatarsDataset
from limner.training.families.augment import AugmentConfig
from limner.training.families.card import Card
from limner.training.families.encoder.figures import evaluate
from limner.training.families.encoder.module import EncoderModule, EncoderTraining
from limner.training.families.stylegan2.warmup import CodeEmbedding
from limner.training.loop.batches import Batch, StepData
from limner.training.loop.runner import OptimizerConfig, TrainerConfig
from limner.training.models.irse import BodyConfig, IdentityNet
from limner.training.models.judge import Judge
from limner.training.models.psp import E4eEncoder, EncoderConfig
from limner.training.models.store import load_model, save_model
from limner.training.models.stylegan2 import Generator

EMBEDDING = "code_embedding.safetensors"  # beside a generator whose latents of known pictures are known
SHARPNESS = 8.0  # of the softmax over a decoded code, whose right place is 1 and others 0


@dataclass(frozen=True)
class EncoderSizes:
    """The network's sizes; the rest follows from the generator."""

    input_size: int = 128  # pixels a side that the body sees
    body: BodyConfig = field(default_factory=lambda: BodyConfig(16, (16, 32, 64, 96), (1, 2, 2, 2), 8))
    style_width: int = 64  # channels inside the map-to-style blocks
    coarse: int = 3  # first layers of W+, read from the smallest feature map
    middle: int = 7  # layers up to this one, from the middle map; the rest from the largest
    codebook: bool = False  # project onto the generator's code embedding, if it came with one


@dataclass(frozen=True)
class Run:
    """Everything that makes one encoder. Folders are those of finished checkpoints; an empty one is left out."""

    generator: str = "checkpoints/avatars/stylegan2"  # its StyleGAN2
    identity: str = "checkpoints/avatars/identity"  # for the perceptual and the identity loss
    judge: str = "checkpoints/avatars/judge"  # for the card's figures alone
    start: str = ""  # folder of an encoder to go on from, of this generator or one of the same options; empty: anew
    data: AvatarsConfig = field(default_factory=AvatarsConfig)
    model: EncoderSizes = field(default_factory=EncoderSizes)
    training: EncoderTraining = field(default_factory=EncoderTraining)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


def load_generator(run: Run) -> Generator:
    model = load_model(run.generator)
    if not isinstance(model, Generator):
        raise InputError("generator", f"{run.generator}, a {type(model).__name__}", "the folder of a StyleGAN2")
    return model


def load_identity(run: Run) -> IdentityNet | None:
    if not run.identity:
        return None
    model = load_model(run.identity)
    if not isinstance(model, IdentityNet):
        raise InputError("identity", f"{run.identity}, a {type(model).__name__}", "the folder of an identity network")
    return model


class KnownLatents:
    """What is known of the latents of pictures with known options: w = code @ embedding, and its inverse."""

    def __init__(self, generator: Generator, embedding: CodeEmbedding, pose: float = 1.0) -> None:
        """`pose` is the data's share of POSE_LIMITS."""
        self.generator, self.embedding, self.pose = generator, embedding.requires_grad_(False), pose
        self.inverse = torch.linalg.pinv(embedding.weight.double()).float()  # [D, code]

    @torch.no_grad()
    def target(self, batch: Batch) -> torch.Tensor:
        """w_plus [N,L,D] of a batch."""
        embedding = self.embedding.to(batch["pose"].device)
        return self.generator.broadcast(embedding(embedding.encode(batch["options"], batch["pose"])))

    def code_losses(self, w_plus: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """Of the code that the mean layer's w decodes to: mean cross-entropy of the options, mean square of the
        error of the pose, in the limits that the data keeps."""
        code = w_plus.mean(1) @ self.inverse.to(w_plus)  # [N, code]
        *blocks, pose = code.split(self.embedding.sizes, 1)
        options = batch["options"]
        wrong = [F.cross_entropy(SHARPNESS * block, options[:, i]) for i, block in enumerate(blocks)]
        error = (pose - batch["pose"]) / (self.pose or 1.0)
        return {"options": torch.stack(wrong).mean(), "pose": error.square().mean()}


def known_latents(run: Run, generator: Generator) -> KnownLatents | None:
    """Known latents, if the generator came with its code embedding."""
    path = Path(run.generator) / EMBEDDING
    if not path.exists():
        return None
    embedding = CodeEmbedding(STYLES[run.data.style], generator.config.w_dim)
    embedding.load_state_dict(load_file(path))
    return KnownLatents(generator, embedding, run.data.pose)


def model_config(run: Run, generator: Generator) -> EncoderConfig:
    sizes, config = run.model, generator.config
    known = known_latents(run, generator) if run.model.codebook else None
    blocks = tuple(known.embedding.sizes) if known else ()
    return EncoderConfig(config.size, sizes.input_size, generator.num_ws, config.w_dim, sizes.body,
                         sizes.style_width, sizes.coarse, sizes.middle, blocks)  # fmt: skip


def build(run: Run, cache: Path) -> tuple[EncoderModule, StepData]:
    """The module and its data; the encoder is fresh, the other networks are loaded."""
    generator = load_generator(run)
    encoder = E4eEncoder(model_config(run, generator))
    average: torch.Tensor = generator.state_dict()["latent_avg"]
    encoder.latent_avg = average.expand_as(encoder.latent_avg).clone()
    known = known_latents(run, generator)
    if run.start:
        go_on_from(run.start, encoder)
    if known and encoder.codebook is not None:
        rebase(encoder, known.embedding.weight.detach()) if run.start else encoder.codebook.fill(known.embedding.weight)
    module = EncoderModule(
        encoder, generator, load_identity(run), run.training, run.augment, run.optimizer, run.trainer.max_steps,
        run.trainer.seed, known.target if known else None, known.code_losses if known else None,
    )  # fmt: skip
    data = StepData(
        lambda: AvatarsDataset(run.data, "train", cache), lambda: AvatarsDataset(run.data, "validation", cache),
        run.trainer.batch_size, run.trainer.seed, run.trainer.validation_limit, run.trainer.workers,
    )  # fmt: skip
    return module, data


def go_on_from(folder: str, encoder: E4eEncoder) -> None:
    """Take the weights of an earlier encoder of the same sizes."""
    earlier = load_model(folder)
    if not isinstance(earlier, E4eEncoder) or earlier.config != encoder.config:
        raise InputError("start", f"{folder}, another network", "an encoder with this run's `model` and generator size")
    encoder.load_state_dict(earlier.state_dict())


@torch.no_grad()
def rebase(encoder: E4eEncoder, book: torch.Tensor) -> None:
    """Move an encoder to the w space of another code embedding [K, w_dim] that differs by an offset of w."""
    if encoder.codebook is None:
        return
    starts = torch.tensor([0, *encoder.codebook.sizes[:-2]]).cumsum(0)  # the first choice of every option
    encoder.latent_avg += (book - encoder.codebook.book)[starts].sum(0)
    encoder.codebook.fill(book)


def save(run: Run, module: EncoderModule, folder: Path, cache: Path) -> dict[str, Any]:
    """Write the checkpoint, measure its inversions of test pictures, write the card. Returns the figures."""
    save_model(folder, "encoder", module.network.config, module.network.state_dict())
    encoder: Any = load_model(folder)
    judge = load_model(run.judge) if run.judge else None
    test = AvatarsDataset(run.data, "test", cache)
    figures = evaluate(encoder, load_generator(run), load_identity(run), judge if isinstance(judge, Judge) else None,
                       test)  # fmt: skip
    Card("Encoder of the avatars", "encoder", WHAT, run, STYLES[run.data.style], figures).write(folder)
    return figures


WHAT = """An e4e encoder: a picture to W+ of the StyleGAN2 generator, as one w and a delta for each layer. Where
pictures of known options have a known latent (the generator's code embedding), the distance to it and the options
that it decodes to are losses too; the others are pixels, a perceptual distance on the identity network, identity,
and the size of the deltas."""
