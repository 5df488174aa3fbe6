"""Training of the latent autoencoder: L1, a perceptual distance on frozen features, KL, and a patch discriminator.

Rombach et al. 2022 (appendix G), after Esser et al. 2021: hinge losses for the discriminator, the adversarial term
scaled by the ratio of gradients at the decoder's last layer (eq. 7). Autoencoder and discriminator step together,
from one backward pass: the discriminator is frozen in the one term and the picture detached in the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.training.avatars.dataset import image_float
from limner.training.families.patch_terms import patch_terms
from limner.training.families.stylegan2.warmup import focus_map
from limner.training.loop.batches import Batch, step_generator
from limner.training.loop.runner import OptimizerConfig, optimizer_of
from limner.training.loop.steps import draw_number, uses_scaler

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


@dataclass(frozen=True)
class AutoencoderTraining:
    """Weights of the losses; a weight of 0 skips its work. Every loss is a mean over its elements."""

    pixel: float = 1.0  # L1
    square: float = 0.0  # squared error: large areas of a wrong colour weigh more than edges
    decorrelation: float = 0.0  # see `correlation`
    perceptual: float = 0.1  # distance of activations of the identity network
    kl: float = 1e-4  # of the latents to a unit Gaussian
    adversarial: float = 0.1  # before the ratio of gradients
    adversarial_from: float = 0.6  # share of the steps without the adversarial term
    crop: int = 0  # pixels a side of the random crops that the first steps see, cheaper than pictures; 0 for none
    crop_until: float = 0.7  # share of the steps on crops: with the pixel and KL terms alone
    focus_box: tuple[float, float, float, float] = (0.28, 0.26, 0.72, 0.72)  # left, top, right, bottom: the face
    focus_weight: float = 1.0  # times as much as the rest that pixels inside the box count in L1 and square
    decoder_only: bool = False  # latents stay what they are, and so does what was trained on them; needs `start`

    def __post_init__(self) -> None:
        for name in ("adversarial_from", "crop_until"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 0 to 1")
        if not self.focus_weight > 0:
            raise ValueError(f"focus_weight is {self.focus_weight}; allowed: above 0")
        if self.crop < 0 or self.crop % 32:
            raise ValueError(f"crop is {self.crop}; allowed: 0 for none, or a multiple of 32 pixels")
        if self.crop and self.adversarial and self.adversarial_from < self.crop_until:
            raise ValueError(
                f"adversarial_from is {self.adversarial_from}; allowed: crop_until = {self.crop_until} or more"
            )


def random_crops(image: Tensor, side: int, rng: torch.Generator) -> Tensor:
    """One square of `side` pixels from each picture [N,C,H,W], anywhere in it."""
    tops, lefts = (torch.randint(size - side + 1, (len(image),), generator=rng).tolist() for size in image.shape[-2:])
    return torch.stack([row[:, y : y + side, x : x + side] for row, y, x in zip(image, tops, lefts, strict=True)])


class Features(Protocol):
    """A frozen network whose activations make the perceptual distance."""

    def maps(self, image: Tensor) -> Sequence[Tensor]: ...


def perceptual_distance(features: Features, a: Tensor, b: Tensor) -> Tensor:
    """Distance [N] of activations [N,C,h,w], vectors at length 1 (after Zhang et al. 2018, unlearnt weights)."""
    terms = [
        (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1).mean((1, 2))
        for x, y in zip(features.maps(a), features.maps(b), strict=True)
    ]
    return torch.stack(terms).mean(0)


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """Mean over elements of KL(N(mean, e^logvar) || N(0, 1))."""
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()


def correlation(latents: Tensor) -> Tensor:
    """Mean squared correlation between channels of latents [N,C,h,w], over pictures and places.

    Channels that say the same waste the narrowest part of the network; the term is the covariance term of Bardes et
    al. 2022 (VICReg, eq. 4), of standardised channels.
    """
    rows = latents.transpose(0, 1).flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    rows = rows / (rows.square().mean(1, keepdim=True) + 1e-6).sqrt()
    found = rows @ rows.T / rows.shape[1]
    count = len(rows)
    return (found - torch.diag(found.diagonal())).square().sum() / max(count * (count - 1), 1)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio [N] in dB of images [N,3,H,W] in [-1,1], clamped and rounded to 8 bits."""
    x, y = (((image.clamp(-1, 1) + 1) * 127.5).round() for image in (a, b))
    return 10 * torch.log10(255.0**2 / (x - y).square().mean((1, 2, 3)).clamp(min=1e-3))


