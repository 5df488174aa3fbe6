"""Channel relevance: the shared trunk against rendering every channel from the start."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from limner.training.models.stylegan2 import Generator
from limner.training.relevance import (
    RelevanceConfig,
    RelevanceModule,
    editable_channels,
    gather,
    style_statistics,
)
from tests.training.test_stylegan2 import random_generator

CONFIG = RelevanceConfig(stat_samples=500, pictures=5, chunk=3)


def tower(image: Tensor) -> Tensor:
    """A stand-in for the CLIP image tower: fixed random features, unit length."""
    weights = torch.randn(3 * 8 * 8, 7, generator=torch.Generator().manual_seed(3))
    return F.normalize(torch.tanh(F.avg_pool2d(image, 4).flatten(1) @ weights), dim=1)


def brute_force(generator: Generator, styles: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """As the published code, but for restoring each channel: every picture from the start."""
    relevance = torch.zeros(generator.num_style_channels, 7)
    for column, _, _ in editable_channels(generator):
        features = []
        for sign in (1, -1):
            moved = styles.clone()
            moved[:, column] = mean[column] + sign * CONFIG.sigma * std[column]
            features.append(tower(generator.synthesis_from_styles(moved)))
        relevance[column] = F.normalize(F.normalize(features[0] - features[1], dim=1).mean(0), dim=0)
    return relevance


@torch.no_grad()
def test_trunk_equals_brute_force() -> None:
    generator = random_generator()
    mean, std = style_statistics(generator, CONFIG)
    styles = generator.affine(generator.broadcast(generator.mapping(torch.randn(CONFIG.pictures, 16))))
    module = RelevanceModule(generator, tower, styles, mean, std, CONFIG)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    relevance = gather(generator, trainer.predict(module))
    expected = brute_force(generator, styles, mean, std)
    assert (relevance - expected).abs().max() < 1e-3
    conv = [column for column, _, _ in editable_channels(generator)]
    assert torch.allclose(relevance[conv].norm(dim=1), torch.ones(len(conv)), atol=1e-5)
    assert relevance.abs().sum(1).count_nonzero() == len(conv)


@torch.no_grad()
def test_statistics_against_float64() -> None:
    generator = random_generator()
    mean, std = style_statistics(generator, CONFIG)
    z = torch.randn(500, 16, generator=torch.Generator().manual_seed(CONFIG.seed))
    styles = generator.affine(generator.broadcast(generator.truncate(generator.mapping(z), 0.7))).double()
    assert torch.allclose(mean.double(), styles.mean(0), atol=1e-5)
    assert torch.allclose(std.double(), styles.std(0, unbiased=False), atol=1e-5)
