"""Places that somebody drew in a picture: a mask as text in a recipe, a PNG in base64, white where the brush was."""

import base64
import binascii
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limner.runtime.errors import InputError

__all__ = ["drawn_text", "open_png", "read_drawn", "touched"]

BoolArray = NDArray[np.bool_]
MAX_MASK_SIDE = 4096  # pixels
MAX_MASK_TEXT = 400_000  # characters
ALLOWED = f"a PNG in base64, white where it is drawn, at most {MAX_MASK_SIDE} pixels a side"


def drawn_text(mask: BoolArray) -> str:
    """A mask [H,W] as a recipe holds it."""
    held = io.BytesIO()
    Image.fromarray(mask).convert("1").save(held, "PNG", optimize=True)
    return base64.b64encode(held.getvalue()).decode()


def read_drawn(field: str, text: object) -> BoolArray:
    """The mask [H,W] of a text; InputError naming `field` for anything else, and for a mask that marks no place."""
    mask: BoolArray = np.array(open_png(field, text).convert("L")) > 127
    if not mask.any():
        raise InputError(field, "a mask that marks no place", "one pixel or more, or leave it out")
    return mask


def open_png(field: str, text: object) -> Image.Image:
    """The picture of a text, decoded; InputError naming `field` for what is none, or too large."""
    if not isinstance(text, str) or len(text) > MAX_MASK_TEXT:
        given = f"a text of {len(text)} characters" if isinstance(text, str) else type(text).__name__
        raise InputError(field, given, f"{ALLOWED} and {MAX_MASK_TEXT} characters")
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",)) as opened:
            if max(opened.size) > MAX_MASK_SIDE:
                raise InputError(field, f"{opened.width} x {opened.height} pixels", ALLOWED)
            opened.load()
            return opened
    except (binascii.Error, OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as reason:
        raise InputError(field, f"{text[:20]!r}, which is no such picture", ALLOWED) from reason


def touched(mask: BoolArray, size: tuple[int, int]) -> BoolArray:
    """A mask [H,W] at another size (height, width): true where any part of a cell is marked."""
    scaled = Image.fromarray(mask.astype(np.float32)).resize((size[1], size[0]), Image.Resampling.BOX)
    found: BoolArray = np.asarray(scaled) > 1e-6
    return found