class AutoencoderModule(pl.LightningModule):
    """Losses and logging; the networks are passed in, the features are frozen."""

    def __init__(
        self,
        network: AutoencoderKL,
        discriminator: nn.Module | None,  # None leaves out the adversarial term
        features: nn.Module | None,  # with `maps`; None leaves out the perceptual term
        training: AutoencoderTraining,
        optimizer: OptimizerConfig,
        max_steps: int,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.network, self.discriminator, self.features = network, discriminator, features
        if features is not None:
            features.eval().requires_grad_(False)
        if training.decoder_only:
            network.encoder.requires_grad_(False)
            network.quant_conv.requires_grad_(False)
        self.config, self.optimizer, self.max_steps, self.seed = training, optimizer, max_steps, seed
        self._shown: Tensor | None = None

    def train(self, mode: bool = True) -> AutoencoderModule:
        super().train(mode)
        if self.features is not None:
            self.features.eval()
        return self

    @property
    def is_adversarial(self) -> bool:
        wanted = self.discriminator is not None and self.config.adversarial > 0
        return wanted and self.global_step >= self.config.adversarial_from * self.max_steps

    @property
    def is_cropped(self) -> bool:
        return self.config.crop > 0 and self.global_step < self.config.crop_until * self.max_steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image = image_float(batch["image"])
        rng = step_generator(self.seed, draw_number(self), "cpu" if self.is_cropped else self.device)
        if self.is_cropped:
            image = random_crops(image, self.config.crop, rng)
        posterior = self.network.encode(image).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=rng, device=rng.device).to(image)
        made = self.network.decode(posterior.mean + posterior.std * noise).sample
        losses = self.reconstruction(made, image)
        if not self.config.decoder_only:
            losses["kl"] = kl_divergence(posterior.mean, posterior.logvar)
        if self.config.decorrelation and not self.config.decoder_only:
            losses["decorrelation"] = correlation(posterior.mean)
        total = torch.stack([getattr(self.config, name) * value for name, value in losses.items()]).sum()
        if self.is_adversarial:
            total = total + self._adversarial(total, made, image, losses)
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()})
        return total

    def reconstruction(self, made: Tensor, image: Tensor) -> dict[str, Tensor]:
        """The losses between made and true pictures [N,3,H,W]."""
        error = made - image
        focus = self.focus(error)
        losses = {"pixel": (error.abs() * focus).mean()}
        if self.config.square:
            losses["square"] = (error.square() * focus).mean()
        if self.features is not None and self.config.perceptual and not (self.training and self.is_cropped):
            features: Any = self.features
            losses["perceptual"] = perceptual_distance(features, made, image).mean()
        return losses

    def focus(self, error: Tensor) -> Tensor:
        """How much each pixel counts, [H,W] or 1: the face more, except in crops, which may show any of it."""
        if self.config.focus_weight == 1.0 or (self.training and self.is_cropped):
            return error.new_ones(())
        return focus_map(error.shape[-1], self.config.focus_box, self.config.focus_weight).to(error)

    def _adversarial(self, total: Tensor, made: Tensor, image: Tensor, losses: dict[str, Tensor]) -> Tensor:
        """Both sides' losses in one sum."""
        assert self.discriminator is not None
        terms = patch_terms(self.discriminator, total, made, image, self.network.decoder.conv_out.weight)
        losses |= terms.logged
        return self.config.adversarial * terms.generator + terms.discriminator

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        image = image_float(batch["image"])
        posterior = self.network.encode(image).latent_dist
        made = self.network.decode(posterior.mean).sample
        size = len(image)
        for name, value in self.reconstruction(made, image).items():
            self.log(f"validation/{name}", value, batch_size=size)
        self.log("validation/psnr", psnr(made, image).mean(), batch_size=size)
        self.log("validation/deviation", posterior.mean.std(), batch_size=size)
        if batch_idx == 0:
            self._shown = torch.stack([image[:8], made[:8]], 1).flatten(0, 1)

    def grid(self) -> Tensor | None:
        """Pictures and what came back of them, in turns [16,3,H,W]."""
        return self._shown

    @property
    def replays(self) -> bool:
        """Whether a step goes back through the parts once: the ratio of eq. 7 goes twice."""
        return not self.config.adversarial

    def compiled_parts(self) -> list[nn.Module]:
        """What `trainer.compile` compiles."""
        return [self.network.encoder, self.network.decoder]

    def configure_optimizers(self) -> Any:
        return optimizer_of(self, self.optimizer, self.max_steps, uses_scaler(self))
