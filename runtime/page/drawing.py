"""The brush: a mask that is drawn over the picture and painted on, and what was added to it and taken away."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limner.runtime.errors import InputError
from limner.runtime.page.desk import Overlay
from limner.runtime.page.looking import TINT, TINTED
from limner.runtime.pictures.drawn import drawn_text, read_drawn, touched

__all__ = ["canvas", "drawn_over", "painted"]

BoolArray = NDArray[np.bool_]
SIDE = 512  # pixels of the canvas, at least, so that the brush is finer than what it paints on
SHARE = 127  # of 255, of the steps that a concept's mask had a place at
OPAQUE = 150


def mask_of(overlays: tuple[Overlay, ...], size: tuple[int, int]) -> BoolArray:
    """All masks of a version together, [H,W]."""
    found = np.zeros(size, bool)
    for one in overlays:
        if one.kind == "mask":
            with Image.open(io.BytesIO(base64.b64decode(one.image.partition(",")[2]))) as opened:
                alpha = np.asarray(opened.getchannel("A").resize((size[1], size[0]), Image.Resampling.NEAREST))
            found |= alpha > SHARE * TINTED
    return found


def canvas(picture: Image.Image, overlays: tuple[Overlay, ...]) -> dict[str, Any]:
    """What the editor is given: the picture, and its mask as a layer."""
    factor = max(1, -(-SIDE // min(picture.size)))
    large = picture.convert("RGB").resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)
    mask = mask_of(overlays, (large.height, large.width))
    layer = np.zeros((*mask.shape, 4), np.uint8)
    layer[mask] = (*TINT, OPAQUE)
    return {"background": np.asarray(large), "layers": [layer], "composite": None}


def painted(value: Mapping[str, Any] | None, overlays: tuple[Overlay, ...]) -> tuple[BoolArray, BoolArray]:
    """What the brush added and what the eraser took away, [H,W] each; InputError where it is neither."""
    layers = [] if value is None else [np.asarray(layer) for layer in value["layers"]]
    if not layers:
        raise InputError("brush", "nothing", "a stroke that adds to the mask, or takes from it")
    now = np.any([layer[..., 3] > 0 for layer in layers], axis=0)
    before = mask_of(overlays, now.shape)
    if np.array_equal(now, before):
        raise InputError("brush", "the mask as it was", "a stroke that adds to the mask, or takes from it")
    return now & ~before, before & ~now


def drawn_over(options: Any, add: BoolArray, remove: BoolArray) -> dict[str, str]:
    """The options of a text with new strokes over those that it has already."""

    def old(name: str) -> BoolArray:
        text = getattr(options, name)
        return np.zeros(add.shape, bool) if text is None else touched(read_drawn(name, text), add.shape)

    added, removed = (old("mask_add") | add) & ~remove, (old("mask_remove") | remove) & ~add
    both = {"mask_add": added, "mask_remove": removed}
    return {name: drawn_text(mask) for name, mask in both.items() if mask.any()}
