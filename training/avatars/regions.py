"""Where a drawing shows its clothes and its background: the places of their own flat colours, coarsely."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from limner.training.avatars.attributes import StyleSpec

__all__ = ["NOUNS", "REGIONS", "regions"]

REGIONS = ("clothes", "background")
OPTIONS = ("clothes_color", "background")  # whose choices are hexadecimal colours
NOUNS: tuple[tuple[str, ...], ...] = (  # what captions call them
    ("clothes", "clothing", "outfit", "t-shirt", "tee", "shirt", "hoodie", "sweatshirt", "overalls", "dungarees",
     "blazer", "jacket", "sweater", "pullover"),
    ("background", "backdrop", "wall"),
)  # fmt: skip
NEAR = 12  # levels of 255 that a pixel may be off its colour
CHEST = 0.6  # share of the height above which the colour of clothes may be that of a hat or of glasses


def regions(style: StyleSpec, image: Tensor, options: np.ndarray, side: int) -> Tensor:
    """Shares [N,2,side,side] of each place that are clothes and background, 0 to 1.

    image uint8 [N,3,H,W] with H and W multiples of `side`; options int [N,O] of the drawings. What is shaded, and a
    collar of another colour, is left out.
    """
    names = [option.name for option in style.options]
    found = []
    for name in OPTIONS:
        at = names.index(name)
        palette = torch.tensor([rgb(choice) for choice in style.options[at].values], dtype=torch.int16)
        color = palette[torch.from_numpy(options[:, at].astype(np.int64))]  # [N,3]
        found.append(((image.to(torch.int16) - color[:, :, None, None]).abs() <= NEAR).all(1))
    found[0][:, : round(CHEST * image.shape[-2])] = False
    return F.adaptive_avg_pool2d(torch.stack(found, 1).float(), side)


def rgb(code: str) -> Sequence[int]:
    """ "ff5c5c" -> 255, 92, 92."""
    return [int(code[i : i + 2], 16) for i in (0, 2, 4)]
