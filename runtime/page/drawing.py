"""The brush: a mask that lies over the picture and is painted on, and what was added to it and taken away."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from limner.runtime.errors import InputError
from limner.runtime.page.desk import Overlay
from limner.runtime.page.looking import TINT, TINTED, file_url, picture_url
from limner.runtime.pictures.drawn import drawn_text, open_png, read_drawn, touched

__all__ = ["brush", "drawn_over", "mask_of", "painted"]

BoolArray = NDArray[np.bool_]
SIDE = 256  # pixels of the canvas's shorter side: finer than what it paints on
BESIDE = SIDE // 16  # pixels of it that a place of an attention map is wide
SHARE = 127  # of 255, of the steps that a concept's mask had a place at
STROKE = "a stroke that adds to the mask, or takes from it"
PNG_URL = "data:image/png;base64,"


def mask_of(overlays: tuple[Overlay, ...], size: tuple[int, int]) -> BoolArray:
    """All masks of a version together, [H,W]."""
    found = np.zeros(size, bool)
    for one in overlays:
        if one.kind == "mask":
            with Image.open(io.BytesIO(base64.b64decode(one.image.partition(",")[2]))) as opened:
                alpha = np.asarray(opened.getchannel("A").resize((size[1], size[0]), Image.Resampling.NEAREST))
            found |= alpha > SHARE * TINTED
    return found


def brush(picture: Path, overlays: tuple[Overlay, ...]) -> str:
    """The picture under a canvas that begins with its mask; `brush.js` does the rest."""
    with Image.open(picture) as opened:
        factor = SIDE / min(opened.size)
        width, height = (max(SIDE, round(side * factor)) for side in opened.size)
    mask = mask_of(overlays, (height, width))
    layer = np.zeros((height, width, 4), np.uint8)
    layer[mask] = (*TINT, 255)
    about = "Paint where the edit may act; arrows move, the space bar paints"
    return (
        f'<figure class="pair" id="brush-pair"><img id="brush-picture" src="{file_url(picture)}" alt="result">'
        f'<canvas id="brush-canvas" width="{width}" height="{height}" tabindex="0" role="img" aria-label="{about}" '
        f'data-mask="{picture_url(Image.fromarray(layer))}" data-tint="rgb{TINT}"></canvas>'
        '<span id="brush-cursor" aria-hidden="true" hidden></span></figure>'
        '<div class="brush-row" role="group" aria-label="Brush">'
        '<button type="button" class="chip" id="brush-add" aria-pressed="true">Add</button>'
        '<button type="button" class="chip" id="brush-take" aria-pressed="false">Take away</button>'
        '<label>size <input type="range" id="brush-size" min="4" max="96" value="24"></label>'
        '<button type="button" class="chip" id="brush-back">Undo stroke</button>'
        '<button type="button" class="chip" id="brush-close">Close</button>'
        '<button type="button" class="chip" id="brush-again">Edit again with this mask</button></div>'
    )


def painted(given: object, overlays: tuple[Overlay, ...]) -> tuple[BoolArray, BoolArray]:
    """What was added to a version's mask and taken away, [H,W] each, from the canvas as a data URL.

    With what was taken goes what lies beside it: words look anew in the next edit, and a place beside would come back.
    InputError for anything else, and where it is the mask as it was.
    """
    if not isinstance(given, str) or not given.startswith(PNG_URL):
        raise InputError("brush", "nothing", STROKE)
    now: BoolArray = np.asarray(open_png("brush", given[len(PNG_URL) :]).convert("RGBA"))[..., 3] > SHARE
    before = mask_of(overlays, (now.shape[0], now.shape[1]))
    if np.array_equal(now, before):
        raise InputError("brush", "the mask as it was", STROKE)
    taken = Image.fromarray(before & ~now).convert("L").filter(ImageFilter.MaxFilter(2 * BESIDE + 1))
    return now & ~before, (np.asarray(taken) > 0) & ~now


def drawn_over(options: Any, add: BoolArray, remove: BoolArray) -> dict[str, str]:
    """The options of a text with new strokes over those that it has already."""
    size = (add.shape[0], add.shape[1])

    def old(name: str) -> BoolArray:
        text = getattr(options, name)
        return np.zeros(size, bool) if text is None else touched(read_drawn(name, text), size)

    added, removed = (old("mask_add") | add) & ~remove, (old("mask_remove") | remove) & ~add
    both = {"mask_add": added, "mask_remove": removed}
    return {name: drawn_text(mask) for name, mask in both.items() if mask.any()}
