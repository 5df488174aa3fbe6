"""The attribute judge: a small convolutional classifier with one head per attribute.

It looks at rendered pictures when it is trained and is used to measure, never in a loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

MULTIPLE = 16  # of channels: what bf16 convolutions on CPUs are made for


@dataclass(frozen=True)
class JudgeConfig:
    """Sizes of the judge, and what it tells apart."""

    attributes: tuple[tuple[str, tuple[str, ...]], ...]  # (attribute, its values in order)
    image_size: int = 128
    patch: int = 2  # pixels a side that the first layer takes together
    channels: tuple[int, ...] = (32, 64, 96, 128, 192)  # one per resolution, halved from one to the next
    blocks: tuple[int, ...] = (2, 3)  # resolutions, as indices of `channels`, with a residual block
    features: int = 256

    def __post_init__(self) -> None:
        if self.image_size % (self.patch * 2 ** (len(self.channels) - 1)):
            raise ValueError(f"image_size {self.image_size} does not halve {len(self.channels) - 1} times")


class Patches(nn.Module):
    """Blocks of pixels as channels, filled up with zero channels to `width`."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.patch, self.zeros = patch, width - 3 * patch**2

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.pad(F.pixel_unshuffle(image, self.patch), (0, 0, 0, 0, 0, self.zeros))
        return x.contiguous(memory_format=torch.channels_last)


class Block(nn.Module):
    """Two convolutions beside a skip, pre-activated input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.norm2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(y)))


class Judge(nn.Module):
    """image [N,3,S,S] in [-1,1] -> one row of logits per attribute."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        widths = (-(-3 * config.patch**2 // MULTIPLE) * MULTIPLE, *config.channels)
        layers: list[nn.Module] = [Patches(config.patch, widths[0])]
        for i, (wide_in, wide_out) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(wide_in, wide_out, 3, stride=1 if i == 0 else 2, padding=1, bias=False),
                       nn.BatchNorm2d(wide_out), nn.ReLU()]  # fmt: skip
            if i in config.blocks:
                layers.append(Block(wide_out))
        self.body = nn.Sequential(*layers)
        side = config.image_size // config.patch // 2 ** (len(config.channels) - 1)
        self.neck = nn.Linear(config.channels[-1] * side * side, config.features)
        self.heads = nn.ModuleDict({name: nn.Linear(config.features, len(v)) for name, v in config.attributes})

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """image [N,3,S,S] in [-1,1] -> [N,features], what Frechet and perceptual distances are taken on."""
        return F.relu(self.neck(self.body(image).flatten(1)))

    def maps(self, image: torch.Tensor) -> list[torch.Tensor]:
        """The activations after each resolution, [N,C,h,w] each, for a perceptual distance."""
        found, x = [], image
        for layer in self.body:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x)
        return found

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.features(image)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, image: torch.Tensor) -> torch.Tensor:
        """Value indices int64 [N, attributes], columns in the config's order."""
        return torch.stack([logits.argmax(1) for logits in self(image).values()], dim=1)

    def words(self, indices: torch.Tensor) -> list[dict[str, str]]:
        """Rows of `read` as attribute words."""
        return [{name: values[int(i)] for (name, values), i in zip(self.config.attributes, row, strict=True)}
                for row in indices]  # fmt: skip


def perceptual_distance(judge: Judge, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """LPIPS-like distance [N] between pictures [N,3,S,S]: unit-normalised maps, mean squared difference, summed.

    After Zhang et al. 2018 (arXiv 1801.03924), eq. 1 without learnt weights; not comparable with LPIPS itself.
    """
    total = torch.zeros(len(a), device=a.device)
    for x, y in zip(judge.maps(a), judge.maps(b), strict=True):
        x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
        total = total + (x - y).square().sum(1).mean((1, 2))
    return total
