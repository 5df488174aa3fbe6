"""The attention layers of a UNet by name, and which of them the control inputs reach.

A layer's name is that of its module, e.g. "up_blocks.1.attentions.0.transformer_blocks.0.attn2"; attn1 is
self-attention, attn2 cross-attention. Patterns are shell-style ("down_blocks.*"), never sizes, so that a choice
means the same at every picture size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from limner.runtime.errors import InputError, nearest

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

SELF, CROSS = "attn1", "attn2"
LARGEST_SELF_SIDE = 16  # tokens a side of the self-attention that Prompt-to-Prompt replaces (its Stable Diffusion code)
MAP_SIDE = 16  # tokens a side of the maps that local blend averages there


@dataclass(frozen=True)
class ControlledLayers:
    """Names of the edited layers of both kinds, and of those whose maps make blend_maps."""

    edited: tuple[str, ...]  # in the order of the UNet
    blends: tuple[str, ...]  # cross-attention layers of one side, all of them edited
    shrink: int  # latents per map element along a side


def attention_layers(unet: UNet2DConditionModel) -> list[str]:
    """All attention layers by name, from the first block down to the last block up."""
    names = [key.removesuffix(".processor") for key in unet.attn_processors]
    return sorted(names, key=lambda name: ("down", "mid", "up").index(name.split("_", 1)[0]))


def layer_shrink(unet: UNet2DConditionModel, name: str) -> int:
    """Latents per token along a side at a layer."""
    levels = len(unet.config.block_out_channels)
    block, index = name.split(".")[:2]
    level = {"down_blocks": lambda: int(index), "up_blocks": lambda: levels - 1 - int(index)}
    return int(2 ** level.get(block, lambda: levels - 1)())


def stride(unet: UNet2DConditionModel) -> int:
    """What the sides of latents must be a multiple of."""
    return int(2 ** (len(unet.config.block_out_channels) - 1))


def choose_layers(
    unet: UNet2DConditionModel,
    edited: Sequence[str] = (),  # patterns; none takes Prompt-to-Prompt's own choice
    blends: Sequence[str] = (),
) -> ControlledLayers:
    """Layers by patterns, or those of Prompt-to-Prompt: every cross-attention, self-attention up to 16 tokens a side,
    and maps of the way down and up whose side is the nearest to 16. InputError for a pattern that names no layer.
    """
    names = attention_layers(unet)
    sizes: Any = unet.config.sample_size
    sample = int(sizes if isinstance(sizes, int) else max(sizes))
    side = {name: sample / layer_shrink(unet, name) for name in names}
    if edited:
        chosen = _matching("edited_layers", edited, names)
    else:
        chosen = [n for n in names if n.endswith(CROSS) or side[n] <= LARGEST_SELF_SIDE]
    cross = [name for name in chosen if name.endswith(CROSS)]
    if blends:
        maps = _matching("blend_layers", blends, cross)
    else:
        path = [n for n in cross if not n.startswith("mid_block")] or cross
        best = min((side[n] for n in path), key=lambda s: (max(s / MAP_SIDE, MAP_SIDE / s), -s), default=0.0)
        maps = [name for name in path if side[name] == best]
    if not maps:
        raise InputError("edited_layers", ", ".join(edited) or "none", "patterns that name a cross-attention layer")
    shrinks = {layer_shrink(unet, name) for name in maps}
    if len(shrinks) > 1:
        given = ", ".join(f"{name} (1/{layer_shrink(unet, name)})" for name in maps)
        raise InputError("blend_layers", given, "layers of one size")
    return ControlledLayers(tuple(chosen), tuple(maps), shrinks.pop())


def _matching(field: str, patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(field, repr(pattern), f"patterns of: {', '.join(names)}", nearest(pattern, names))
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
