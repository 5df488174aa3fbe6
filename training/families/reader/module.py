"""Training of the second judge: cross-entropy per option, and the pose, on augmented rendered pictures."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.runtime.errors import InputError
from limner.training.families.augment import AugmentConfig
from limner.training.families.judge.module import JudgeModule
from limner.training.loop.batches import Batch
from limner.training.loop.runner import OptimizerConfig
from limner.training.models.reader import Reader

POSE_WEIGHT = 5.0  # of the mean absolute error, in units of POSE_LIMITS


class ReaderModule(JudgeModule):
    """The judge's module with the reader's losses. Pictures are not shifted: their pose is read."""

    def __init__(
        self,
        network: Reader,
        augmentation: AugmentConfig,
        optimizer: OptimizerConfig,
        max_steps: int,
        seed: int = 0,
        weights: Mapping[str, float] | None = None,  # of an option's loss, 1 where none is given
    ) -> None:
        if augmentation.shift:
            raise InputError("augment.shift", augmentation.shift, "0: it would change the pose that is read")
        options = [name for name, _ in network.config.options]
        super().__init__(network, augmentation, optimizer, max_steps, seed, weights, options)

    def _losses(self, image: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The summed loss, and correct attributes [N, attributes]."""
        logits, pose, _ = self.network.read_options(image)
        losses = [self.weights[i] * F.cross_entropy(row.float(), batch["options"][:, i])
                  for i, row in enumerate(logits.values())]  # fmt: skip
        off = (pose.float() - batch["pose"]).abs().mean()
        with torch.no_grad():
            read = torch.stack([one.argmax(1) for one in self.network.attribute_logits(logits).values()], 1)
        return torch.stack(losses).sum() + POSE_WEIGHT * off, read == batch["attributes"]
