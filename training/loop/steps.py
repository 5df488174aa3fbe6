"""What surrounds every step of a training: its randomness, finite numbers, and the norm of its gradient."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from limner.runtime.errors import LimnerError
from limner.runtime.storage.stopping import Stopped, stop_asked, whole
from limner.training.loop.checkpoints import Checkpoints

SKIPS = 50  # steps in a row that a loss scaler may skip before the training is given up


class NonFiniteTraining(LimnerError):
    """A loss, a gradient or a weight became NaN or infinity; the run stopped before it was used."""


def batches_of(trainer: pl.Trainer) -> int:
    """Batches that a trainer's process has finished, over all starts of the run."""
    total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return int(total.processed)


def batches_seen(module: pl.LightningModule) -> int:
    """Batches that this process has finished, over all starts of the run; 0 outside a training."""
    trainer = module._trainer
    return batches_of(trainer) if trainer is not None else 0


def draw_number(module: pl.LightningModule) -> int:
    """The number of this batch among those of all processes: what its random draws depend on, beside the seed."""
    trainer = module._trainer
    if trainer is None:
        return 0
    return batches_seen(module) * trainer.world_size + trainer.global_rank


def uses_scaler(module: pl.LightningModule) -> bool:
    """Whether losses are scaled and gradients unscaled by the trainer: fp16 on a GPU."""
    trainer = module._trainer
    return trainer is not None and getattr(trainer.precision_plugin, "scaler", None) is not None


class SeededBatches(pl.Callback):
    """Seed torch before every batch from (seed, batch, process), so that dropout and draws repeat after a resume."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
                             ) -> None:  # fmt: skip
        state = np.random.SeedSequence([self.seed, draw_number(pl_module), 3]).generate_state(2, np.uint32)
        torch.manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)


class FiniteSteps(pl.Callback):
    """Stop with NonFiniteTraining before a step that a NaN or an infinity would enter; clip the gradient's norm.

    Clipping is done here and not by the trainer, which refuses it for fused optimizers. Under a loss scaler (fp16) a
    gradient may be infinite now and then: the scaler skips that step itself.
    """

    def __init__(self, clip: float, checkpoints: Checkpoints | None = None) -> None:
        self.clip, self.checkpoints, self.skipped = clip, checkpoints, 0
        self.norm = float("nan")  # of the last step, before it was clipped

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        if not bool(torch.isfinite(loss).all()):
            raise self.error(trainer, f"the loss is {float(loss.detach().float().mean())}")

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule,
                                 optimizer: torch.optim.Optimizer) -> None:  # fmt: skip
        weights = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not weights:
            return
        norm = torch.nn.utils.get_total_norm([p.grad for p in weights if p.grad is not None])
        self.norm = float(norm)
        if not np.isfinite(self.norm):
            self.skipped += 1
            if getattr(trainer.precision_plugin, "scaler", None) is None or self.skipped > SKIPS:
                raise self.error(trainer, f"the gradient's norm is {self.norm}")
            return
        self.skipped = 0
        if self.clip:
            torch.nn.utils.clip_grads_with_norm_(weights, self.clip, norm)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any,
                           batch_idx: int) -> None:  # fmt: skip
        if batch_idx % max(1, int(getattr(trainer, "log_every_n_steps", 1))) == 0:
            pl_module.log("train/gradient_norm", self.norm)

    def error(self, trainer: pl.Trainer, what: str) -> NonFiniteTraining:
        """The sentence: what became of which step, and where to go on."""
        kept = self.checkpoints.last_kept() if self.checkpoints else ""
        advice = "a lower optimizer.learning_rate, a gradient_clip, or precision 32-true may help"
        return NonFiniteTraining(f"step {trainer.global_step + 1}: {what}, so it was not taken; {kept or advice}")


class Stopping(pl.Callback):
    """On a request to stop, let the step that is going end, save last.ckpt, and then end.

    A step that takes longer than the request allows is torn. Until its optimizer begins, the weights are those of the
    step before, and are saved; behind that the last.ckpt that is there stays.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints, self.in_step = checkpoints, False
        self._held = contextlib.ExitStack()
        self._buffers: dict[str, Tensor] = {}  # as they were before the step that is going

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._held.enter_context(whole())

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
                             ) -> None:  # fmt: skip
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._leave_if_asked()
            # a forward pass moves running means, which a step that is torn has to give back
            self._buffers = {name: value.clone() for name, value in pl_module.named_buffers()}

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule,
                                 optimizer: torch.optim.Optimizer) -> None:  # fmt: skip
        self.in_step = True

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any,
                           batch_idx: int) -> None:  # fmt: skip
        self.in_step = False
        self._buffers = {}
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._leave_if_asked()

    def on_validation_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int,
                                  dataloader_idx: int = 0) -> None:  # fmt: skip
        self._leave_if_asked()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._held.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SystemExit) and not self.in_step:  # ours, or the trainer's own for SIGTERM
            with torch.no_grad():
                for name, value in pl_module.named_buffers():
                    if name in self._buffers:
                        value.copy_(self._buffers[name])
            self.checkpoints.save_before_leaving(trainer)
        with contextlib.suppress(Stopped):  # it is on its way already
            self._held.close()

    def _leave_if_asked(self) -> None:
        if (asked := stop_asked()) is not None:
            raise asked
