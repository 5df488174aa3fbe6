"""Pixels outside a local edit's mask: the latents there are the source's, but a decoder mixes neighbours and its norms
the whole picture, so that its pixels differ by some levels. They are taken from the source instead.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

__all__ = ["feathered"]

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]


def feathered(mask: BoolArray, width: int) -> FloatArray:
    """The share of the edit [H,W], 0 to 1: 0 outside the mask, rising to 1 inside within a quarter of `width` pixels,
    the side of one latent.
    """
    radius = max(width // 4, 1)
    blurred = Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).filter(ImageFilter.BoxBlur(radius))
    share: FloatArray = np.clip(np.asarray(blurred, np.float32) * np.float32(2 / 255) - 1, 0, 1) * mask
    return share
