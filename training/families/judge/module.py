"""Training of the attribute judge: cross-entropy per attribute on augmented rendered pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from limner.runtime.errors import InputError
from limner.training.avatars.dataset import image_float
from limner.training.families.augment import AugmentConfig, augment
from limner.training.loop.batches import Batch, step_generator
from limner.training.loop.runner import OptimizerConfig, optimizer_of
from limner.training.loop.steps import draw_number, uses_scaler


class JudgeModule(pl.LightningModule):
    """Losses and logging of a network that reads attributes, passed in; the second judge brings its own losses."""

    def __init__(
        self,
        network: nn.Module,  # with the attributes in its config
        augmentation: AugmentConfig,
        optimizer: OptimizerConfig,
        max_steps: int,
        seed: int = 0,
        weights: Mapping[str, float] | None = None,  # of a part's loss, 1 where none is given
        parts: Sequence[str] | None = None,  # of the loss; the attributes if not given
    ) -> None:
        super().__init__()
        self.network: Any = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.augmentation, self.optimizer, self.max_steps, self.seed = augmentation, optimizer, max_steps, seed
        names = [name for name, _ in self.network.config.attributes] if parts is None else list(parts)
        for name in weights or {}:
            if name not in names:
                raise InputError("weights", repr(name), ", ".join(names))
        self.weights = [float((weights or {}).get(name, 1.0)) for name in names]

    def _losses(self, image: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed cross-entropy, and correct answers [N, attributes]."""
        attributes = batch["attributes"]
        logits = self.network(image).values()
        losses = [self.weights[i] * F.cross_entropy(row.float(), attributes[:, i]) for i, row in enumerate(logits)]
        right = [row.argmax(1) == attributes[:, i] for i, row in enumerate(logits)]
        return torch.stack(losses).sum(), torch.stack(right, 1)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        generator = step_generator(self.seed, draw_number(self))
        image = augment(image_float(batch["image"]), self.augmentation, generator)
        loss, right = self._losses(image, batch)
        self.log("train/loss", loss)
        self.log("train/accuracy", right.float().mean())
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        loss, right = self._losses(image_float(batch["image"]), batch)
        size = len(right)
        self.log("validation/loss", loss, batch_size=size)
        for i, (name, _) in enumerate(self.network.config.attributes):
            self.log(f"validation/{name}", right[:, i].float().mean(), batch_size=size)

    def compiled_parts(self) -> list[nn.Module]:
        """What `trainer.compile` compiles."""
        return [self.network]

    def configure_optimizers(self) -> Any:
        return optimizer_of(self.network, self.optimizer, self.max_steps, uses_scaler(self))
