"""What a person reads while a training runs: one short line now and then. Whole figures are in the CSV table."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from typing import Any

import pytorch_lightning as pl

from limner.training.loop.steps import FiniteSteps

SHOWN = 5  # figures in a line
log = logging.getLogger("limner")


class ProgressLine(pl.Callback):
    """A line every so many seconds: step, pictures a second, time left, loss; and one for each validation."""

    def __init__(self, pictures_a_step: int, steps: FiniteSteps | None = None, monitor: str = "",
                 every_s: float = 15.0) -> None:  # fmt: skip
        self.pictures, self.steps, self.monitor, self.every_s = pictures_a_step, steps, monitor, every_s
        self._last = self._start = 0.0
        self._step = self._first = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last = self._start = time.monotonic()
        self._step = self._first = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any,
                           batch_idx: int) -> None:  # fmt: skip
        now, step = time.monotonic(), trainer.global_step
        if step == self._step or (now - self._last < self.every_s and step < trainer.max_steps):
            return
        rate = (step - self._step) * self.pictures * trainer.world_size / max(now - self._last, 1e-9)
        left = (now - self._start) / max(1, step - self._first) * (trainer.max_steps - step)
        self._last, self._step = now, step
        parts = [f"step {step} of {trainer.max_steps}", f"{rate:.0f} pictures/s", f"{duration(left)} left"]
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is not None:
            parts.append(f"loss {float(loss):.4g}")
        if self.steps is not None:
            parts.append(f"gradient {self.steps.norm:.3g}")
        log.info("%s", ", ".join(parts))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            log.info("validation at step %d: %s", trainer.global_step, figures(trainer, self.monitor))


def figures(trainer: pl.Trainer, monitor: str = "") -> str:
    """The monitored figure, then the means of figures that end alike: "clip 0.31" of validation/<name>/clip."""
    found = {name: float(value) for name, value in trainer.callback_metrics.items() if not name.startswith("train")}
    alike: dict[str, list[float]] = defaultdict(list)
    for name, value in found.items():
        alike[name.rpartition("/")[2]].append(value)
    means = {name: sum(values) / len(values) for name, values in alike.items()}
    chosen = ({monitor: found[monitor]} if monitor in found else {}) | means
    return ", ".join(f"{name} {value:.4g}" for name, value in list(chosen.items())[:SHOWN]) or "no figure"


def duration(seconds: float) -> str:
    """ "45 s", "12 min", "3 h 20 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
