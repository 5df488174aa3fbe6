"""One training run: a module and its data in, checkpoints, logs and grids out, resumable at any step.

A run folder holds ``config.yaml`` (resolved), ``last.ckpt``, ``csv/`` and ``tensorboard/`` logs, ``grids/``.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import nn

from limner.runtime.errors import InputError
from limner.training.callbacks import Grids, Progress, WeightAverage
from limner.training.config import to_plain
from limner.training.muon import Muon

LAST = "last.ckpt"


@dataclass(frozen=True)
class TrainerConfig:
    """How long and on what; the same for every family."""

    max_steps: int = 1000
    batch_size: int = 64  # pictures a step and process
    seed: int = 0
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true"] = "bf16-mixed"
    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    workers: int = 0  # data loader processes
    compile: bool = False  # torch.compile the heavy part: about 1.5 times as fast, needs a C++ compiler
    threads: int = 0  # CPU threads; 0 leaves torch's choice
    average_decay: float = 0.998  # moving average of the weights; 0 for none
    gradient_clip: float = 1.0  # norm; 0 for none
    validate_every: int = 250  # steps
    validation_limit: int = 1024  # pictures
    checkpoint_every: int = 250  # steps
    log_every: int = 10  # steps

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "devices", "validate_every", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 1 or more")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"average_decay is {self.average_decay}; allowed: 0 up to 1")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, or Muon for matrices and AdamW for vectors, with a warm-up and a cosine down to zero."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.05  # of matrices alone
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: float = 0.05  # of all steps
    name: Literal["adamw", "muon"] = "adamw"


def optimizer_of(module: nn.Module, config: OptimizerConfig, max_steps: int) -> dict[str, Any]:
    """What `configure_optimizers` returns: the optimizer without decay of vectors, and the schedule by step.

    A parameter's attribute `lr_factor`, where it has one, multiplies its learning rate.
    """
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for weight in module.parameters():
        if weight.requires_grad:
            matrix, factor = weight.ndim > 1, float(getattr(weight, "lr_factor", 1.0))
            decay, rate = config.weight_decay if matrix else 0.0, config.learning_rate * factor
            group = groups.setdefault(
                (matrix, factor), {"params": [], "lr": rate, "weight_decay": decay, "matrices": matrix}
            )
            group["params"].append(weight)
    kind: Any = Muon if config.name == "muon" else partial(torch.optim.AdamW, fused=True)
    optimizer: torch.optim.Optimizer = kind(list(groups.values()), config.learning_rate, betas=config.betas)
    warmup = max(1, round(config.warmup * max_steps))

    def along_schedule(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        along = min(1.0, (step - warmup) / max(1, max_steps - warmup))
        return 0.5 + 0.5 * float(torch.cos(torch.tensor(torch.pi * along)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, along_schedule)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def seed_all(config: TrainerConfig) -> None:
    """Seed every generator and set the CPU threads; call it before the networks are made."""
    if config.threads:
        torch.set_num_threads(config.threads)
    pl.seed_everything(config.seed, workers=True, verbose=False)


def fit(
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    config: TrainerConfig,
    out: str | Path,  # run folder
    resolved: Any = None,  # the whole run's config, saved as config.yaml
    resume: bool = False,  # go on from last.ckpt
    fast_dev_run: bool = False,  # one step of everything, nothing written
    average: str = "network",  # the module's attribute that is averaged
    callbacks: tuple[pl.Callback, ...] = (),
) -> pl.Trainer:
    """Train, leaving the averaged weights in the module's network. Returns the trainer.

    Raises InputError when `resume` finds no checkpoint, or when a fresh run meets an old one.
    """
    out = Path(out)
    last = out / LAST
    if resume and not last.exists():
        raise InputError("--resume", f"{out}, which has no {LAST}", "the folder of an earlier run")
    if not (resume or fast_dev_run) and last.exists():
        raise InputError("--out", f"{out}, which holds an earlier run", "another folder, or --resume")
    average_callback = WeightAverage(config.average_decay, average) if config.average_decay else None
    loggers: list[Logger] = []
    hooks: list[pl.Callback] = [*callbacks, *([average_callback] if average_callback else [])]
    if not fast_dev_run:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.yaml").write_text(yaml.safe_dump(to_plain(resolved or config), sort_keys=False))
        start = len(list((out / "csv").glob("*")))  # each start writes a table of its own: csv/0, csv/1 ...
        loggers = [
            CSVLogger(out, name="csv", version=str(start)),
            TensorBoardLogger(out, name="tensorboard", version=""),
        ]
        hooks += [Progress(config.batch_size), Grids(out / "grids"), _checkpoints(out, config)]
    trainer = pl.Trainer(
        max_steps=config.max_steps, max_epochs=-1, accelerator=config.accelerator, devices=config.devices,
        strategy=config.strategy, precision=config.precision, logger=loggers, callbacks=hooks,
        gradient_clip_val=config.gradient_clip or None, log_every_n_steps=config.log_every,
        val_check_interval=config.validate_every, check_val_every_n_epoch=None, num_sanity_val_steps=0,
        enable_checkpointing=not fast_dev_run, enable_model_summary=False, fast_dev_run=fast_dev_run,
        enable_progress_bar=sys.stderr.isatty(), default_root_dir=str(out), use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=str(last) if resume else None, weights_only=False)
    if average_callback and average_callback.average:
        getattr(module, average).load_state_dict(average_callback.average)
    return trainer


def _checkpoints(out: Path, config: TrainerConfig) -> ModelCheckpoint:
    """`last.ckpt`, written every so many steps and at the end."""
    every = min(config.checkpoint_every, config.max_steps)
    return ModelCheckpoint(
        out, filename="last", save_top_k=1, every_n_train_steps=every, save_on_train_epoch_end=False,
        enable_version_counter=False,
    )  # fmt: skip


def quiet() -> None:
    """Progress as plain log lines on stderr, without Lightning's hints."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning").setLevel(logging.WARNING)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
