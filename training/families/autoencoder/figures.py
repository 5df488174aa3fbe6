"""What the autoencoder keeps of a picture, and how its latents are spread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from limner.training.avatars.dataset import AvatarsDataset, batches, image_float
from limner.training.families.autoencoder.module import psnr
from limner.training.models.judge import Judge, perceptual_distance

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


@torch.no_grad()
def latent_deviation(network: AutoencoderKL, data: AvatarsDataset, limit: int = 1024) -> float:
    """Standard deviation of all elements of sampled latents; 1 over it is the scaling factor (Rombach et al., G)."""
    total, squares, count = 0.0, 0.0, 0
    for batch in batches(data, 32, limit):
        posterior = network.encode(image_float(batch["image"])).latent_dist
        spread = posterior.mean.double().square() + posterior.var.double()
        total += float(posterior.mean.double().sum())
        squares += float(spread.sum())
        count += spread.numel()
    return float((squares / count - (total / count) ** 2) ** 0.5)


@torch.no_grad()
def reconstruct(network: AutoencoderKL, image: torch.Tensor) -> torch.Tensor:
    """image [N,3,H,W] in [-1,1] -> the picture of its mean latent, clamped."""
    made: torch.Tensor = network.decode(network.encode(image).latent_dist.mean).sample
    return made.clamp(-1, 1)


@torch.no_grad()
def evaluate(network: AutoencoderKL, judge: Judge | None, data: AvatarsDataset, limit: int = 500) -> dict[str, Any]:
    """Figures of a split's first `limit` pictures."""
    ratios, distance, right = [], [], []
    for batch in batches(data, 50, limit):
        image = image_float(batch["image"])
        made = reconstruct(network, image)
        ratios.append(psnr(made, image))
        if judge is not None:
            distance.append(perceptual_distance(judge, made, image))
            right.append(judge.read(made) == batch["attributes"])
    found = torch.cat(ratios)
    figures: dict[str, Any] = {
        "test pictures": len(found),
        "PSNR, mean, dB": round(float(found.mean()), 2),
        "PSNR, worst, dB": round(float(found.min()), 2),
    }
    if right:
        kept = torch.cat(right).float().mean(0)
        names = [name for name, _ in data.style.attributes]
        figures["perceptual distance on the judge's features (not LPIPS)"] = round(float(torch.cat(distance).mean()), 4)
        figures["attributes kept, %"] = round(100 * float(kept.mean()), 2)
        figures["attributes kept, each, %"] = {n: round(100 * float(kept[i]), 2) for i, n in enumerate(names)}
    return figures
