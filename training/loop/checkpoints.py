"""Checkpoints of a training: last.ckpt every so many steps and at the end, best.ckpt by a named figure.

Each is written beside its place and renamed, and only if every number in it is finite. They hold numbers and plain
containers, so that going on reads them with `weights_only=True` and runs nothing that a file carries.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch

from limner.runtime.errors import InputError, LimnerError, nearest
from limner.runtime.storage.stopping import partial

LAST, BEST = "last.ckpt", "best.ckpt"
log = logging.getLogger("limner")


class Checkpoints(pl.Callback):
    """Writes them; the best is the one whose `monitor` was lowest or highest of all validations."""

    def __init__(self, folder: Path, every: int, monitor: str = "", mode: Literal["min", "max"] = "min") -> None:
        self.folder, self.every, self.monitor, self.mode = folder, every, monitor, mode
        self.saved = 0  # step of last.ckpt
        self.best: float | None = None
        self.best_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.saved = trainer.global_step

    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._figure(trainer)  # a wrong name is found before the first step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any,
                           batch_idx: int) -> None:  # fmt: skip
        step = trainer.global_step
        if step > self.saved and (step // self.every > self.saved // self.every or step >= trainer.max_steps):
            self.save(trainer, LAST)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or not self.monitor:
            return
        value = self._figure(trainer)
        better = self.best is None or (value < self.best if self.mode == "min" else value > self.best)
        if math.isfinite(value) and better:
            self.best, self.best_step = value, trainer.global_step
            self.save(trainer, BEST)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step > self.saved:
            self.save(trainer, LAST)

    def save(self, trainer: pl.Trainer, name: str) -> None:
        """Write a checkpoint of now; LimnerError, and nothing is written, if a weight is not finite."""
        self._check_finite(trainer)
        if name == LAST:
            self.saved = trainer.global_step
        beside = self.folder / f".{name}.part"
        if not trainer.is_global_zero:  # takes part, and writes nothing
            trainer.save_checkpoint(beside)
            return
        with partial(beside):
            trainer.save_checkpoint(beside)
            beside.replace(self.folder / name)

    def save_before_leaving(self, trainer: pl.Trainer) -> None:
        """last.ckpt by this process alone, at the end of a step: others may not come to a barrier any more."""
        if trainer.is_global_zero and trainer.global_step > self.saved:
            self._check_finite(trainer)
            with partial(self.folder / f".{LAST}.part") as beside:
                trainer.strategy.checkpoint_io.save_checkpoint(trainer._checkpoint_connector.dump_checkpoint(), beside)
                beside.replace(self.folder / LAST)

    def last_kept(self) -> str:
        """Where a stopped run stands, as a clause; empty if nothing is saved yet."""
        path = self.folder / LAST
        return f"{path} holds step {self.saved}, the last good one" if path.exists() else ""

    def _figure(self, trainer: pl.Trainer) -> float:
        if not self.monitor:
            return math.nan
        known = {name: value for name, value in trainer.callback_metrics.items() if not name.startswith("train")}
        if self.monitor not in known:
            raise InputError("trainer.monitor", repr(self.monitor), ", ".join(sorted(known)) or "no figure",
                             nearest(self.monitor, known))  # fmt: skip
        value = known[self.monitor].detach().float()
        return float(trainer.strategy.reduce(value, reduce_op="mean") if trainer.world_size > 1 else value)

    def _check_finite(self, trainer: pl.Trainer) -> None:
        for name, value in trainer.lightning_module.state_dict().items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                kept = self.last_kept() or "no checkpoint is kept yet"
                raise LimnerError(f"step {trainer.global_step}: {name} holds NaN or infinity; {kept}")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_step = state_dict["best"], state_dict["best_step"]
