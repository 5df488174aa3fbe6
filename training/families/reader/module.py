"""Training of the second judge: cross-entropy per option, and the pose, on augmented rendered pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.runtime.errors import InputError
from limner.training.avatars.dataset import image_float
from limner.training.families.augment import AugmentConfig, augment
from limner.training.loop.batches import Batch, step_generator
from limner.training.loop.runner import OptimizerConfig, optimizer_of
from limner.training.loop.steps import draw_number, uses_scaler
from limner.training.models.reader import Reader

POSE_WEIGHT = 5.0  # of the mean absolute error, in units of POSE_LIMITS


class ReaderModule(pl.LightningModule):
    """Losses and logging of the reader; the network is passed in. Pictures are not shifted: their pose is read."""

    def __init__(
        self,
        network: Reader,
        augmentation: AugmentConfig,
        optimizer: OptimizerConfig,
        max_steps: int,
        seed: int = 0,
        weights: Mapping[str, float] | None = None,  # of an option's loss, 1 where none is given
    ) -> None:
        super().__init__()
        if augmentation.shift:
            raise InputError("augment.shift", augmentation.shift, "0: it would change the pose that is read")
        self.network = network
        self.augmentation, self.optimizer, self.max_steps, self.seed = augmentation, optimizer, max_steps, seed
        names = [name for name, _ in network.config.options]
        for name in weights or {}:
            if name not in names:
                raise InputError("weights", repr(name), ", ".join(names))
        self.weights = [float((weights or {}).get(name, 1.0)) for name in names]

    def _losses(self, image: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The summed loss, correct attributes [N, attributes], and the pose's mean absolute error."""
        logits, pose, _ = self.network.read_options(image)
        losses = [self.weights[i] * F.cross_entropy(row.float(), batch["options"][:, i])
                  for i, row in enumerate(logits.values())]  # fmt: skip
        off = (pose.float() - batch["pose"]).abs().mean()
        with torch.no_grad():
            read = torch.stack([one.argmax(1) for one in self.network.attribute_logits(logits).values()], 1)
        return torch.stack(losses).sum() + POSE_WEIGHT * off, read == batch["attributes"], off

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        generator = step_generator(self.seed, draw_number(self))
        image = augment(image_float(batch["image"]), self.augmentation, generator)
        loss, right, off = self._losses(image, batch)
        self.log("train/loss", loss)
        self.log("train/accuracy", right.float().mean())
        self.log("train/pose", off)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        loss, right, off = self._losses(image_float(batch["image"]), batch)
        size = len(right)
        self.log("validation/loss", loss, batch_size=size)
        self.log("validation/pose", off, batch_size=size)
        for i, (name, _) in enumerate(self.network.config.attributes):
            self.log(f"validation/{name}", right[:, i].float().mean(), batch_size=size)

    def compiled_parts(self) -> list[nn.Module]:
        """What `trainer.compile` compiles."""
        return [self.network]

    def configure_optimizers(self) -> Any:
        return optimizer_of(self.network, self.optimizer, self.max_steps, uses_scaler(self))
