"""IR-SE: the improved residual network with squeeze-and-excitation that ArcFace and e4e use.

Deng et al., "ArcFace" (2019); parameter names are those of the published ir_se50.pth and of e4e's backbone.
At the published sizes (``IR_SE50``) their weights load as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from limner.runtime.errors import InputError
from limner.training.models.resample import Resize, average, identity_crop


@dataclass(frozen=True)
class BodyConfig:
    """Widths and lengths of the residual body; every stage halves the picture."""

    stem: int = 64  # channels of the input layer
    widths: tuple[int, ...] = (64, 128, 256, 512)  # channels of a stage
    units: tuple[int, ...] = (3, 4, 14, 3)  # blocks of a stage
    reduction: int = 16  # of squeeze-and-excitation

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.units) or not self.widths:
            raise ValueError(f"widths {self.widths} and units {self.units} differ in length")


@dataclass(frozen=True)
class IdentityConfig:
    """An identity network: how a picture becomes its input, the body, the embedding."""

    image_size: int = 1024  # pixels a side of the pictures; other sizes work too
    input_size: int = 112  # pixels a side that the body sees
    crop: Literal["published", "none"] = "published"  # published: 256, [35:223, 32:220], 112; none: average pooling
    body: BodyConfig = field(default_factory=BodyConfig)
    embedding: int = 512  # width of the unit embedding
    dropout: float = 0.6  # share before the embedding

    def __post_init__(self) -> None:
        if self.crop == "published" and self.input_size != 112:
            raise ValueError(f"crop 'published' makes 112 pixels, and input_size is {self.input_size}")
        if self.input_size % 2 ** len(self.body.widths):
            raise ValueError(f"input_size {self.input_size} does not halve {len(self.body.widths)} times")


IR_SE50 = IdentityConfig()


class SqueezeExcite(nn.Module):
    """Channel gates from channel means (Hu et al. 2018)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        inner = max(channels // reduction, 1)
        self.fc1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.fc2 = nn.Conv2d(inner, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = F.relu(self.fc1(x.mean((2, 3), keepdim=True)))  # [N,c,1,1]
        return x * torch.sigmoid(self.fc2(gate))


class Bottleneck(nn.Module):
    """One IR-SE block: norm, conv, PReLU, strided conv, norm, gates; beside a shortcut."""

    def __init__(self, width_in: int, width: int, stride: int, reduction: int) -> None:
        super().__init__()
        self.stride, self.projects = stride, width_in != width
        if self.projects:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(width_in),
            nn.Conv2d(width_in, width, 3, 1, 1, bias=False),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            SqueezeExcite(width, reduction),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.projects:
            shortcut = self.shortcut_layer(x)
        else:  # published as max pooling with kernel 1, which takes every stride-th pixel
            shortcut = x if self.stride == 1 else F.avg_pool2d(x, 1, self.stride)
        return shortcut + self.res_layer(x)


def input_layer(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width))


def body_layers(config: BodyConfig) -> nn.Sequential:
    """The blocks of all stages in a row, as in ``body.{i}``."""
    blocks: list[nn.Module] = []
    width_in = config.stem
    for width, units in zip(config.widths, config.units, strict=True):
        for unit in range(units):
            blocks.append(Bottleneck(width_in, width, 2 if unit == 0 else 1, config.reduction))
            width_in = width
    return nn.Sequential(*blocks)


def stage_ends(config: BodyConfig) -> tuple[int, ...]:
    """Index in the body of each stage's last block."""
    return tuple(sum(config.units[: i + 1]) - 1 for i in range(len(config.units)))


class IdentityNet(nn.Module):
    """Pictures [N,3,H,W] in [-1,1], H = W of any size -> unit embeddings [N,embedding]."""

    def __init__(self, config: IdentityConfig = IR_SE50) -> None:
        super().__init__()
        self.config = config
        self.input_layer, self.body = input_layer(config.body.stem), body_layers(config.body)
        width = config.body.widths[-1]
        side = config.input_size // 2 ** len(config.body.widths)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Dropout(config.dropout),
            nn.Flatten(),
            nn.Linear(width * side * side, config.embedding),
            nn.BatchNorm1d(config.embedding),
        )
        self._resizes: dict[int, Resize] = {}
        self.for_size(config.image_size)

    def for_size(self, size: int) -> Resize:
        """The resize from pictures of `size` pixels to the body's input; made once per size."""
        if size not in self._resizes:
            if self.config.crop == "published":
                resize = Resize(*identity_crop(size))
            else:
                resize = Resize(average(size, self.config.input_size))
            self._resizes[size] = resize.to(next(self.parameters()).device)
        return self._resizes[size]

    def _apply(self, fn: Any, recurse: bool = True) -> IdentityNet:
        for resize in self._resizes.values():  # not submodules, so that a size adds no module to the tree
            resize._apply(fn)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def shrink(self, image: torch.Tensor) -> torch.Tensor:
        """Pictures -> the body's input [N,3,input_size,input_size]."""
        if image.shape[-1] != image.shape[-2]:
            raise InputError("image", f"{image.shape[-1]} x {image.shape[-2]} pixels", "a square picture")
        return self.for_size(image.shape[-1])(image)

    def maps(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Activations [N,C,h,w] at the end of each stage: features for a perceptual loss."""
        x, found = self.input_layer(self.shrink(image)), []
        for i, block in enumerate(self.body):
            x = block(x)
            if i in stage_ends(self.config.body):
                found.append(x)
        return found

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.output_layer(self.body(self.input_layer(self.shrink(image))))
        return x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
