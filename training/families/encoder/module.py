"""Training of the e4e encoder: pictures in, w_plus out, judged by what a frozen generator draws from it.

Losses: pixels (L2), a perceptual distance on the identity network's activations, identity (1 - cosine),
the size of the deltas (Tov et al. 2021, eq. 3), and, where a picture's own latent is known, its distance.
Deltas are let in layer by layer, as published. The judge has no part in this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from limner.training.avatars.dataset import image_float
from limner.training.families.augment import AugmentConfig, augment
from limner.training.loop.batches import Batch, step_generator
from limner.training.loop.runner import OptimizerConfig, optimizer_of
from limner.training.loop.steps import draw_number, uses_scaler
from limner.training.models.irse import IdentityNet
from limner.training.models.psp import E4eEncoder

TargetLatent = Callable[[Batch], torch.Tensor]  # a batch's w_plus [N,L,D]
CodeLosses = Callable[[torch.Tensor, Batch], dict[str, torch.Tensor]]  # w_plus [N,L,D], a batch: options, pose


class Synthesis(Protocol):
    """What is needed of a generator."""

    def synthesis(self, w_plus: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True)
class EncoderTraining:
    """Weights of the losses and the schedule; a weight of 0 skips its work."""

    pixel: float = 1.0  # mean square of the difference
    perceptual: float = 0.5  # distance of activations of the identity network
    identity: float = 0.1  # 1 - cosine of identity
    delta: float = 2e-4  # of the mean norm of a delta
    latent: float = 1.0  # mean square of the distance to the known w_plus
    options: float = 0.2  # cross-entropy of a known picture's options, read from w_plus
    pose: float = 0.0  # mean square of the error of its pose, in the data's own limits
    image_from: float = 0.4  # share of the steps after which pictures are drawn; only the latent loss before
    deltas_from: float = 0.1  # share of the steps in which there are no deltas
    deltas_until: float = 0.5  # share of the steps after which all layers have one


def perceptual(network: IdentityNet, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Distance [N] of activations, channel vectors at length 1 (after Zhang et al. 2018, without learnt weights)."""
    terms = [
        (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1).mean((1, 2))
        for x, y in zip(network.maps(a), network.maps(b), strict=True)
    ]
    return torch.stack(terms).mean(0)


class EncoderModule(pl.LightningModule):
    """Losses and logging of the encoder; the networks are passed in, generator and identity are frozen."""

    def __init__(
        self,
        network: E4eEncoder,
        generator: Synthesis,
        identity: IdentityNet | None,  # None leaves out perceptual and identity
        training: EncoderTraining,
        augmentation: AugmentConfig,
        optimizer: OptimizerConfig,
        max_steps: int,
        seed: int = 0,
        target_w_plus: TargetLatent | None = None,  # None leaves out the latent loss
        code_losses: CodeLosses | None = None,  # None leaves out the losses of options and pose
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.generator, self.identity = generator, identity
        for frozen in (generator, identity):
            if isinstance(frozen, nn.Module):
                frozen.eval().requires_grad_(False)
        self.config, self.augmentation, self.optimizer = training, augmentation, optimizer
        self.max_steps, self.seed, self.target_w_plus = max_steps, seed, target_w_plus
        self.code_losses = code_losses
        self._shown: torch.Tensor | None = None

    def train(self, mode: bool = True) -> EncoderModule:
        super().train(mode)
        for frozen in (self.generator, self.identity):
            if isinstance(frozen, nn.Module):
                frozen.eval()
        return self

    def stage(self, step: int) -> int:
        """The last layer with a delta at a step: 0 at first, then one more at a time."""
        start, stop = (share * self.max_steps for share in (self.config.deltas_from, self.config.deltas_until))
        along = (step - start) / max(stop - start, 1)
        last = self.network.config.num_ws - 1
        return max(0, min(last, round(along * last)))

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        target = image_float(batch["image"])
        image = augment(target, self.augmentation, step_generator(self.seed, draw_number(self)))
        self.network.stage = self.stage(self.global_step)
        common, deltas = self.network.offsets(image)
        w_plus = self.network.assemble(common.float(), [delta.float() for delta in deltas])
        losses: dict[str, torch.Tensor] = {}
        if deltas:
            losses["delta"] = torch.stack(deltas, 1).float().norm(dim=-1).mean()
        if self.target_w_plus is not None and self.config.latent:
            losses["latent"] = (w_plus - self.target_w_plus(batch)).square().mean()
        if self.code_losses is not None and (self.config.options or self.config.pose):
            known = self.code_losses(w_plus, batch)
            losses |= {name: value for name, value in known.items() if getattr(self.config, name)}
        if "latent" not in losses or self.global_step >= self.config.image_from * self.max_steps:
            losses |= self.image_losses(self.generator.synthesis(w_plus), target)
        self.log_dict({f"train/{name}": value for name, value in losses.items()})
        return torch.stack([getattr(self.config, name) * value for name, value in losses.items()]).sum()

    def image_losses(self, made: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """The losses between drawn and true pictures [N,3,H,W], each a mean over the batch."""
        losses = {"pixel": (made - target).square().mean()}
        if self.identity is not None and self.config.identity:
            losses["identity"] = 1 - (self.identity(made) * self.identity(target)).sum(1).mean()
        if self.identity is not None and self.config.perceptual:
            losses["perceptual"] = perceptual(self.identity, made, target).mean()
        return losses

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        target, stage = image_float(batch["image"]), self.network.stage
        self.network.stage = self.stage(self.global_step)
        w_plus = self.network(target).float()
        self.network.stage = stage
        made = self.generator.synthesis(w_plus).float()
        size = len(target)
        for name, value in self.image_losses(made, target).items():
            self.log(f"validation/{name}", value, batch_size=size)
        if self.code_losses is not None:
            for name, value in self.code_losses(w_plus, batch).items():
                self.log(f"validation/{name}", value, batch_size=size)
        if self.target_w_plus is not None:
            self.log("validation/latent", (w_plus - self.target_w_plus(batch)).square().mean(), batch_size=size)
        if batch_idx == 0:
            self._shown = torch.stack([target[:8], made[:8]], 1).flatten(0, 1)

    def grid(self) -> torch.Tensor | None:
        """Pictures and what was drawn of them, in turns [16,3,H,W]."""
        return self._shown

    def configure_optimizers(self) -> Any:
        return optimizer_of(self.network, self.optimizer, self.max_steps, uses_scaler(self))
