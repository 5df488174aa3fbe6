"""StyleGAN2's run: three stages, each a LightningModule that goes on from the last stage's checkpoint folder.

``warmup`` (options -> picture), ``mapping`` (z -> w under the coupling), ``adversarial`` (the published losses).
A stage saves the generator with the code embedding beside it; ``start`` names the folder it goes on from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from safetensors.torch import load_file, save_file

from limner.runtime.errors import InputError
from limner.training.avatars.attributes import STYLES
from limner.training.avatars.dataset import AvatarsConfig, AvatarsDataset
from limner.training.families.card import Card
from limner.training.families.stylegan2.adversarial import StyleGAN2Module, StyleGAN2TrainConfig
from limner.training.families.stylegan2.figures import evaluate
from limner.training.families.stylegan2.mapping import Coupling, MappingConfig, MappingModule, Ticks
from limner.training.families.stylegan2.mapping_start import construct, shift_to_positive
from limner.training.families.stylegan2.stand_ins import StandIns
from limner.training.families.stylegan2.warmup import CodeEmbedding, WarmupConfig, WarmupModule
from limner.training.loop.batches import Batches, StepData
from limner.training.loop.runner import TrainerConfig
from limner.training.models.discriminator import Discriminator
from limner.training.models.store import load_model, save_model
from limner.training.models.stylegan2 import Generator, StyleGAN2Config

EMBEDDING = "code_embedding.safetensors"


@dataclass(frozen=True)
class Run:
    """Everything that makes one generator. `trainer` is the stage's own."""

    stage: Literal["warmup", "mapping", "adversarial"] = "warmup"  # which part of the recipe
    start: str = ""  # checkpoint folder to go on from; empty begins anew
    judge: str = ""  # checkpoint folder of the judge, for the card's figures; empty leaves them out
    figures_of: int = 5000  # samples that the card's figures are measured on; a multiple of 50
    compile: bool = False  # torch.compile the synthesis: about twice as fast, needs a C++ compiler
    data: AvatarsConfig = field(default_factory=AvatarsConfig)
    model: StyleGAN2Config = field(default_factory=StyleGAN2Config)
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    mapping: MappingConfig = field(default_factory=MappingConfig)
    adversarial: StyleGAN2TrainConfig = field(default_factory=StyleGAN2TrainConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        if self.stage == "mapping" and not self.start:
            raise ValueError("stage mapping needs `start`, the folder of a finished warmup")
        if self.figures_of < 50 or self.figures_of % 50:
            raise ValueError(f"figures_of is {self.figures_of}; allowed: 50, 100, 150 ...")
        if self.trainer.average_decay:
            raise ValueError("trainer.average_decay is not 0; allowed: 0, since each stage keeps an average of its own")
        if self.trainer.precision not in ("32-true", "bf16-mixed"):
            raise ValueError(f"trainer.precision is {self.trainer.precision}; allowed: 32-true, bf16-mixed")
        if self.stage == "adversarial" and self.trainer.accumulate_grad_batches > 1:
            raise ValueError("trainer.accumulate_grad_batches is not 1; allowed: 1 in stage adversarial")


def networks(run: Run) -> tuple[Generator, CodeEmbedding]:
    """Generator and embedding, fresh or from `run.start`."""
    embedding = CodeEmbedding(STYLES[run.data.style], run.model.w_dim)
    if not run.start:
        return Generator(run.model), embedding
    generator = load_model(run.start)
    path = Path(run.start) / EMBEDDING
    if not isinstance(generator, Generator) or generator.config != run.model:
        raise InputError("start", f"{run.start}, a generator of another size", "one with this run's `model`")
    if not path.exists():
        raise InputError("start", f"{run.start}, which has no {EMBEDDING}", "a folder written by stage warmup")
    embedding.load_state_dict(load_file(path))
    return generator.requires_grad_(True).train(), embedding


def build(run: Run, cache: Path) -> tuple[pl.LightningModule, pl.LightningDataModule]:
    """The stage's module and its data."""
    generator, embedding = networks(run)
    share = run.warmup.overdrive.stand_in if run.stage == "warmup" else 0.0  # a discriminator sees the data as it is

    def train() -> Batches:
        pictures = AvatarsDataset(run.data, "train", cache)
        return StandIns(pictures, share) if share else pictures

    data = StepData(
        train, lambda: AvatarsDataset(run.data, "validation", cache),
        run.trainer.batch_size, run.trainer.seed, run.trainer.validation_limit, run.trainer.workers,
    )  # fmt: skip
    bf16 = run.trainer.precision.startswith("bf16")
    if run.stage == "mapping":
        coupling = Coupling(STYLES[run.data.style], run.model.z_dim, run.mapping.seed, run.data.pose)
        if run.mapping.start == "constructed":
            shift_to_positive(generator, embedding)
            construct(generator, embedding, coupling)
        return MappingModule(generator, embedding, coupling, run.mapping, run.trainer.max_steps), Ticks(
            run.trainer.max_steps
        )
    warmup = WarmupModule(generator, embedding, run.warmup, run.compile, bf16, run.stage == "warmup")
    if run.stage == "warmup":
        return warmup, data
    discriminator = Discriminator(run.model)
    discriminator.compute_dtype = torch.bfloat16 if bf16 else torch.float32
    return StyleGAN2Module(generator, discriminator, run.adversarial, warmup.full_drawing_loss), data


def finish(run: Run, module: Any) -> tuple[Generator, CodeEmbedding]:
    """The averaged networks of a stage, with latent_avg measured anew over 50,000 samples."""
    generator, embedding = (
        module.generator,
        networks(run)[1] if run.stage == "adversarial" else module.embedding,
    )
    if run.stage == "warmup":
        generator, embedding = module.ema.module
    elif run.stage == "mapping":
        generator.style.load_state_dict(module.ema.module.state_dict())
        generator.requires_grad_(False)
    else:
        generator = module.ema.module
    generator.compute_dtype = torch.float32
    set_latent_average(generator)
    return generator, embedding


@torch.no_grad()
def set_latent_average(generator: Generator, samples: int = 50_000, seed: int = 0) -> None:
    """latent_avg = the mean of w over seeded samples."""
    rng = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(generator.latent_avg, dtype=torch.float64)
    for _ in range(samples // 5000):
        total += generator.mapping(torch.randn(5000, generator.config.z_dim, generator=rng)).double().sum(0)
    generator.latent_avg.copy_(total / (samples // 5000 * 5000))


def save(run: Run, module: Any, folder: Path, cache: Path) -> dict[str, Any]:
    """Write the checkpoint and its embedding, measure it, write the card. Returns the figures."""
    generator, embedding = finish(run, module)
    return save_networks(run, generator, embedding, folder, cache)


def save_networks(
    run: Run, generator: Generator, embedding: CodeEmbedding, folder: Path, cache: Path
) -> dict[str, Any]:
    save_model(folder, "stylegan2", run.model, generator.state_dict())
    save_file({k: v.detach().contiguous() for k, v in embedding.state_dict().items()}, folder / EMBEDDING)
    if not run.judge:
        return {}
    figures = evaluate(load_model(folder), run.judge, run.data, cache, folder, run.figures_of)
    Card("StyleGAN2 generator, 128 px avatars", "stylegan2", WHAT, run, STYLES[run.data.style], figures,
         NOTES).write(folder)  # fmt: skip
    return figures


WHAT = """A StyleGAN2 generator (mapping network, modulated convolutions with demodulation, FIR resampling, skip
to-RGB; z, W, W+ and S) with the published maths and rosinality's parameter names, in plain torch.

![64 samples, seeds 0 to 63, no truncation](samples.png)"""

NOTES = """## What was really done

The synthesis network was not trained adversarially from scratch. It was warm-started as a decoder: each avatar's
known options, as a code of one-hot blocks, pass a frozen random embedding to w, and the synthesis network draws the
picture (L1 weighted towards edges and the face, L1 of gradients; 64 px, then 128 px). So pictures of known options
supervised the generator, not only the encoder. What disturbs the codes makes the latent space one that edits well:
noise per layer, on options alone; a little of other codes mixed in; codes over-driven towards one option (c +
k (t - u), the picture of t as the target, in half of the cases with the to_rgb styles left alone); codes drawn towards
the mean (truncation) with the picture unchanged; and a soft threshold on the response of style channels to each choice.
The mapping network was then written by construction: its layers compute the choices that z stands for under a fixed
coupling that gives options the data's frequencies (`mapping_start.py` beside `training/families/stylegan2/run.py`), and
the embedding. The adversarial stage (non-saturating loss, lazy R1, path length, style mixing) is in the code and
tested; these weights have not been through it.

Shipped weights: some 31,000 steps with Adam (4 to 8 pictures a step, the first at 64 px, many of the face window
alone), which left everything but the face soft: 27.3 dB, held-out pictures drawn from their codes. Then 13,000 steps of
8 in bf16, compiled, 32 minutes on two cores with AVX-512 BF16: Muon for the kernels at 3e-2, Adam at 2e-3 for the rest
and at 4e-3 for the styles' responses, falling along a cosine to a hundredth; codes disturbed by 0.05 and poses not at
all, one code in ten mixed, a quarter over-driven, one in ten truncated: 35.5 dB. Poses are drawn from z as the pictures
have them, a quarter of the limits. Thin patterns (of a knitted hat, of frizzy hair) are still soft."""
