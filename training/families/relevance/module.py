"""Channel relevance for StyleCLIP global directions, as a Lightning predict job.

Patashnik et al. 2021, sec. 6 and the official code: per-channel mean and standard deviation of style channels
over many samples; for each channel and each of some 100 pictures, CLIP features of the picture rendered with
that channel at mean - 5 sigma and at mean + 5 sigma, their difference normalised, averaged over pictures and
normalised again -> relevance [S, clip_dim] with unit rows. to_rgb channels are never edited: their rows are zero.

The trunk is shared: a channel of layer k is rendered from what is kept of layer k, once per batch of pictures, so
early layers are not run again (channel_render.py). Every channel is restored after use (the published code leaves it
clamped when it goes on to the next). Channels are the items of the predict dataset, so several devices share
the work by Lightning's distributed sampler; each returns its rows by channel number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from limner.training.families.relevance.channel_render import ChannelRenderer, Convolution, Trunk
from limner.training.models.stylegan2 import Generator


@dataclass(frozen=True)
class RelevanceConfig:
    """How the relevance is computed; the published values are the defaults."""

    stat_samples: int = 100_000  # of w, for mean and deviation of each style channel
    truncation: float = 0.7  # of the samples, for statistics and pictures
    pictures: int = 100  # that every channel is moved in
    sigma: float = 5.0  # how far a channel is moved, in its standard deviations
    chunk: int = 50  # pictures rendered at once, each with two values of a channel
    convolution: Convolution = "direct"  # fewest: fewer multiply-adds, the same numbers; slower on CPUs
    seed: int = 0  # of samples and pictures


@torch.no_grad()
def style_statistics(generator: Generator, config: RelevanceConfig) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (ddof 0) of style channels over samples, [S] each, accumulated in float64."""
    rng = torch.Generator().manual_seed(config.seed)
    total = torch.zeros(2, generator.num_style_channels, dtype=torch.float64)
    for start in range(0, config.stat_samples, 2000):
        count = min(2000, config.stat_samples - start)
        w = generator.truncate(
            generator.mapping(torch.randn(count, generator.config.z_dim, generator=rng)), config.truncation
        )
        styles = generator.affine(generator.broadcast(w)).double()
        total += torch.stack([styles.sum(0), styles.square().sum(0)])
    mean, square = total / config.stat_samples
    return mean.float(), (square - mean.square()).clamp_min(0).sqrt().float()


@torch.no_grad()
def picture_styles(generator: Generator, config: RelevanceConfig) -> Tensor:
    """Style channels [pictures, S] of the seeded samples that are moved."""
    rng = torch.Generator().manual_seed(config.seed + 1)
    z = torch.randn(config.pictures, generator.config.z_dim, generator=rng)
    return generator.affine(generator.broadcast(generator.truncate(generator.mapping(z), config.truncation)))


def editable_channels(generator: Generator) -> list[tuple[int, int, int]]:
    """(column of S, layer number, channel of the layer) of every conv style channel."""
    rows, offset = [], 0
    for number, layer in enumerate(generator.layers):
        if layer.kind == "conv":
            rows += [(offset + c, number, c) for c in range(layer.channels)]
        offset += layer.channels
    return rows


class RelevanceModule(pl.LightningModule):
    """predict_step(channels [1, 3] of (column, layer, channel)) -> (column, relevance [clip_dim])."""

    def __init__(self, generator: Generator, image_tower: Callable[[Tensor], Tensor], styles: Tensor, mean: Tensor,
                 std: Tensor, config: RelevanceConfig) -> None:  # fmt: skip
        super().__init__()
        self.generator, self.image_tower, self.config = generator.eval(), image_tower, config
        self.renderer = ChannelRenderer(generator, config.convolution)
        self.register_buffer("styles", styles, persistent=False)  # [pictures, S] of the pictures that are moved
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.known: dict[int, Tensor] = {}  # rows of an earlier run, not computed again
        self.still = 0  # channels of no variance
        self._trunks: dict[tuple[int, int], Trunk] = {}

    styles: Tensor
    mean: Tensor
    std: Tensor

    def predict_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Channels that vary and are not known. One whose standard deviation is zero would be rendered twice alike:
        its row is zero without a rendering, exactly as brute force finds it."""
        rows = editable_channels(self.generator)
        moving = [row for row in rows if self.std[row[0]] > 0]
        self.still = len(rows) - len(moving)
        new = [row for row in moving if row[0] not in self.known]
        return DataLoader(TensorDataset(torch.tensor(new).reshape(-1, 3)), batch_size=1)

    def _trunk(self, layer: int, start: int) -> Trunk:
        """What is kept of pictures start.. for `layer`, computed once and kept while that layer lasts."""
        key = (layer, start)
        if key not in self._trunks:
            self._trunks = {k: v for k, v in self._trunks.items() if k[0] == layer}
            self._trunks[key] = self.renderer.trunk(layer, self.styles[start : start + self.config.chunk])
        return self._trunks[key]

    @torch.no_grad()
    def channel_features(self, layer: int, channel: int, values: Tensor, start: int) -> Tensor:
        """CLIP features [V, chunk, C] of pictures start.. with one style channel at each of values [V]. Nothing
        is left changed for the next channel."""
        image = self.renderer.moved(self._trunk(layer, start), channel, values)
        return self.image_tower(image).unflatten(0, (len(values), -1))

    def predict_step(self, batch: tuple[Tensor], index: int) -> tuple[int, Tensor]:
        column, layer, channel = (int(v) for v in batch[0][0])
        reach = self.config.sigma * self.std[column]
        values = torch.stack([self.mean[column] + reach, self.mean[column] - reach])
        total = self.mean.new_zeros(())
        for start in range(0, len(self.styles), self.config.chunk):
            high, low = self.channel_features(layer, channel, values, start)
            total = total + F.normalize(high - low, dim=1, eps=1e-12).sum(0)
        return column, F.normalize(total / len(self.styles), dim=0, eps=1e-12)


def gather(generator: Generator, predictions: list[Any], trainer: pl.Trainer | None = None,
           known: Mapping[int, Tensor] | None = None) -> Tensor:  # fmt: skip
    """Rows by channel from predict's output and what was `known`, put together over the processes of `trainer`; rows
    of channels that were not predicted (to_rgb, which is never edited, and still ones) are zero."""
    found = {**(known or {}), **dict(predictions)}
    width = next(iter(found.values())).shape[0]
    relevance = torch.zeros(generator.num_style_channels, width)
    for column, row in found.items():
        relevance[column] = row
    if trainer is not None and trainer.world_size > 1:
        counts = torch.zeros(len(relevance))
        counts[list(found)] = 1
        total = trainer.strategy.reduce(relevance, reduce_op="sum")
        counts = trainer.strategy.reduce(counts, reduce_op="sum")  # the sampler may give a channel twice
        relevance = total / counts.clamp(min=1)[:, None]
    return relevance
