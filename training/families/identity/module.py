"""Training of the identity network: ArcFace over identities, with linear heads for what makes an identity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from limner.training.avatars.attributes import StyleSpec
from limner.training.avatars.dataset import image_float
from limner.training.families.augment import AugmentConfig, augment
from limner.training.loop.batches import Batch, step_generator
from limner.training.loop.runner import OptimizerConfig, optimizer_of
from limner.training.loop.steps import draw_number, uses_scaler
from limner.training.models.irse import IdentityNet


@dataclass(frozen=True)
class ArcFaceConfig:
    """Deng et al. 2019, eq. 3: logits s cos(theta + m) at the right class, s cos(theta) elsewhere."""

    scale: float = 24.0  # s
    margin: float = 0.3  # m, radians
    margin_warmup: float = 0.3  # share of the steps in which m grows from 0
    head_weight: float = 0.3  # of the option heads, which are dropped after training


def arcface_logits(cosine: torch.Tensor, target: torch.Tensor, scale: float, margin: float) -> torch.Tensor:
    """cosine [N,K], target int64 [N] -> logits [N,K]. Past theta + m > pi the published linear form goes on."""
    picked = cosine.gather(1, target[:, None])
    sine = (1 - picked.square()).clamp(min=1e-7).sqrt()
    shifted = picked * math.cos(margin) - sine * math.sin(margin)
    straight = picked - math.sin(math.pi - margin) * margin
    shifted = torch.where(picked > math.cos(math.pi - margin), shifted, straight)
    return scale * cosine.scatter(1, target[:, None], shifted)


def area_under_curve(same: torch.Tensor, different: torch.Tensor) -> float:
    """Probability that a score of `same` is above one of `different` (Mann-Whitney; ties count half)."""
    different = different.sort().values
    below = torch.searchsorted(different, same).double()
    up_to = torch.searchsorted(different, same, right=True).double()
    return float(((below + up_to) / 2).mean() / len(different))


def pair_scores(features: torch.Tensor, identity: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines of all pairs of one identity, and of all pairs of two, from unit features [N,C]."""
    cosine, same = features @ features.t(), identity[:, None] == identity[None]
    upper = torch.ones_like(same).triu(1)
    return cosine[same & upper], cosine[~same & upper]


class IdentityModule(pl.LightningModule):
    """Losses and logging of the identity network; the network is passed in."""

    def __init__(
        self,
        network: IdentityNet,
        classes: int,  # identities of the train split
        style: StyleSpec,
        training: ArcFaceConfig,
        augmentation: AugmentConfig,
        optimizer: OptimizerConfig,
        max_steps: int,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.config, self.augmentation, self.optimizer = training, augmentation, optimizer
        self.max_steps, self.seed = max_steps, seed
        width = network.config.embedding
        self.classes = nn.Parameter(torch.randn(classes, width) / math.sqrt(width))
        names = [o.name for o in style.options]
        self.parts = [(names.index(name), len(style.option(name).choices)) for name in style.identity]
        self.heads = nn.ModuleList(nn.Linear(width, count) for _, count in self.parts)
        self._seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        generator = step_generator(self.seed, draw_number(self))
        image = augment(image_float(batch["image"]), self.augmentation, generator)
        features = self.network(image).float()
        cosine = F.linear(features, F.normalize(self.classes))
        along = self.global_step / max(1.0, self.config.margin_warmup * self.max_steps)
        logits = arcface_logits(cosine, batch["identity"], self.config.scale, self.config.margin * min(1.0, along))
        arcface = F.cross_entropy(logits, batch["identity"])
        head = self._head_loss(features, batch["options"])
        right = (cosine.argmax(1) == batch["identity"]).float().mean()
        self.log_dict({"train/arcface": arcface, "train/head": head, "train/accuracy": right})
        return arcface + self.config.head_weight * head

    def _head_loss(self, features: torch.Tensor, options: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of the options that make an identity, read linearly from scaled features."""
        scaled = features * self.config.scale
        losses = [F.cross_entropy(head(scaled), options[:, i])
                  for head, (i, _) in zip(self.heads, self.parts, strict=True)]  # fmt: skip
        return torch.stack(losses).mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._seen.append((self.network(image_float(batch["image"])).float(), batch["identity"]))

    def on_validation_epoch_end(self) -> None:
        features, identity = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        self._seen.clear()
        same, different = pair_scores(features, identity)
        self.log("validation/auc", area_under_curve(same, different))
        self.log("validation/same", same.mean())
        self.log("validation/different", different.mean())

    def compiled_parts(self) -> list[nn.Module]:
        """What `trainer.compile` compiles."""
        return [self.network]

    def configure_optimizers(self) -> Any:
        return optimizer_of(self, self.optimizer, self.max_steps, uses_scaler(self))
