"""StyleCLIP's latent mappers: small networks that say where a latent should move for one text.

Patashnik et al., "StyleCLIP: Text-Driven Manipulation of StyleGAN Imagery" (2021), section 5, with the published
code's parameter names, ``course_mapping`` [sic] included: w_hat = w + 0.1 M(w). A `Mapper` is a PixelNorm and four
linear layers with leaky ReLU. Three networks are made of it:

- ``levels``: one for the coarse rows of w_plus (0-3), one for the medium (4-7), one for the fine ones (8 and up);
  each may be switched off, and then gives zeros;
- ``single``: one for all rows;
- ``styles``: one for each style layer that is not to-RGB, in the space S.

The published PixelNorm reduces the second axis, which on [N,L,D] are the layers and not the features. Published
weights depend on that: ``pixel_norm: layers``. On rows that are all equal it would leave nothing but signs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from limner.runtime.errors import InputError
from limner.training.models.stylegan2 import EqualLinear, Generator

Kind = Literal["levels", "single", "styles"]
LEVELS: dict[str, tuple[int, int | None]] = {"coarse": (0, 4), "medium": (4, 8), "fine": (8, None)}  # rows of w_plus
NAMES = {"coarse": "course_mapping", "medium": "medium_mapping", "fine": "fine_mapping"}  # as published
DEPTH = 4  # linear layers
LR_MUL = 0.01
EPSILON = 1e-8


@dataclass(frozen=True)
class MapperConfig:
    """Sizes of one mapper, and what it was trained for."""

    kind: Kind = "levels"
    num_ws: int = 18  # layers of w_plus
    w_dim: int = 512
    coarse: bool = True  # of kind "levels"
    medium: bool = True
    fine: bool = True
    styles: tuple[int, ...] = ()  # channels of all style layers in order, of kind "styles"; every third is to-RGB
    pixel_norm: Literal["features", "layers"] = "features"
    scale: float = 0.1  # of the mapper's answer
    prompt: str = ""  # the text that it was trained for
    generator: str = ""  # `generator_digest` of the generator that it was trained on; empty: not known
    strength: float = 1.0  # suggested

    def __post_init__(self) -> None:
        if self.kind == "levels" and not self.levels:
            raise ValueError(f"coarse, medium and fine are all switched off, or have none of {self.num_ws} rows")
        if (self.kind == "styles") != bool(self.styles):
            raise ValueError(f"styles {list(self.styles)} with kind {self.kind!r}")
        if min(self.num_ws, self.w_dim, *self.styles) < 1 or not 0 < self.scale <= 10:
            raise ValueError("num_ws, w_dim, styles and scale are above 0")

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels that are switched on and have rows: a small generator has no fine ones."""
        return tuple(name for name, (first, _) in LEVELS.items() if getattr(self, name) and first < self.num_ws)

    @property
    def editable(self) -> tuple[int, ...]:
        """The style layers that are not to-RGB: of every three the second is."""
        return tuple(i for i in range(len(self.styles)) if i % 3 != 1)

    @property
    def space(self) -> Literal["w_plus", "style_channels"]:
        """What the mapper takes and moves."""
        return "style_channels" if self.kind == "styles" else "w_plus"


class PixelNorm(nn.Module):
    """x / sqrt(mean(x^2) + 1e-8) over one dimension."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(self.dim, keepdim=True) + EPSILON)


class Mapper(nn.Module):
    """PixelNorm and four equalised linear layers of one width, leaky ReLU after each: ``mapping.{1..4}``."""

    def __init__(self, width: int, norm_dim: int = -1) -> None:
        super().__init__()
        layers = [EqualLinear(width, width, lr_mul=LR_MUL, activation="fused_lrelu") for _ in range(DEPTH)]
        self.mapping = nn.Sequential(PixelNorm(norm_dim), *layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.mapping(x)
        return y


class LatentMapper(nn.Module):
    """What the three kinds share: x + mapper(x) is the edited latent, x in `config.space`."""

    def __init__(self, config: MapperConfig) -> None:
        super().__init__()
        self.config = config

    def answer(self, x: Tensor) -> Tensor:
        """M(x), of the shape of x."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """scale * M(x), of the shape of x: [N,L,D] in W+, [N,S] in S. InputError for latents of another shape."""
        config = self.config
        shape = (sum(config.styles),) if config.kind == "styles" else (config.num_ws, config.w_dim)
        if tuple(x.shape[1:]) != shape:
            raise InputError(config.space, f"shape {list(x.shape)}", f"[N, {', '.join(map(str, shape))}]")
        return config.scale * self.answer(x)


class SingleMapper(LatentMapper):
    """Every row of w_plus by the same network."""

    def __init__(self, config: MapperConfig) -> None:
        super().__init__(config)
        self.mapping = Mapper(config.w_dim, norm_dim(config))

    def answer(self, x: Tensor) -> Tensor:
        y: Tensor = self.mapping(x)
        return y


class LevelsMapper(LatentMapper):
    """A network for the rows of each level; a level that is off gives zeros."""

    def __init__(self, config: MapperConfig) -> None:
        super().__init__(config)
        for level in config.levels:
            self.add_module(NAMES[level], Mapper(config.w_dim, norm_dim(config)))

    def answer(self, x: Tensor) -> Tensor:
        parts = []
        for level, (first, last) in LEVELS.items():
            rows = x[:, first:last]
            on = level in self.config.levels
            parts.append(self.get_submodule(NAMES[level])(rows) if on else torch.zeros_like(rows))
        return torch.cat(parts, 1)


class StylesMapper(LatentMapper):
    """``mapper_{i}`` for style layer i of style_channels; to-RGB layers get zeros."""

    def __init__(self, config: MapperConfig) -> None:
        super().__init__(config)
        for i in config.editable:
            self.add_module(f"mapper_{i}", Mapper(config.styles[i]))

    def answer(self, x: Tensor) -> Tensor:
        editable = set(self.config.editable)
        parts = enumerate(x.split(list(self.config.styles), 1))
        return torch.cat([self.get_submodule(f"mapper_{i}")(part) if i in editable else torch.zeros_like(part)
                          for i, part in parts], 1)  # fmt: skip


KINDS: dict[str, type[LatentMapper]] = {"levels": LevelsMapper, "single": SingleMapper, "styles": StylesMapper}


def build_mapper(config: MapperConfig) -> LatentMapper:
    """A fresh mapper; its parameter names are the published ones."""
    return KINDS[config.kind](config)


def norm_dim(config: MapperConfig) -> int:
    """The dimension of [N,L,D] that PixelNorm reduces."""
    return -1 if config.pixel_norm == "features" else 1


def fits(config: MapperConfig, generator: Generator) -> bool:
    """True if the mapper's latents have the shape of the generator's."""
    if config.kind == "styles":
        return config.styles == tuple(layer.channels for layer in generator.layers)
    return (config.num_ws, config.w_dim) == (generator.num_ws, generator.config.w_dim)


def generator_digest(state: Mapping[str, Tensor]) -> str:
    """Which generator this is: sha256 of its learnt weights, rounded to fp16, so that storage does not matter.

    `state` has a Generator's keys; the fixed noises and latent_avg do not count, nor do buffers of other programs.
    """
    digest = hashlib.sha256()
    for name in sorted(key for key in state if key.rpartition(".")[2] in ("weight", "bias", "input")):
        value = state[name].detach().cpu().to(torch.float16).contiguous()
        digest.update(f"{name} {list(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
