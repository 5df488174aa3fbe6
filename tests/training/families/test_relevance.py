"""Channel relevance: the shared trunk against rendering every channel from the start."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from support.random_generator import CONFIG as NARROW
from support.random_generator import random_generator
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from limner.training.families.relevance.channel_render import (
    ChannelRenderer,
    Convolution,
    Cost,
    layer_multiply_adds,
    own_multiply_adds,
    relevance_cost,
)
from limner.training.families.relevance.module import (
    RelevanceConfig,
    RelevanceModule,
    editable_channels,
    gather,
    style_statistics,
)
from limner.training.models.stylegan2 import Generator, StyleGAN2Config

CONFIG = RelevanceConfig(stat_samples=500, pictures=5, chunk=3)
WIDE = StyleGAN2Config(size=16, z_dim=16, w_dim=16, n_mlp=2, channels={4: 12, 8: 12, 16: 12})


def tower(image: Tensor) -> Tensor:
    """A stand-in for the CLIP image tower: fixed random features, unit length."""
    weights = torch.randn(3 * 8 * 8, 7, generator=torch.Generator().manual_seed(3))
    return F.normalize(torch.tanh(F.adaptive_avg_pool2d(image, 8).flatten(1) @ weights), dim=1)


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
@pytest.mark.parametrize("convolution", ["direct", "fewest"])
def test_trunk_equals_brute_force(convolution: Convolution) -> None:
    generator = random_generator(WIDE if convolution == "fewest" else NARROW)
    mean, std = style_statistics(generator, CONFIG)
    styles = generator.affine(generator.broadcast(generator.mapping(torch.randn(CONFIG.pictures, 16))))
    module = RelevanceModule(generator, tower, styles, mean, std, replace(CONFIG, convolution=convolution))
    assert any(module.renderer.fewest) == (convolution == "fewest")
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    found: Any = trainer.predict(module)
    relevance = gather(generator, found)
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


def test_counts_against_what_torch_counts() -> None:
    """The renderer's formula, plain convolutions, against the operations that a run really makes."""
    generator, channel = random_generator(WIDE), 3
    renderer = ChannelRenderer(generator)
    per_layer = layer_multiply_adds(generator)
    for number, spec in enumerate(generator.layers):
        if spec.kind != "conv":
            continue
        trunk = renderer.trunk(number, torch.randn(1, generator.num_style_channels))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            renderer.moved(trunk, channel, torch.tensor([0.3, 0.9]))
        own = own_multiply_adds(generator, spec) - spec_pixels(generator, number)  # products alone are counted
        expected = 2 * (own + sum(per_layer[number + 1 :]))
        assert counter.get_total_flops() / 2 == pytest.approx(expected, rel=0.02)


def spec_pixels(generator: Generator, number: int) -> int:
    spec = generator.layers[number]
    return int(generator.conv(spec).weight.shape[1]) * spec.resolution**2


def test_still_channels_cost_nothing() -> None:
    generator = random_generator(WIDE)
    std = torch.ones(generator.num_style_channels)
    whole = relevance_cost(generator, std)
    std[: generator.layers[0].channels] = 0
    part = relevance_cost(generator, std)
    assert part.layers["conv1"][1] == layer_multiply_adds(generator)[0]  # the trunk alone
    assert part.spent < whole.spent and part.brute == whole.brute


def test_the_shipped_sizes_reach_three() -> None:
    """128 px: at least three times fewer multiply-adds than brute force."""
    sizes = {4: 192, 8: 192, 16: 192, 32: 128, 64: 64, 128: 32}
    generator = Generator(StyleGAN2Config(size=128, z_dim=256, w_dim=256, channels=sizes))
    std = torch.ones(generator.num_style_channels)
    least: Cost = relevance_cost(generator, std, "fewest")
    assert least.ratio() >= 3.0
    assert relevance_cost(generator, std).ratio() >= 1.25
    assert least.ratio() > least.ratio(tower=1e8, renders=2 * 1568) > 1
