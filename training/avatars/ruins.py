"""Pictures that are broken on purpose, in the ways that models break them: what a measure of realism has to reject.

Each takes picture and other, uint8 [S,S,3], and a random source; places and sizes are of 128 pixels and grow with S.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

ImageU8 = NDArray[np.uint8]
Ruin = Callable[[ImageU8, ImageU8, np.random.Generator], ImageU8]
MOUTH = (slice(68, 86), slice(46, 82))  # rows and columns of 128
FACE = (32, 96)  # rows and columns from, to


def torn(picture: ImageU8, other: ImageU8, rng: np.random.Generator) -> ImageU8:
    """A band of the face moved sideways by 5 to 10 pixels."""
    unit = len(picture) / 128
    first, tall = int(unit * rng.integers(40, 76)), int(unit * rng.integers(8, 16))
    found = picture.copy()
    found[first : first + tall] = np.roll(picture[first : first + tall], int(unit * rng.integers(5, 11)), axis=1)
    return found


def ghost(picture: ImageU8, other: ImageU8, rng: np.random.Generator) -> ImageU8:
    """Somebody else shines through, by 0.3 to 0.5."""
    share = rng.uniform(0.3, 0.5)
    return _u8((1 - share) * picture + share * other.astype(np.float64))


def halo(picture: ImageU8, other: ImageU8, rng: np.random.Generator) -> ImageU8:
    """A rim of 3 pixels around the head and shoulders, lighter or darker by 70."""
    figure = (np.abs(picture.astype(int) - picture[0, 0]).sum(2) > 30).astype(np.uint8)
    wide = Image.fromarray(255 * figure).filter(ImageFilter.MaxFilter(2 * round(3 * len(picture) / 128) + 1))
    rim = (np.asarray(wide) > 0) & (figure == 0)
    return _u8(picture + 70.0 * rng.choice([-1, 1]) * rim[..., None])


def blurred(picture: ImageU8, other: ImageU8, rng: np.random.Generator) -> ImageU8:
    """Out of focus: a Gaussian of 2 pixels."""
    return _soft(picture, 2.0)


def smudged(picture: ImageU8, other: ImageU8, rng: np.random.Generator) -> ImageU8:
    """The mouth wiped out by a Gaussian of 4 pixels."""
    unit, found = len(picture) // 128, picture.copy()
    place = tuple(slice(one.start * unit, one.stop * unit) for one in MOUTH)
    found[place] = _soft(picture, 4.0)[place]
    return found


def patched(picture: ImageU8, other: ImageU8, rng: np.random.Generator) -> ImageU8:
    """A disc of the face is somebody else's, 8 to 14 pixels around."""
    unit = len(picture) / 128
    y, x = (unit * rng.integers(*FACE, 2)).tolist()
    rows, columns = np.mgrid[: len(picture), : len(picture)]
    inside = np.hypot(rows - y, columns - x) < unit * rng.integers(8, 15)
    return np.where(inside[..., None], np.roll(other, int(12 * unit), axis=0), picture)


def blotched(picture: ImageU8, other: ImageU8, rng: np.random.Generator) -> ImageU8:
    """Stains of some 8 pixels, 40 of 255 strong."""
    coarse = rng.standard_normal((16, 16, 3)).astype(np.float32)
    planes = [Image.fromarray(coarse[..., k]).resize(picture.shape[1::-1], Image.Resampling.BICUBIC) for k in range(3)]
    noise = np.stack([np.asarray(one) for one in planes], axis=2)
    return _u8(picture + 40.0 * noise / noise.std())


def _soft(picture: ImageU8, sigma: float) -> ImageU8:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(sigma * len(picture) / 128)))


def _u8(values: NDArray[np.floating]) -> ImageU8:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


RUINS: dict[str, Ruin] = {one.__name__: one for one in (torn, ghost, halo, blurred, smudged, patched, blotched)}
