"""The e4e encoder: a picture to W+, as one w for all layers and a delta for each further layer.

Tov et al., "Designing an Encoder for StyleGAN Image Manipulation" (2021). An IR-SE body, a feature pyramid of
its last three stages, and one small convolutional block per layer ("map2style", Richardson et al. 2021).
Parameter names are those of the published e4e encoder; at the published sizes (``E4E``) its weights load as
they are, ``latent_avg`` beside them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from limner.runtime.errors import InputError
from limner.training.models.irse import BodyConfig, body_layers, input_layer, stage_ends
from limner.training.models.resample import Resize, average, bilinear_corners

SLOPE = 0.01  # of the leaky ReLU in the style blocks


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of an encoder."""

    image_size: int = 1024  # pixels a side of the pictures
    input_size: int = 256  # pixels a side that the body sees
    num_ws: int = 18  # layers of w_plus
    w_dim: int = 512
    body: BodyConfig = field(default_factory=BodyConfig)
    style_width: int = 512  # channels inside a style block
    coarse: int = 3  # first layer that reads the middle features
    middle: int = 7  # first layer that reads the fine features
    codebook: tuple[int, ...] = ()  # block sizes of a generator's code embedding, pose last; see `Codebook`

    def __post_init__(self) -> None:
        if len(self.body.widths) < 3:
            raise ValueError(f"body.widths {self.body.widths} has {len(self.body.widths)} stages; allowed: 3 or more")
        if self.input_size % 2 ** len(self.body.widths):
            raise ValueError(f"input_size {self.input_size} does not halve {len(self.body.widths)} times")
        if not 0 < self.coarse <= self.middle:
            raise ValueError(f"coarse {self.coarse} and middle {self.middle} are not in order")


E4E = EncoderConfig()


class ScaledLinear(nn.Module):
    """Linear layer with equalised learning rate: the weight is used times 1 / sqrt(n_in)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.scale = 1 / math.sqrt(n_in)
        self.weight.lr_factor = math.sqrt(n_in)  # type: ignore[attr-defined]  # undoes the scale for Adam's steps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)


class StyleBlock(nn.Module):
    """Features [N,C,side,side] -> [N,w_dim]: strided convolutions down to one pixel, then a linear layer."""

    def __init__(self, width_in: int, width: int, w_dim: int, side: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(int(math.log2(side))):
            layers += [nn.Conv2d(width if i else width_in, width, 3, 2, 1), nn.LeakyReLU(SLOPE)]
        self.convs = nn.Sequential(*layers)
        self.linear = ScaledLinear(width, w_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.linear(self.convs(x).flatten(1))
        return y


class Codebook(nn.Module):
    """Projection of w_plus onto latents that a generator's code embedding can make: w = code @ book.

    The mean over layers is decoded by the pseudo-inverse; each block of the code is sharpened towards one choice
    by a softmax, the last (the pose) is clamped to [-1, 1], and the embedding of that code is every layer's w. So
    layers do not disagree, and the latent lies where the generator was trained.
    """

    SHARPNESS = 20.0  # of the softmax; a right place of a decoded code is about 1, a wrong one 0

    def __init__(self, sizes: tuple[int, ...], w_dim: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.register_buffer("book", torch.zeros(sum(sizes), w_dim))
        self.register_buffer("decode", torch.zeros(w_dim, sum(sizes)))

    book: torch.Tensor
    decode: torch.Tensor

    def fill(self, book: torch.Tensor) -> None:
        """Take the embedding [K, w_dim] of a generator."""
        self.book.copy_(book)
        self.decode.copy_(torch.linalg.pinv(book.double()).to(self.decode))

    def forward(self, w_plus: torch.Tensor) -> torch.Tensor:
        """w_plus [N,L,D] -> w_plus [N,L,D] with equal rows."""
        blocks = (w_plus.mean(1) @ self.decode).split(self.sizes, 1)
        code = torch.cat([*((self.SHARPNESS * b).softmax(1) for b in blocks[:-1]), blocks[-1].clamp(-1, 1)], 1)
        return (code @ self.book)[:, None].expand(-1, w_plus.shape[1], -1)


class E4eEncoder(nn.Module):
    """Pictures [N,3,H,W] in [-1,1], H = W = image_size -> w_plus [N,num_ws,w_dim]."""

    def __init__(self, config: EncoderConfig = E4E) -> None:
        super().__init__()
        self.config = config
        self.input_layer, self.body = input_layer(config.body.stem), body_layers(config.body)
        widths = config.body.widths
        side = config.input_size // 2 ** len(widths)  # of the coarse features
        sides = [side if i < config.coarse else 2 * side if i < config.middle else 4 * side
                 for i in range(config.num_ws)]  # fmt: skip
        blocks = [StyleBlock(widths[-1], config.style_width, config.w_dim, s) for s in sides]
        for block in blocks[1:]:  # deltas start at zero
            nn.init.zeros_(block.linear.weight)
        self.styles = nn.ModuleList(blocks)
        self.latlayer1, self.latlayer2 = nn.Conv2d(widths[-2], widths[-1], 1), nn.Conv2d(widths[-3], widths[-1], 1)
        self.register_buffer("latent_avg", torch.zeros(config.num_ws, config.w_dim))
        self.stage = config.num_ws - 1  # layers 1 up to this one have a delta; trainings grow it from 0
        self.resize = Resize(average(config.image_size, config.input_size))
        self.codebook = Codebook(config.codebook, config.w_dim) if config.codebook else None
        self.up1 = Resize(bilinear_corners(side, 2 * side))
        self.up2 = Resize(bilinear_corners(2 * side, 4 * side))

    latent_avg: torch.Tensor

    def pyramid(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Coarse, middle and fine features [N,C,h,w], h doubling."""
        if image.shape[-1] != self.config.image_size or image.shape[-2] != self.config.image_size:
            given = f"{image.shape[-1]} x {image.shape[-2]} pixels"
            raise InputError("image", given, f"{self.config.image_size} x {self.config.image_size} pixels")
        x, found = self.input_layer(self.resize(image)), []
        ends = stage_ends(self.config.body)[-3:]
        for i, block in enumerate(self.body):
            x = block(x)
            if i in ends:
                found.append(x)
        fine, middle, coarse = found
        p2 = self.up1(coarse) + self.latlayer1(middle)
        p1 = self.up2(p2) + self.latlayer2(fine)
        return [coarse, p2, p1]

    def offsets(self, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The common w [N,D], and the deltas [N,D] of layers 1, 2, ... up to the stage."""
        coarse, middle, fine = self.pyramid(image)
        deltas = []
        for i in range(1, min(self.stage + 1, self.config.num_ws)):
            features = coarse if i < self.config.coarse else middle if i < self.config.middle else fine
            deltas.append(self.styles[i](features))
        return self.styles[0](coarse), deltas

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        common, deltas = self.offsets(image)
        w_plus = self.assemble(common, deltas)
        return w_plus if self.codebook is None else self.codebook(w_plus)

    def assemble(self, common: torch.Tensor, deltas: list[torch.Tensor]) -> torch.Tensor:
        """common [N,D] and its deltas -> w_plus [N,L,D]; layers without a delta are the common w."""
        rows = [common, *(common + delta for delta in deltas)]
        rows += [common] * (self.config.num_ws - len(rows))
        return torch.stack(rows, 1) + self.latent_avg
