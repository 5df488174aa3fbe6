"""Words that look where their thing is: cross-attention of a noun spread over the region that it names.

Local edits take their mask from the attention of a word (Prompt-to-Prompt, section 3.2). A small model draws clothes
and background of one colour right without looking at them there. The term that teaches it to is one of supervised maps,
as TokenCompose's (Wang et al. 2023), in one formula that does not depend on how much attention a word gets:

    KL(r / sum r || a / sum a)        of a noun's map a, a mean over heads and layers, and the region r
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limner.training.avatars.regions import NOUNS
from limner.training.avatars.tokens import CaptionTokenizer

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

MAP_SIDE = 16  # tokens a side of the maps that local edits average, where a UNet has them
LEAST = 2.0  # places that a region must fill to count


class MapAttention:
    """A diffusers attention processor that writes attention out and keeps its map, a mean over heads [B,N,77]."""

    def __init__(self) -> None:
        self.map: Tensor | None = None

    def take(self) -> Tensor:
        """The map of the last call, which is let go: a CUDA graph that is replayed would write over it."""
        assert self.map is not None
        taken, self.map = self.map, None
        return taken

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # [B,heads,tokens,C / heads]
            for project, x in ((attn.to_q, hidden_states), (attn.to_k, encoder_hidden_states),
                               (attn.to_v, encoder_hidden_states))
        )  # fmt: skip
        weights = (q @ k.mT * attn.scale).float().softmax(-1)
        self.map = weights.mean(1)
        mixed: Tensor = attn.to_out[0]((weights.to(v.dtype) @ v).transpose(1, 2).flatten(2))
        return mixed


def keep_maps(network: UNet2DConditionModel) -> list[MapAttention]:
    """Let the cross-attention layers whose side is nearest to 16 keep their maps, those of the middle left out."""
    levels = len(network.config.block_out_channels)
    level = min(range(levels), key=lambda i: abs(math.log2(network.config.sample_size / 2**i / MAP_SIDE)))
    blocks = (f"down_blocks.{level}.", f"up_blocks.{levels - 1 - level}.")
    kept: list[MapAttention] = []
    processors: dict[str, Any] = dict(network.attn_processors)
    for name in processors:
        if name.startswith(blocks) and name.endswith("attn2.processor"):
            processors[name] = MapAttention()
            kept.append(processors[name])
    network.set_attn_processor(processors)
    return kept


def noun_ids(tokenizer: CaptionTokenizer) -> list[list[list[int]]]:
    """The token ids of every noun of every region, start and end left out."""
    return [[row[1 : row.index(tokenizer.end)] for row in tokenizer.encode(nouns).tolist()] for nouns in NOUNS.values()]


def noun_places(ids: Tensor, nouns: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """Where captions ids [N,77] name each region: bool [N,R,77], all tokens of a noun."""
    found = torch.zeros(len(ids), len(nouns), ids.shape[1], dtype=torch.bool)
    for region, spellings in enumerate(nouns):
        for spelling in spellings:
            windows = ids.unfold(1, len(spelling), 1)  # [N,77 - L + 1,L]
            starts = (windows == torch.tensor(spelling)).all(-1)
            for shift in range(len(spelling)):
                found[:, region, shift : shift + starts.shape[1]] |= starts
    hair, beard = (list(NOUNS).index(name) for name in ("hair", "facial_hair"))
    found[:, hair] &= ~found[:, beard]  # facial hair
    return found


def places_loss(maps: Sequence[Tensor], named: Tensor, regions: Tensor) -> Tensor:
    """The mean divergence over all nouns that a caption names and whose region is there; 0 where there are none.

    maps [B,h w,77] of each layer, named bool [B,R,77], regions [B,R,h,w] from 0 to 1.
    """
    words = torch.stack(list(maps)).mean(0).mT  # [B,77,h w]
    wanted = regions.flatten(2)  # [B,R,h w]
    counts = named & (wanted.sum(-1) >= LEAST)[..., None]  # [B,R,77]
    share = wanted / wanted.sum(-1, keepdim=True).clamp(min=1e-6)
    log_words = (words / words.sum(-1, keepdim=True).clamp(min=1e-8)).clamp(min=1e-8).log()
    entropy = (share * share.clamp(min=1e-8).log()).sum(-1)  # [B,R], of the regions
    divergence = entropy[..., None] - share @ log_words.mT  # [B,R,77]
    return (divergence * counts).sum() / counts.sum().clamp(min=1)
