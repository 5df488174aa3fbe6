"""What an inversion keeps: attributes as the judge reads them, identity, pixels, a perceptual distance."""

from __future__ import annotations

from typing import Any

import torch

from limner.training.avatars.dataset import AvatarsDataset, batches, image_float
from limner.training.models.irse import IdentityNet
from limner.training.models.judge import Judge, perceptual_distance
from limner.training.models.psp import E4eEncoder
from limner.training.models.stylegan2 import Generator


@torch.no_grad()
def evaluate(
    encoder: E4eEncoder,
    generator: Generator,
    identity: IdentityNet | None,
    judge: Judge | None,
    data: AvatarsDataset,
    limit: int = 500,
) -> dict[str, Any]:
    """Figures of encoder inversions, without refinement, of a split's first `limit` pictures."""
    error, cosine, distance, right = [], [], [], []
    names = [name for name, _ in data.style.attributes]
    for batch in batches(data, 50, limit):
        image = image_float(batch["image"])
        made = generator.synthesis(encoder.eval()(image)).clamp(-1, 1)
        error.append((made - image).square().mean((1, 2, 3)))
        if identity is not None:
            cosine.append((identity(made) * identity(image)).sum(1))
        if judge is not None:
            distance.append(perceptual_distance(judge, made, image))
            right.append(judge.read(made) == batch["attributes"])
    squared = torch.cat(error)
    figures: dict[str, Any] = {
        "test pictures": len(squared),
        "PSNR, dB": round(float((10 * torch.log10(4 / squared)).mean()), 2),
    }
    if cosine:
        figures["identity cosine"] = round(float(torch.cat(cosine).mean()), 4)
    if right:
        kept = torch.cat(right).float()
        figures["perceptual distance on the judge's features (not LPIPS)"] = round(float(torch.cat(distance).mean()), 4)
        figures["attributes kept, %"] = round(100 * float(kept.mean()), 2)
        figures["attributes kept, each, %"] = {n: round(100 * float(kept[:, i].mean()), 2) for i, n in enumerate(names)}
    return figures
