"""Adversarial training of StyleGAN2: non-saturating loss, lazy R1, lazy path-length regularisation, EMA.

Karras et al. 2020: R1 (gamma/2 * |grad D(x)|^2) every 16 steps and path length every 8, each scaled by its
interval; Adam with betas (0, 0.99) whose rates are corrected for the lazy steps; style mixing 0.9.
A drawing term may hold the generator to a warm start (see `warmup_module`): pictures with known options
are drawn from their codes as before, while D judges samples from z.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limner.training.avatars.dataset import image_float
from limner.training.loop.steps import batches_seen
from limner.training.models.discriminator import Discriminator
from limner.training.models.stylegan2 import Generator


@dataclass(frozen=True)
class StyleGAN2TrainConfig:
    """Recipe of the adversarial stage."""

    learning_rate: float = 2e-3  # of the discriminator
    generator_learning_rate: float = 2e-3  # of the generator
    r1_gamma: float = 1.0  # weight of the gradient penalty on real pictures
    r1_every: int = 16  # steps between two penalties
    path_weight: float = 2.0  # of the path length term
    path_every: int = 8  # steps between two of them
    path_batch_shrink: int = 2  # the term sees the batch divided by this
    path_decay: float = 0.01  # of the running mean of path lengths
    style_mixing: float = 0.9  # share of the batches that mix two styles
    ema: float = 0.999  # decay of the average that is kept
    drawing_weight: float = 0.0  # of the warm start's drawing loss on pictures with known options
    train_mapping: bool = True  # whether the mapping network learns too


class StyleGAN2Module(pl.LightningModule):
    """Losses and logging. `drawing_loss(batch) -> scalar` is optional; see drawing_weight."""

    def __init__(self, generator: Generator, discriminator: Discriminator, config: StyleGAN2TrainConfig,
                 drawing_loss: Callable[[dict[str, Tensor]], Tensor] | None = None) -> None:  # fmt: skip
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator, self.config = generator, discriminator, config
        self._drawing_loss = drawing_loss
        self.ema = torch.optim.swa_utils.AveragedModel(
            generator, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(config.ema)
        )
        self.register_buffer("mean_path_length", torch.zeros(()))

    mean_path_length: Tensor

    def sample_w_plus(self, count: int) -> Tensor:
        """w_plus [count, num_ws, w_dim] from fresh z, mixing two styles at a random layer now and then."""
        g = self.generator
        w_plus = g.broadcast(g.mapping(torch.randn(count, g.config.z_dim, device=self.device)))
        if torch.rand(()) < self.config.style_mixing:
            other = g.broadcast(g.mapping(torch.randn(count, g.config.z_dim, device=self.device)))
            cut = int(torch.randint(1, g.num_ws, ()))
            w_plus = torch.cat([w_plus[:, :cut], other[:, cut:]], 1)
        return w_plus

    def training_step(self, batch: dict[str, Tensor], index: int) -> None:
        optimizers: Any = self.optimizers()
        optimizer_g, optimizer_d = optimizers
        real = image_float(batch["image"])
        index = batches_seen(self)
        _do_not_count(optimizer_d)
        self._train_discriminator(real, optimizer_d, index)
        self._train_generator(batch, optimizer_g, index)
        self.ema.update_parameters(self.generator)

    def _step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        optimizer.step()

    def _train_discriminator(self, real: Tensor, optimizer: torch.optim.Optimizer, index: int) -> None:
        with torch.no_grad():
            fake = self.generator.synthesis(self.sample_w_plus(len(real)), noise="random")
        self.discriminator.requires_grad_(True)
        logits_real, logits_fake = self.discriminator(real), self.discriminator(fake)
        loss = F.softplus(-logits_real).mean() + F.softplus(logits_fake).mean()
        self._step(optimizer, loss)
        self.log_dict({"d_loss": loss, "d_real": logits_real.mean(), "d_fake": logits_fake.mean()})
        if index % self.config.r1_every == 0:
            penalty = r1_penalty(self.discriminator, real)
            self._step(optimizer, self.config.r1_gamma / 2 * penalty * self.config.r1_every)
            self.log("r1", penalty)

    def _train_generator(self, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer, index: int) -> None:
        config = self.config
        self.discriminator.requires_grad_(False)
        count = len(batch["image"])
        loss = F.softplus(
            -self.discriminator(self.generator.synthesis(self.sample_w_plus(count), noise="random"))
        ).mean()
        self.log("g_loss", loss)
        if self._drawing_loss is not None and config.drawing_weight:
            drawing = self._drawing_loss(batch)
            self.log("drawing", drawing)
            loss = loss + config.drawing_weight * drawing
        self._step(optimizer, loss)
        _do_not_count(optimizer)
        if config.path_weight and index % config.path_every == 0:
            self._step(optimizer, self._path_loss(max(1, count // config.path_batch_shrink)))

    def _path_loss(self, count: int) -> Tensor:
        lengths = path_lengths(self.generator, self.sample_w_plus(count))
        mean = self.mean_path_length.lerp(lengths.detach().float().mean(), self.config.path_decay)
        self.mean_path_length.copy_(mean)
        self.log("path_length", mean)
        return (lengths - mean).square().mean() * self.config.path_weight * self.config.path_every

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        def adam(network: nn.Module, rate: float, every: int) -> torch.optim.Optimizer:
            ratio = every / (every + 1)
            return torch.optim.Adam(network.parameters(), rate * ratio, betas=(0.0, 0.99**ratio))

        if not self.config.train_mapping:
            self.generator.style.requires_grad_(False)
        return [adam(self.generator, self.config.generator_learning_rate, self.config.path_every),
                adam(self.discriminator, self.config.learning_rate, self.config.r1_every)]  # fmt: skip


def _do_not_count(optimizer: Any) -> None:
    """Let further steps of Lightning's wrapper in this batch not count as steps of the training: a batch is one, the
    generator's, whatever the discriminator and the lazy terms step beside it."""
    optimizer._on_before_step = optimizer._on_after_step = lambda: None


def r1_penalty(discriminator: nn.Module, real: Tensor) -> Tensor:
    """Mean over the batch of |d D(x) / d x|^2 (Mescheder et al. 2018)."""
    real = real.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
    return gradient.float().square().sum((1, 2, 3)).mean()


def path_lengths(generator: Generator, w_plus: Tensor) -> Tensor:
    """|J_w^T y| for y ~ N(0, 1) / sqrt(H W), root mean over layers, [N] (eq. 4 of the paper)."""
    w_plus = w_plus.detach().requires_grad_(True)
    image = generator.synthesis(w_plus, noise="random")
    y = torch.randn_like(image) / math.sqrt(image.shape[2] * image.shape[3])
    (gradient,) = torch.autograd.grad((image * y).sum(), w_plus, create_graph=True)
    return gradient.float().square().sum(2).mean(1).sqrt()
