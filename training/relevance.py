"""Channel relevance for StyleCLIP global directions, as a Lightning predict job.

Patashnik et al. 2021, sec. 6 and the official code: per-channel mean and standard deviation of style channels
over many samples; for each channel and each of some 100 pictures, CLIP features of the picture rendered with
that channel at mean - 5 sigma and at mean + 5 sigma, their difference normalised, averaged over pictures and
normalised again -> relevance [S, clip_dim] with unit rows. to_rgb channels are never edited: their rows are zero.

The trunk is shared: a channel of layer k is rendered from the state before layer k, kept once per batch of
pictures, so early layers are not run again. Every channel is restored after use (the published code leaves it
clamped when it goes on to the next). Channels are the items of the predict dataset, so several devices share
the work by Lightning's distributed sampler; each returns its rows by channel number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from limner.training.models.stylegan2 import Generator, LayerSpec, SynthesisState


@dataclass(frozen=True)
class RelevanceConfig:
    """How the relevance is computed; the published values are the defaults."""

    stat_samples: int = 100_000
    truncation: float = 0.7  # of the samples, for statistics and pictures
    pictures: int = 100
    sigma: float = 5.0  # how far a channel is moved, in its standard deviations
    chunk: int = 50  # pictures rendered at once
    seed: int = 0


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
    """predict_step(channels [K, 2] of (column, layer)) -> (columns [K], relevance [K, clip_dim])."""

    def __init__(self, generator: Generator, image_tower: Callable[[Tensor], Tensor], styles: Tensor, mean: Tensor,
                 std: Tensor, config: RelevanceConfig) -> None:  # fmt: skip
        super().__init__()
        self.generator, self.image_tower, self.config = generator.eval(), image_tower, config
        self.register_buffer("styles", styles, persistent=False)  # [pictures, S] of the pictures that are moved
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.still = 0  # channels of no variance
        self._states: dict[tuple[int, int], SynthesisState] = {}

    styles: Tensor
    mean: Tensor
    std: Tensor

    def predict_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Channels that vary. One whose standard deviation is zero would be rendered twice alike: its row is
        zero without a rendering, exactly as brute force finds it."""
        rows = [(column, layer) for column, layer, _ in editable_channels(self.generator)]
        moving = [row for row in rows if self.std[row[0]] > 0]
        self.still = len(rows) - len(moving)
        return DataLoader(TensorDataset(torch.tensor(moving)), batch_size=1)

    def _trunk(self, layer: int, start: int) -> SynthesisState:
        """The state before `layer` for pictures start.., computed once and kept while that layer lasts."""
        key = (layer, start)
        if key not in self._states:
            self._states = {k: v for k, v in self._states.items() if k[0] == layer}
            styles = self.styles[start : start + self.config.chunk]
            self._states[key] = self.generator.advance(self.generator.start(len(styles)), styles, layer)
        return self._states[key]

    @torch.no_grad()
    def channel_features(self, column: int, layer: int, value: Tensor, start: int) -> Tensor:
        """CLIP features [chunk, C] of pictures start.. with one style channel set to `value`."""
        styles = self.styles[start : start + self.config.chunk].clone()  # the clone restores every channel
        styles[:, column] = value
        state = self.generator.advance(self._trunk(layer, start), styles)
        if state.skip is None:
            raise RuntimeError("synthesis made no picture")
        return self.image_tower(state.skip)

    def predict_step(self, batch: tuple[Tensor], index: int) -> tuple[int, Tensor]:
        column, layer = (int(v) for v in batch[0][0])
        low = self.mean[column] - self.config.sigma * self.std[column]
        high = self.mean[column] + self.config.sigma * self.std[column]
        total = self.mean.new_zeros(())
        for start in range(0, len(self.styles), self.config.chunk):
            difference = self.channel_features(column, layer, high, start) - self.channel_features(
                column, layer, low, start
            )
            total = total + F.normalize(difference, dim=1, eps=1e-12).sum(0)
        return column, F.normalize(total / len(self.styles), dim=0, eps=1e-12)


def gather(generator: Generator, predictions: list[Any], trainer: pl.Trainer | None = None) -> Tensor:
    """Rows by channel from predict's output, summed over the processes of `trainer`; rows of channels that were
    not predicted (to_rgb, which is never edited, and still ones) are zero."""
    found = dict(predictions)
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


def multiply_adds(generator: Generator) -> list[int]:
    """Multiply-adds of one picture per layer, counted for the transposed convolution at its input size."""
    return [_layer_multiply_adds(generator, layer) for layer in generator.layers]


def _layer_multiply_adds(generator: Generator, layer: LayerSpec) -> int:
    conv = generator.conv(layer)
    _, n_out, n_in, k, _ = conv.weight.shape
    side = layer.resolution // 2 if conv.upsample else layer.resolution
    fir = n_out * layer.resolution**2 * 8 if conv.upsample else 0  # two passes of four taps
    return int(n_out * n_in * k * k * side**2 + fir)


def saving(generator: Generator, std: Tensor | None = None) -> float:
    """Multiply-adds of rendering every channel from the start over those with the shared trunk; with `std` [S],
    channels of no variance are not rendered."""
    counts = multiply_adds(generator)
    editable = editable_channels(generator)
    rendered = [layer for column, layer, _ in editable if std is None or std[column] > 0]
    return len(editable) * sum(counts) / sum(sum(counts[layer:]) for layer in rendered)
