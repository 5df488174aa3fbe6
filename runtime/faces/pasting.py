"""The way back: an edited square into the picture that it was cut from, through a soft mask.

The mask is 0 at the square's border and rises to 1 inside; with a threshold it is also 0 where the edit left the
square as it was, so that those pixels of the picture keep their bits. Two ways to fill it:

    replace       picture + mask (edited + tone - picture)     the edited square, in the picture's tones
    difference    picture + mask (edited - reconstruction)     what the edit changed, on the picture's own detail

A generator gives a picture back only nearly: its tones are a little off, and so is where it puts things.
tone = blur(source - reconstruction) takes the first out. The second is why "replace" is the usual one: what is new
covers what was there, while the difference lets eyes show through sunglasses and doubles a mouth that moved.
"difference" keeps the picture's own sharpness, and suits changes of colour and light.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limner.runtime.errors import InputError
from limner.runtime.faces.face import PasteMode
from limner.runtime.faces.padding import gaussian_blur

__all__ = ["change_mask", "paste_face"]

FloatArray = NDArray[np.float32]
ImageU8 = NDArray[np.uint8]
TONE_BLUR = 1 / 8  # sigma of the blur that leaves tones of the reconstruction's error, a part of the square's side
NOTHING = 1 / 512  # a mask below this would move no level by more than half of one


def change_mask(
    before_u8: ImageU8,  # [S,S,3], the reconstruction
    after_u8: ImageU8,  # [S,S,3], the edit
    threshold: float,  # part of the full range, in the channel that changed most; 0 takes the whole square
    feather: float,  # width of the soft edge, a part of S
) -> FloatArray:
    """Return where the edit goes back, float32 [S,S] in [0,1].

    Changed pixels are grown by half of the feather and blurred by a quarter, so that the edge lies around what
    changed. Along the border of the square the mask rises smoothly over the feather's width.
    """
    size = before_u8.shape[0]
    ramp = _border_ramp(size, feather)
    if threshold == 0:
        return ramp
    change = np.abs(after_u8.astype(np.int16) - before_u8.astype(np.int16)).max(axis=2)  # [S,S]
    radius = max(1, round(feather * size / 2))
    grown = _grown(_grown(change > threshold * 255.0, radius).T, radius).T
    mask = np.clip(gaussian_blur(grown.astype(np.float32), radius / 2), 0, 1) * ramp
    mask[mask < NOTHING] = 0
    return mask


def paste_face(
    picture_u8: ImageU8,  # [H,W,3]
    quad: NDArray[np.float64],  # [4,2], AlignedFace.quad
    source_u8: ImageU8,  # [S,S,3], AlignedFace.image_u8
    before_u8: ImageU8,  # [S,S,3], the reconstruction
    after_u8: ImageU8,  # [S,S,3], the edit
    mode: PasteMode = "replace",
    threshold: float = 0.1,
    feather: float = 0.06,
) -> ImageU8:
    """Return the picture with the edit in it, uint8 [H,W,3]. Pixels outside the mask keep their bits."""
    shapes = {image.shape for image in (source_u8, before_u8, after_u8)}
    if len(shapes) > 1 or after_u8.ndim != 3 or after_u8.shape[0] != after_u8.shape[1]:
        raise InputError("face", f"pictures of {sorted(map(list, shapes))}", "three squares [S,S,3] of one size")
    result = picture_u8.copy()
    mask = change_mask(before_u8, after_u8, threshold, feather)
    placed = _place(quad, len(mask), (picture_u8.shape[1], picture_u8.shape[0]))
    if placed is None or not mask.any():
        return result
    weight = placed.draw(mask, Image.Resampling.BILINEAR)  # [h,w]
    weight[weight < NOTHING] = 0
    rows, columns = slice(placed.top, placed.bottom), slice(placed.left, placed.right)
    touched = weight > 0
    for channel in range(3):
        source, before, after = (image[:, :, channel].astype(np.float32) for image in (source_u8, before_u8, after_u8))
        own = picture_u8[rows, columns, channel].astype(np.float32)
        if mode == "difference":
            change = placed.draw(after - before, Image.Resampling.BICUBIC)
        else:
            tone = gaussian_blur(source - before, TONE_BLUR * len(mask))
            change = placed.draw(after + tone, Image.Resampling.BICUBIC) - own
        levels = np.clip(np.rint(own + weight * change), 0, 255).astype(np.uint8)
        np.copyto(result[rows, columns, channel], levels, where=touched)
    return result


@dataclass(frozen=True, eq=False)
class _Place:
    """A rectangle of the picture, and the affine way from its pixels to those of the square."""

    left: int
    top: int
    right: int
    bottom: int
    size: int  # of the square that is drawn: its own, or smaller where the picture has fewer pixels
    coefficients: tuple[float, ...]  # (a, b, c, d, e, f) of Pillow: u = a x + b y + c, v = d x + e y + f

    def draw(self, plane: FloatArray, resampling: Image.Resampling) -> FloatArray:
        """Sample a plane of the square, float32 [S,S], at the rectangle's pixels; 0 outside the square."""
        image = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
        if image.width != self.size:
            image = image.resize((self.size, self.size), Image.Resampling.BOX)
        extent = (self.right - self.left, self.bottom - self.top)
        return np.array(image.transform(extent, Image.Transform.AFFINE, self.coefficients, resampling))


def _place(quad: NDArray[np.float64], size: int, picture: tuple[int, int]) -> _Place | None:
    """Find where a square [size,size] goes in a picture of (width, height); None if nowhere."""
    left, top = (max(int(value), 0) for value in np.floor(quad.min(axis=0)))
    right, bottom = (
        min(int(value) + 1, limit) for value, limit in zip(np.ceil(quad.max(axis=0)), picture, strict=True)
    )
    if left >= right or top >= bottom:
        return None
    origin, across, down = quad[0], quad[3] - quad[0], quad[1] - quad[0]
    drawn = min(size, max(1, round(float(np.hypot(*across)))))
    # Pillow's coordinates are those of edges, ours those of pixel centres: x_ours = x + left - 1/2.
    inverse = np.linalg.inv(np.stack([across, down], axis=1)) * drawn
    offset = inverse @ (np.array([left, top]) - 0.5 - origin)
    (a, b), (d, e) = inverse
    return _Place(left, top, right, bottom, drawn, (a, b, float(offset[0]), d, e, float(offset[1])))


def _grown(changed: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Where a changed pixel lies within `radius` in the same row, [H,W]."""
    counts = np.pad(changed, ((0, 0), (radius + 1, radius))).cumsum(axis=1)
    return counts[:, 2 * radius + 1 :] > counts[:, : -2 * radius - 1]


def _border_ramp(size: int, feather: float) -> FloatArray:
    """A smooth rise (3 t^2 - 2 t^3) from 0 on the border to 1 at the feather's width, float32 [S,S]."""
    centres = np.arange(size) + 0.5
    t = np.clip(np.minimum(centres, size - centres) / (feather * size) - 0.5 / (feather * size), 0, 1)
    rise = t * t * (3 - 2 * t)
    ramp: FloatArray = (rise[:, None] * rise[None, :]).astype(np.float32)
    return ramp
