"""Which convolutions of a UNet are computed by minimal filtering on CPUs: by level, as far as memory goes.

Measured a convolution, with ONNX Runtime 1.32 on AVX2: 1.7 times as quick with 160 channels at 64 x 64, 2.2 with 320
at 32 x 32, 2.3 with 640 at 16 x 16; at 8 x 8 weights are read for too few places, and below 96 channels tiles are moved
for too few products.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from limner.export.onnx.winograd import extra_bytes, fitting, rewrite_convolutions

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

__all__ = ["DEFAULT_MEMORY", "Filtered", "filtered"]

DEFAULT_MEMORY = 8.0  # GB
CHANNELS, SIDE = 96, 16  # the fewest channels on either side, and places a side at the model's own size
LOADED, FILTERED, ROWS = 1.7, 1.25, 0.5  # peak of a session: GB a GB of fp32 weights, a GB of filtered ones; a call
GB = 1e9
PLACE = re.compile(r"(down|up)_blocks\.(\d+)")


@dataclass(frozen=True)
class Filtered:
    """What was chosen."""

    levels: tuple[int, ...] = ()
    convolutions: int = 0
    gigabytes: float = 0.0  # the estimated peak of a session on the UNet

    @property
    def sentence(self) -> str:
        """All of it in words."""
        levels = ", ".join(map(str, self.levels))
        return (
            f"{self.convolutions} convolutions of levels {levels} by minimal filtering, about {self.gigabytes:.1f} GB"
        )


def filtered(model: ir.Model, unet: UNet2DConditionModel, memory: float) -> Filtered:
    """Rewrite convolutions, level by level from the largest maps on, while the peak stays within `memory` GB; in place.

    Nothing is chosen where the UNet takes that much anyhow.
    """
    count = len(unet.config.block_out_channels)
    side = unet.config.sample_size if isinstance(unet.config.sample_size, int) else min(unet.config.sample_size)
    level = {node: level_of(node.name or "", count) for node in model.graph if _pays(node)}
    weights = sum(weight.numel() for weight in unet.parameters())
    peak = LOADED * 4 * weights / GB + ROWS
    chosen: list[int] = []
    for candidate in sorted(set(level.values()) - {None}, key=lambda one: one or 0):
        more = FILTERED * sum(extra_bytes(node) for node, own in level.items() if own == candidate) / GB
        if candidate is None or side / 2**candidate < SIDE or peak + more > memory:
            break
        chosen.append(candidate)
        peak += more
    made = rewrite_convolutions(
        model, lambda node: level.get(node) in chosen, lambda node: _exact(level.get(node), count)
    )
    return Filtered(tuple(chosen), made, peak)


def level_of(name: str, levels: int) -> int | None:
    """How often a layer's map was halved, by the name of its module; None at the ends of the UNet."""
    if "mid_block" in name:
        return levels - 1
    found = PLACE.search(name)
    if found is None:
        return None
    level = int(found[2]) if found[1] == "down" else levels - 1 - int(found[2])
    return level - 1 if "upsamplers" in name else level  # behind the doubling


def _pays(node: ir.Node) -> bool:
    found = fitting(node)
    return found is not None and min(found) >= CHANNELS


def _exact(level: int | None, levels: int) -> bool:
    """Whether sides are multiples of 4 at a level: those of latents are multiples of 2 to the deepest level."""
    return level is not None and levels - 1 - level >= 2
