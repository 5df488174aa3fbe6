"""Figures of a generator: samples as a picture, a Frechet distance, and attribute frequencies.

The Frechet distance |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Heusel et al. 2017) is taken on the judge's
features, so it is no FID and compares with nothing but itself; the distance of train to held-out pictures
stands beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from limner.training.avatars.attributes import STYLES
from limner.training.avatars.dataset import AvatarsConfig, AvatarsDataset, batches, image_float
from limner.training.loop.progress import track
from limner.training.models.store import load_model
from limner.training.models.stylegan2 import Generator


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Between Gaussians fitted to features [N, F] and [M, F]; tr of the root through eigenvalues."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


@torch.no_grad()
def generated(generator: Generator, count: int, size: int = 50, psi: float = 1.0) -> Any:
    """`count` samples from seeded z, in batches of images in [-1, 1] rounded to 8 bits."""
    rng = torch.Generator().manual_seed(1)
    for start in range(0, count, size):
        z = torch.randn(min(size, count - start), generator.config.z_dim, generator=rng)
        image = generator(z, psi)
        yield ((image.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def save_grid(images: Tensor, path: Path, columns: int = 8) -> None:
    """images [N,3,H,W] in [-1,1] as one PNG."""
    u8 = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    rows = [np.concatenate(list(u8[i : i + columns]), 1) for i in range(0, len(u8), columns)]
    Image.fromarray(np.concatenate(rows, 0)).save(path, optimize=True)


@torch.no_grad()
def read(judge: Any, images: Any, total: int, what: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The judge's features [N, F] and predicted values per attribute."""
    features, picks = [], []
    for image in track(images, what, total):
        features.append(judge.features(image))
        picks.append({k: v.argmax(1) for k, v in judge(image).items()})
    return torch.cat(features).numpy(), {k: torch.cat([p[k] for p in picks]).numpy() for k in picks[0]}


def evaluate(generator: Any, judge_folder: str, data: AvatarsConfig, cache: Path, folder: Path,
             count: int = 5000) -> dict[str, Any]:  # fmt: skip
    """Write samples.png and return the card's figures."""
    judge = load_model(judge_folder)
    test, train = (AvatarsDataset(data, split, cache) for split in ("test", "train"))
    save_grid(torch.cat(list(generated(generator, 64, 64))), folder / "samples.png")
    made, made_picks = read(judge, generated(generator, count), count // 50, "samples")
    held, _ = read(judge, (image_float(b["image"]) for b in batches(test, 50)), len(test) // 50, "held-out")
    seen, _ = read(judge, (image_float(b["image"]) for b in batches(train, 50, count)), count // 50, "train")
    figures: dict[str, Any] = {
        f"Frechet distance on the judge's features, {count} samples to held-out": round(
            frechet_distance(made, held), 3
        ),
        f"the same, {len(seen)} train pictures to held-out": round(frechet_distance(seen, held), 3),
    }
    style = STYLES[data.style]
    for k, (name, _) in enumerate(style.attributes):
        values = style.attribute_values(name)
        data_share = np.bincount(test.attributes[:, k], minlength=len(values)) / len(test)
        made_share = np.bincount(made_picks[name], minlength=len(values)) / count
        figures[f"{name}: share of samples / of the data, %"] = {
            v: f"{100 * made_share[i]:.1f} / {100 * data_share[i]:.1f}" for i, v in enumerate(values)
        }
    return figures
