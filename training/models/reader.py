"""The second judge: queries that read a drawing's options off a picture, one query an option.

Convolutions make 16 x 16 tokens of a picture of 128 pixels, self-attention mixes them, and one learnt query for each
option of the drawing (which hair, which mouth, which colour) gathers what its classifier reads; a last query reads the
pose. Attributes are sums of option probabilities. So it shares no layer, no loss and no data with `judge`, and what it
reads can be drawn again. It measures, and is in no loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.training.avatars.attributes import COVERED_HAIR, POSE_NAMES, StyleSpec

SMALLEST = 1e-9  # probability


@dataclass(frozen=True)
class ReaderConfig:
    """Sizes of the reader, the options of the drawing, and what attributes are made of them."""

    options: tuple[tuple[str, int], ...]  # (option, how many choices)
    attributes: tuple[tuple[str, tuple[str, ...]], ...]  # (attribute, its values in order)
    sources: tuple[tuple[str, tuple[int, ...]], ...]  # of each attribute: the option, and the value of each choice
    covered: tuple[int, ...] = ()  # choices of the option "hair" under which its colour cannot be seen
    image_size: int = 128
    stem: tuple[int, ...] = (32, 64)  # channels at 1/2 and 1/4 of the size
    width: int = 128  # of a token, at 1/8
    blocks: int = 3
    heads: int = 4

    def __post_init__(self) -> None:
        if self.image_size % 8:
            raise ValueError(f"image_size is {self.image_size}; allowed: a multiple of 8")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")


def config_of(style: StyleSpec, **sizes: object) -> ReaderConfig:
    """The config for a style's drawings."""
    sources = []
    for name, option in style.attributes:
        values = style.attribute_values(name)
        sources.append((option, tuple(values.index(choice[1]) for choice in style.option(option).choices)))
    hair = style.option("hair").choices
    return ReaderConfig(
        options=tuple((option.name, len(option.choices)) for option in style.options),
        attributes=tuple((name, style.attribute_values(name)) for name, _ in style.attributes),
        sources=tuple(sources),
        covered=tuple(k for k, choice in enumerate(hair) if choice[1] in COVERED_HAIR),
        **sizes,  # type: ignore[arg-type]
    )


class Attention(nn.Module):
    """Queries [N,Q,D] read tokens [N,T,D]: pre-norm attention and a feed-forward layer, both beside a skip."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query, self.norm_token = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.pair, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        q = self._split(self.query(self.norm_query(queries)))
        k, v = (self._split(one) for one in self.pair(self.norm_token(tokens)).chunk(2, 2))
        read = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = queries + self.out(read)
        result: Tensor = x + self.narrow(F.gelu(self.wide(self.norm(x))))
        return result

    def _split(self, x: Tensor) -> Tensor:
        """[N,T,D] -> [N,heads,T,D/heads]."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Reader(nn.Module):
    """image [N,3,S,S] in [-1,1] -> one row of logits per option, and the pose."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = [nn.PixelUnshuffle(2)]
        before = 12
        for channels in (*config.stem, config.width):
            layers += [nn.Conv2d(before, channels, 3, 1 if before == 12 else 2, 1, bias=False),
                       nn.BatchNorm2d(channels), nn.GELU()]  # fmt: skip
            before = channels
        self.stem = nn.Sequential(*layers)
        side = config.image_size // 8
        self.place = nn.Parameter(0.02 * torch.randn(1, side * side, config.width))
        self.mix = nn.ModuleList(Attention(config.width, config.heads) for _ in range(config.blocks))
        self.queries = nn.Parameter(0.02 * torch.randn(1, len(config.options) + 1, config.width))
        self.gather = Attention(config.width, config.heads)
        self.heads = nn.ModuleDict({name: nn.Linear(config.width, count) for name, count in config.options})
        self.pose_head = nn.Linear(config.width, len(POSE_NAMES))
        for i, (_, values) in enumerate(config.attributes):
            places = config.sources[i][1]
            table = F.one_hot(torch.tensor(places), len(values)).float()  # [choices, values]
            self.register_buffer(f"table_{i}", table, persistent=False)

    def read_options(self, image: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return logits of each option [N,choices], the pose [N,4] in units of POSE_LIMITS, and features [N,width]."""
        tokens = self.stem(image).flatten(2).transpose(1, 2) + self.place
        for block in self.mix:
            tokens = block(tokens, tokens)
        found = self.gather(self.queries.expand(image.shape[0], -1, -1), tokens)
        logits = {name: head(found[:, i]) for i, (name, head) in enumerate(self.heads.items())}
        return logits, self.pose_head(found[:, -1]), found.mean(1)

    def attribute_logits(self, options: dict[str, Tensor]) -> dict[str, Tensor]:
        """Logarithms of attribute probabilities [N,values]: sums over an option's choices."""
        shares = {name: logits.float().softmax(1) for name, logits in options.items()}
        found = {}
        for i, (name, _) in enumerate(self.config.attributes):
            part = shares[self.config.sources[i][0]] @ self.get_buffer(f"table_{i}")
            if name == "hair_color" and self.config.covered:
                hidden = shares["hair"][:, list(self.config.covered)].sum(1, keepdim=True)
                part = torch.cat([part[:, :-1] * (1 - hidden), hidden], 1)
            found[name] = part.clamp_min(SMALLEST).log()
        return found

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return self.attribute_logits(self.read_options(image)[0])

    @torch.no_grad()
    def read(self, image: Tensor) -> Tensor:
        """Value indices int64 [N, attributes], columns in the config's order."""
        return torch.stack([logits.argmax(1) for logits in self(image).values()], dim=1)
