"""The two sides of a patch discriminator beside a reconstruction, in one backward pass.

Hinge losses; the generator's term is scaled by the ratio of gradients at its last layer (Esser et al. 2021, eq. 7),
so that a weight of 0.1 is a tenth of what the reconstruction pulls there. Gradients of each side reach its own
network alone: the discriminator is frozen in the one term and the picture detached in the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST_RATIO = 1e4  # of the gradients, as published


@dataclass(frozen=True)
class PatchTerms:
    """Scalars that are added to the reconstruction."""

    generator: Tensor  # before its weight
    discriminator: Tensor
    logged: dict[str, Tensor]  # the losses and the ratio, detached


def patch_terms(discriminator: nn.Module, reconstruction: Tensor, made: Tensor, image: Tensor, last: Tensor
                ) -> PatchTerms:  # fmt: skip
    """Both terms for pictures made and true [N,3,H,W]; `last` is the weight of the layer that drew `made`."""
    discriminator.requires_grad_(False)
    loss = -discriminator(made).mean()
    ratio = gradient_ratio(reconstruction, loss, last)
    discriminator.requires_grad_(True)
    real, fake = discriminator(image), discriminator(made.detach())
    hinge = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    logged = {"generator": loss.detach(), "discriminator": hinge.detach(), "ratio": ratio}
    return PatchTerms(ratio * loss, hinge, logged)


def gradient_ratio(reconstruction: Tensor, loss: Tensor, last: Tensor) -> Tensor:
    """|grad of the reconstruction| / |grad of the adversarial term| at `last`, at most 1e4."""
    (wanted,) = torch.autograd.grad(reconstruction, last, retain_graph=True)
    (other,) = torch.autograd.grad(loss, last, retain_graph=True)
    return (wanted.norm() / (other.norm() + 1e-6)).clamp(0, LARGEST_RATIO).detach()
