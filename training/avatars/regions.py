"""Where a drawing shows what words name: places of flat colours, and of a face that never moves, coarsely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from limner.training.avatars.attributes import COVERED_HAIR, StyleSpec
from limner.training.avatars.captions import EXPRESSION

__all__ = ["NOUNS", "regions"]

NOUNS: Mapping[str, tuple[str, ...]] = {  # region -> what captions call it
    "hair": ("hair", "haircut", "bob", "bun", "afro", "curls", "hat", "cap", "hijab", "headscarf", "veil", "turban"),
    "facial_hair": ("beard", "moustache", "mustache", "facial hair"),
    "eyewear": ("glasses", "eyeglasses", "spectacles", "sunglasses", "shades", "eyewear"),
    "expression": (*dict.fromkeys(word for phrases in EXPRESSION.values() for word in phrases["before"]),
                   "smile", "frown", "expression", "mouth", "teeth", "look"),
    "skin": ("skin",),
    "clothes": ("clothes", "clothing", "outfit", "t-shirt", "tee", "shirt", "hoodie", "sweatshirt", "overalls",
                "dungarees", "blazer", "jacket", "sweater", "pullover"),
    "background": ("background", "backdrop", "wall"),
}  # fmt: skip
Box = tuple[float, float, float, float]  # left, top, right, bottom: shares of the sides
EYES: Box = (0.3, 0.33, 0.7, 0.49)
MOUTH: Box = (0.39, 0.52, 0.61, 0.68)
BEARD: Box = (0.32, 0.45, 0.68, 0.72)
SCALP: Box = (0.3, 0.08, 0.7, 0.34)
FACES: Mapping[str, Mapping[str, tuple[Box, ...]]] = {  # style -> region -> boxes of its face
    "avataaars": {"facial_hair": (BEARD,), "eyewear": (EYES,), "expression": (EYES, MOUTH), "hair": (SCALP,)},
}
NEAR = 12  # levels of 255 that a pixel may be off its colour
FINE = 4  # pixels along a side of a place that are looked at
CHEST = 0.6  # share of the height above which the colour of clothes may be that of a hat or of glasses


def regions(style: StyleSpec, image: Tensor, options: np.ndarray, side: int) -> Tensor:
    """Shares [N,R,side,side] of each place that show the regions of NOUNS, 0 to 1; nothing where a style has no table.

    image uint8 [N,3,H,W] with H and W multiples of `side`; options int [N,O] of the drawings. What is shaded, and a
    collar of another colour, is left out; a bald head's hair is its scalp.
    """
    skip = max(1, image.shape[-1] // (FINE * side))
    image = image[..., ::skip, ::skip]
    places = {name: colored(style, image, options, name) for name in ("skin", "clothes_color", "background")}
    places["clothes"] = places.pop("clothes_color")
    places["clothes"][:, : round(CHEST * image.shape[-2])] = False
    boxes = FACES.get(style.name, {})
    for name in ("facial_hair", "eyewear", "expression"):
        places[name] = inside(image, boxes.get(name, ())).expand(len(image), -1, -1)
    places["hair"] = hair(style, image, options)
    found = torch.stack([places[name] for name in NOUNS], 1).float()
    return F.adaptive_avg_pool2d(found, side)


def hair(style: StyleSpec, image: Tensor, options: np.ndarray) -> Tensor:
    """The places of hair, of what covers it, or of a bald scalp: bool [N,H,W]; a beard of its colour is left out.

    Of a style whose face is known it is all above the chest that is neither skin nor background nor face: hair comes in
    shades. Below, and in other styles, it is what has its colour.
    """
    names = [option.name for option in style.options]
    choices = style.option("hair").choices
    kinds = [choices[k][1] for k in options[:, names.index("hair")].tolist()]
    places = colored(style, image, options, "hair_color")
    covered = torch.tensor([kind in COVERED_HAIR and kind != "bald" for kind in kinds])[:, None, None]
    if "hat_color" in names:
        places = torch.where(covered, colored(style, image, options, "hat_color"), places)
    boxes = FACES.get(style.name)
    if boxes is None:
        return places
    rest = ~(colored(style, image, options, "skin") | colored(style, image, options, "background"))
    rest[:, round(CHEST * image.shape[-2]) :] = False
    places = (places | rest) & ~inside(image, [*boxes["facial_hair"], *boxes["eyewear"]])
    bald = torch.tensor([kind == "bald" for kind in kinds])[:, None, None]
    return torch.where(bald, inside(image, boxes["hair"]), places)


def colored(style: StyleSpec, image: Tensor, options: np.ndarray, name: str) -> Tensor:
    """Where pictures have the colour of one of their options: bool [N,H,W]."""
    at = [option.name for option in style.options].index(name)
    palette = torch.tensor([rgb(choice) for choice in style.options[at].values], dtype=torch.int16)
    color = palette[torch.from_numpy(options[:, at].astype(np.int64))]  # [N,3]
    near: Tensor = ((image.to(torch.int16) - color[:, :, None, None]).abs() <= NEAR).all(1)
    return near


def inside(image: Tensor, boxes: Sequence[Box]) -> Tensor:
    """The places of boxes: bool [1,H,W]."""
    height, width = image.shape[-2:]
    found = torch.zeros(1, height, width, dtype=torch.bool)
    for left, top, right, bottom in boxes:
        found[:, round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = True
    return found


def rgb(code: str) -> Sequence[int]:
    """ "ff5c5c" -> 255, 92, 92."""
    return [int(code[i : i + 2], 16) for i in (0, 2, 4)]
