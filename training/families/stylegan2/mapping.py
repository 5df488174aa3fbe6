"""The mapping network z -> w, trained towards the codes of the warm start.

A fixed coupling reads an avatar off every z: each option has a direction of its own in z space, the normal
quantile of z along it picks the choice by the data's weights (choices that depend on the expression follow
it), and four more directions give the pose. So z ~ N(0, I) is coupled to avatars exactly as often as the
data shows them, and regression z -> embedding(code) gives a mapping network whose samples follow the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from limner.training.avatars.attributes import POSE_NAMES, StyleSpec
from limner.training.families.stylegan2.warmup import CodeEmbedding
from limner.training.models.stylegan2 import Generator


@dataclass(frozen=True)
class MappingConfig:
    """Recipe of the mapping stage."""

    start: Literal["constructed", "random"] = "constructed"  # see mapping_start; random takes thousands of steps
    batch_size: int = 512  # z a step
    learning_rate: float = 3e-3  # at the start; falls along a cosine
    option_weight: float = 0.5  # of the cross-entropy of the options that w decodes to
    sharpness: float = 8.0  # of its softmax; a right place of a code is 1, a wrong one 0
    seed: int = 0  # of the coupling's directions


class Coupling:
    """z [N, z_dim] -> options [N, O] and pose [N, 4]; a pure function of (style, z_dim, seed, pose). Poses are uniform
    in [-pose, pose]: the share of POSE_LIMITS that the pictures have, beyond which the generator was never trained."""

    def __init__(self, style: StyleSpec, z_dim: int, seed: int = 0, pose: float = 1.0) -> None:
        count = len(style.options) + len(POSE_NAMES)
        rng = np.random.default_rng([seed, z_dim])
        self.directions = torch.from_numpy(np.linalg.qr(rng.normal(size=(z_dim, count)))[0]).float()
        self.style, self.pose = style, pose
        self.tables = [self._cumulative(o.name) for o in style.options]

    def _cumulative(self, name: str) -> Tensor:
        """Cumulative weights [M, K]: one row per mouth for options that depend on it, else one row."""
        option = self.style.option(name)
        weights = np.array([c[2] for c in option.choices])
        rows = [weights]
        if option.depends_on:
            rows = [weights * np.array([v in option.allowed[mouth[1]] for v in option.values])
                    for mouth in self.style.option("mouth").choices]  # fmt: skip
        table = np.cumsum([r / r.sum() for r in rows], axis=1)
        return torch.from_numpy(table).float()

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        unit = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        quantile = 0.5 * (1 + torch.erf(unit @ self.directions / math.sqrt(2)))  # uniform in [0, 1]
        names = [o.name for o in self.style.options]
        chosen: list[Tensor] = []
        for i, table in enumerate(self.tables):
            rows = table[chosen[names.index("mouth")]] if len(table) > 1 else table.expand(len(z), -1)
            pick = (quantile[:, i : i + 1] > rows).sum(1).clamp(max=rows.shape[1] - 1)
            chosen.append(pick)
        return torch.stack(chosen, 1), self.pose * (2 * quantile[:, len(names) :] - 1)


class Ticks(pl.LightningDataModule):
    """As many empty batches as there are steps: the module draws its own z."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def train_dataloader(self) -> torch.utils.data.DataLoader[Tensor]:
        return torch.utils.data.DataLoader(torch.zeros(self.steps))  # type: ignore[arg-type]


class MappingModule(pl.LightningModule):
    """Regression of w on z under the coupling; only the mapping network learns."""

    def __init__(self, generator: Generator, embedding: CodeEmbedding, coupling: Coupling, config: MappingConfig,
                 max_steps: int) -> None:  # fmt: skip
        super().__init__()
        self.max_steps = max_steps
        embedding.requires_grad_(False)
        self.generator, self.embedding, self.coupling, self.config = generator, embedding, coupling, config
        self.register_buffer("decode", torch.linalg.pinv(embedding.weight.double()).float(), persistent=False)
        self.ema = torch.optim.swa_utils.AveragedModel(
            generator.style, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
        )

    decode: Tensor

    def _option_loss(self, w: Tensor, options: Tensor) -> Tensor:
        """Cross-entropy of the options over the code that w decodes to, mean over options."""
        blocks = (w @ self.decode).split(self.embedding.sizes, 1)[:-1]
        terms = [F.cross_entropy(self.config.sharpness * block, options[:, i]) for i, block in enumerate(blocks)]
        return torch.stack(terms).mean()

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        z = torch.randn(self.config.batch_size, self.generator.config.z_dim)
        with torch.no_grad():
            options, pose = self.coupling(z)
            target = self.embedding(self.embedding.encode(options, pose).to(self.decode))
        w = self.generator.mapping(z.to(self.decode))
        distance, wrong = (w - target).abs().mean(), self._option_loss(w, options.to(w.device))
        self.log_dict({"mapping_l1": distance, "options": wrong})
        return distance + self.config.option_weight * wrong

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.ema.update_parameters(self.generator.style)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.generator.style.parameters(), self.config.learning_rate, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.max_steps, 1e-5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
