"""The FFHQ crop: from landmarks to the square that generators of faces were trained on.

Karras et al. 2019, "A Style-Based Generator Architecture for GANs", appendix A, as published in NVlabs/ffhq-dataset,
`recreate_aligned_images`. With e from eye to eye, m from the eyes to the mouth, and R (a, b) = (-b, a):

    x along e - R m, of length max(2 |e|, 1.8 |m|)    half of the square's upper edge
    y = R x,  c = eyes + 0.1 m                        half of its left edge, and its centre

The picture is shrunk by a whole number, cropped, padded where the square leaves it, sampled four times finer than
the result by bilinear interpolation, and reduced.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limner.runtime.errors import InputError
from limner.runtime.faces.face import FFHQ, Framing
from limner.runtime.faces.landmarks import Points, key_points, shown_point
from limner.runtime.faces.padding import pad_softly
from limner.runtime.schema import require_int

__all__ = ["AlignedFace", "align_face", "face_quad", "sampled_quad"]

SUPERSAMPLING = 4  # published: sampled at 4096 for a result of 1024
MIN_SIDE = 16  # pixels of the square in the picture
MIN_SIZE, MAX_SIZE = 16, 2048  # of the result
MAX_OVERHANG = 4  # the square's side over the picture's shorter one

FloatQuad = NDArray[np.float64]
ImageU8 = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class AlignedFace:
    """A face as FFHQ shows it, uint8 [size,size,3], and where its corners were in the picture.

    `quad` float64 [4,2]: top left, bottom left, bottom right, top right, in pixels whose centres are whole
    numbers. It is where the samples really lie, which differs from `face_quad` by less than a pixel of the shrunk
    picture: the published code rounds sizes, and divides positions where it should have moved them by half a pixel.
    """

    image_u8: ImageU8
    quad: FloatQuad


def face_quad(landmarks: Points, framing: Framing = FFHQ) -> FloatQuad:
    """Return the square of a face, float64 [4,2]: top left, bottom left, bottom right, top right."""
    found = key_points(landmarks)
    across, down = found.eye_to_eye, found.eye_to_mouth
    x = across + np.array([down[1], -down[0]])
    x *= max(np.hypot(*across) * 2.0, np.hypot(*down) * 1.8) / np.hypot(*x)
    y = np.array([-x[1], x[0]])
    centre = found.eyes + down * 0.1 + y * (2 * framing.shift)
    x, y = x * framing.scale, y * framing.scale
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def align_face(picture_u8: ImageU8, landmarks: Points, size: int, framing: Framing = FFHQ) -> AlignedFace:
    """Cut a face out of a picture uint8 [H,W,3]; InputError if the face is too small or not in the picture."""
    height, width = picture_u8.shape[:2]
    shrunk, quad = _shrunk_quad((width, height), landmarks, size, framing)
    image = Image.fromarray(np.ascontiguousarray(picture_u8))
    if shrunk != image.size:
        image = image.resize(shrunk, Image.Resampling.LANCZOS)
    side = float(np.hypot(*(quad[3] - quad[0])))
    border = max(int(np.rint(side * 0.1)), 3)
    left, top, right, bottom = _bounds(quad)
    box = (max(left - border, 0), max(top - border, 0))
    image = image.crop((*box, min(right + border, image.width), min(bottom + border, image.height)))
    image, inner = _padded(image, quad - box, side, border)
    fine = size * SUPERSAMPLING
    corners = tuple((inner + 0.5).flatten())
    sampled = image.transform((fine, fine), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR)
    face = sampled.resize((size, size), Image.Resampling.LANCZOS)
    return AlignedFace(np.array(face, dtype=np.uint8), sampled_quad((width, height), landmarks, size, framing))


def sampled_quad(picture: tuple[int, int], landmarks: Points, size: int, framing: Framing = FFHQ) -> FloatQuad:
    """Return `AlignedFace.quad` for a picture of (width, height) without cutting anything."""
    shrunk, quad = _shrunk_quad(picture, landmarks, size, framing)
    return (quad + 0.5) * np.divide(picture, shrunk) - 0.5


def _shrunk_quad(
    picture: tuple[int, int], landmarks: Points, size: int, framing: Framing
) -> tuple[tuple[int, int], FloatQuad]:
    """Return the size that the picture is shrunk to, (width, height), and the square in its pixels."""
    require_int("size", size, MIN_SIZE, MAX_SIZE)
    quad = face_quad(landmarks, framing)
    side = float(np.hypot(*(quad[3] - quad[0])))
    _check_place(picture, landmarks, side)
    shrink = int(np.floor(side / size * 0.5))
    if shrink <= 1:
        return picture, quad
    width, height = (int(np.rint(length / shrink)) for length in picture)
    return (width, height), quad / shrink


def _check_place(picture: tuple[int, int], landmarks: Points, side: float) -> None:
    """Eyes and mouth lie in the picture (a chin need not), and the face is neither a dot nor all over it."""
    found = key_points(landmarks)
    width, height = picture
    for name in ("eye_left", "eye_right", "mouth_left", "mouth_right"):
        x, y = point = getattr(found, name)
        if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
            given = f"{name} at {shown_point(point)}, outside the picture"
            allowed = f"eyes and mouth within {width} x {height} pixels"
            raise InputError("landmarks", given, allowed, "landmarks belong to the picture as displayed, EXIF-rotated")
    if side < MIN_SIDE:
        allowed = f"at least {MIN_SIDE} pixels a side"
        raise InputError("landmarks", f"a face whose square has {side:.1f} pixels a side", allowed)
    if side > MAX_OVERHANG * min(picture):
        given = f"a face whose square has {side:.0f} pixels a side in a picture of {width} x {height}"
        raise InputError("landmarks", given, f"at most {MAX_OVERHANG} times the picture's shorter side")


def _padded(image: Image.Image, quad: FloatQuad, side: float, border: int) -> tuple[Image.Image, FloatQuad]:
    """Pad the picture where the square comes near its border or leaves it."""
    left, top, right, bottom = _bounds(quad)
    missing = (-left + border, -top + border, right - image.width + border, bottom - image.height + border)
    if max(*missing, 0) <= border - 4:
        return image, quad
    least = int(np.rint(side * 0.3))
    pad = (max(missing[0], least), max(missing[1], least), max(missing[2], least), max(missing[3], least))
    padded = pad_softly(np.array(image, dtype=np.uint8), pad, side)
    return Image.fromarray(padded), quad + pad[:2]


def _bounds(quad: FloatQuad) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom in whole pixels."""
    (left, top), (right, bottom) = np.floor(quad.min(axis=0)), np.ceil(quad.max(axis=0))
    return int(left), int(top), int(right), int(bottom)
