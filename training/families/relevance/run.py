"""Channel relevance's run: a Lightning predict job over the style channels of a generator, for global directions."""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from limner.runtime.errors import InputError
from limner.runtime.storage.files import write_atomically
from limner.runtime.storage.stopping import partial
from limner.training.avatars.attributes import STYLES, option_code, sample_in_split
from limner.training.families.relevance.channel_render import brute_multiply_adds, relevance_cost, tower_multiply_adds
from limner.training.families.relevance.module import (
    RelevanceConfig,
    RelevanceModule,
    gather,
    picture_styles,
    style_statistics,
)
from limner.training.families.relevance.rows import RowKeeper, forget_rows, kept_rows, rows_key
from limner.training.families.stylegan2.run import EMBEDDING
from limner.training.families.stylegan2.warmup import CodeEmbedding
from limner.training.loop.steps import NonFiniteTraining
from limner.training.models.clip import ClipImageTower
from limner.training.models.store import load_model
from limner.training.models.stylegan2 import Generator

log = logging.getLogger("limner")


@dataclass(frozen=True)
class PredictConfig:
    """Where the job runs."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"  # where the networks run
    devices: int | Literal["auto"] = 1  # how many; auto takes all of the accelerator
    strategy: Literal["auto", "ddp", "ddp_spawn"] = "auto"  # of several devices
    threads: int = 0  # CPU threads; 0 leaves torch's choice


@dataclass(frozen=True)
class Run:
    """Everything that makes one relevance file."""

    generator: str = "checkpoints/avatars/stylegan2"  # checkpoint folder
    clip: str = "checkpoints/avatars/clip"  # its CLIP, which reads the pictures
    latents: Literal["samples", "codes"] = (
        "samples"  # of pictures and statistics; codes: the data's own, by its options
    )
    style: str = "avataaars"  # whose codes
    preprocess: Literal["correct", "published"] = "correct"  # what CLIP is shown; "published" for its own files
    relevance: RelevanceConfig = field(default_factory=RelevanceConfig)
    trainer: PredictConfig = field(default_factory=PredictConfig)


def _sample_styles(run: Run, generator: Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, standard deviation and the pictures' styles from samples of z, as published."""
    return (*style_statistics(generator, run.relevance), picture_styles(generator, run.relevance))


@torch.no_grad()
def _code_styles(run: Run, generator: Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same from the codes of training avatars, for a generator that came with its code embedding."""
    style = STYLES[run.style]
    embedding = CodeEmbedding(style, generator.config.w_dim)
    embedding.load_state_dict(load_file(Path(run.generator) / EMBEDDING))
    count = run.relevance.stat_samples
    avatars = [sample_in_split(style, "train", i) for i in range(count + run.relevance.pictures)]
    code = option_code(style, np.array([a.options for a in avatars]), np.array([a.pose for a in avatars]))
    styles = generator.affine(generator.broadcast(embedding(torch.from_numpy(code))))
    known = styles[:count].double()
    return known.mean(0).float(), known.std(0, unbiased=False).float(), styles[count:]


def predict(run: Run, folder: Path, save: Path | None = None) -> dict[str, Any]:
    """Compute and write relevance.safetensors (relevance [S, C], style_mean [S], style_std [S]) and its figures.

    With several devices every process predicts its share of the channels, and rank 0 writes all. Rows are kept in
    `folder` once a minute; a run of the same settings and weights goes on from them.
    """
    generator = load_model(run.generator)
    if not isinstance(generator, Generator):
        raise InputError("generator", f"{run.generator}, a {type(generator).__name__}", "the folder of a StyleGAN2")
    clip: Any = load_model(run.clip)
    tower = ClipImageTower(clip, generator.config.size, run.preprocess).eval()
    mean, std, styles = _code_styles(run, generator) if run.latents == "codes" else _sample_styles(run, generator)
    module = RelevanceModule(generator, tower, styles, mean, std, run.relevance)
    if run.trainer.threads:
        torch.set_num_threads(run.trainer.threads)
    key = rows_key(f"{run.relevance.sigma}, {run.preprocess}", nn.ModuleList([generator, tower]), mean, std, styles)
    module.known = kept_rows(folder, key)
    trainer = pl.Trainer(accelerator=run.trainer.accelerator, devices=run.trainer.devices, logger=False,
                         strategy=run.trainer.strategy, enable_model_summary=False,
                         enable_progress_bar=sys.stderr.isatty(),
                         callbacks=[RowKeeper(folder, key, module.known)])  # fmt: skip
    start = time.monotonic()
    # small differences of pictures: full precision on GPUs too
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        mine = trainer.predict(module) if len(module.predict_dataloader()) else []
    rows = gather(generator, mine or [], trainer, module.known)
    figures = {"channels": int((std > 0).sum()), "channels of no variance, skipped exactly": int(module.still),
               "pictures": run.relevance.pictures, "minutes": round((time.monotonic() - start) / 60, 2),
               **cost_figures(generator, tower, std, run.relevance)}  # fmt: skip
    if trainer.is_global_zero:
        if not bool(torch.isfinite(rows).all()):
            raise NonFiniteTraining(f"channel relevance: rows hold NaN or infinity; {folder} keeps what was computed")
        for place in [folder, *([save] if save else [])]:
            write_result(place, {"relevance": rows, "style_mean": mean, "style_std": std}, figures)
        forget_rows(folder)
    return figures


def write_result(folder: Path, tensors: dict[str, torch.Tensor], figures: dict[str, Any]) -> None:
    """relevance.safetensors and relevance.json, each beside its place and renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    with partial(folder / "relevance.safetensors.part") as beside:
        save_file(tensors, beside)
        beside.chmod(0o644)
        beside.replace(folder / "relevance.safetensors")
    write_atomically(folder / "relevance.json", (json.dumps(figures, indent=2) + "\n").encode())


def cost_figures(generator: Generator, tower: ClipImageTower, std: torch.Tensor, config: RelevanceConfig
                 ) -> dict[str, Any]:  # fmt: skip
    """Multiply-adds against brute force, which renders every channel from the start by plain convolutions."""
    cost, least = (relevance_cost(generator, std, way) for way in (config.convolution, "fewest"))
    extra = tower_multiply_adds(tower, generator.config.size)
    renders = 2 * sum(s.channels for s in generator.layers if s.kind == "conv")
    return {
        "multiply-adds of one picture, millions": round(brute_multiply_adds(generator) / 1e6, 1),
        "of CLIP's tower, millions": round(extra / 1e6, 1),
        f"brute force / this run ({config.convolution})": round(cost.ratio(), 2),
        "brute force / fewest": round(least.ratio(), 2),
        "brute force / fewest, CLIP's tower on both sides": round(least.ratio(extra, renders), 2),
        "fewest, by the layer whose channels are moved": {k: round(a / b, 2) for k, (a, b) in least.layers.items()},
    }
