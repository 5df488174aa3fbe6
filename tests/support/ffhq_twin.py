"""The FFHQ crop once more, from the published formulas, in float64: complex numbers, matrices, scipy; no Pillow.

Where the published code makes whole levels of what it has, so does this: it rounds what is shrunk and padded, and
Pillow's bilinear sampling cuts decimals off.
"""

from collections.abc import Callable

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

Array = NDArray[np.float64]
FIVE = np.array([[70.0, 60.0], [110.0, 62.0], [91.0, 85.0], [76.0, 105.0], [106.0, 107.0]])


def twin_quad(points: Array) -> Array:
    """The square's corners [4,2]; a point is x + i y, and i turns by 90 degrees."""
    z = points[:, 0] + 1j * points[:, 1]
    left, right = (z[36:42].mean(), z[42:48].mean()) if len(z) == 68 else (z[0], z[1])
    mouth = (z[48] + z[54]) / 2 if len(z) == 68 else (z[3] + z[4]) / 2
    eyes = (left + right) / 2
    across, down = right - left, mouth - eyes
    x = across - 1j * down
    x *= max(2 * abs(across), 1.8 * abs(down)) / abs(x)
    y, centre = 1j * x, eyes + 0.1 * down
    corners = np.array([centre - x - y, centre - x + y, centre + x + y, centre + x - y])
    return np.stack([corners.real, corners.imag], axis=1)


def twin_align(picture: Array, points: Array, size: int) -> Array:
    """recreate_aligned_images of [H,W,3], 0 to 255, with transform_size = 4 size. The result is not rounded."""
    image, quad = picture.astype(np.float64), twin_quad(points)
    side = np.hypot(*(quad[3] - quad[0]))
    shrink = int(side / size * 0.5)
    if shrink > 1:
        rows, columns = (int(np.rint(length / shrink)) for length in image.shape[:2])
        image = resized(image, rows, columns)
        quad, side = quad / shrink, side / shrink
    border = max(int(np.rint(side * 0.1)), 3)
    low, high = np.floor(quad.min(axis=0)).astype(int) - border, np.ceil(quad.max(axis=0)).astype(int) + border
    left, top = np.maximum(low, 0)
    right, bottom = np.minimum(high, [image.shape[1], image.shape[0]])
    image, quad = image[top:bottom, left:right], quad - [left, top]
    image, quad = twin_pad(image, quad, side, border)
    fine = 4 * size
    u = (np.arange(fine) + 0.5) / fine  # of the result's width
    where = quad[0] + u[None, :, None] * (quad[3] - quad[0]) + u[:, None, None] * (quad[1] - quad[0])  # [v,u,2]
    sampled = np.stack([bilinear(image[:, :, channel], where) for channel in range(3)], axis=2)
    return resized(np.floor(sampled + 1e-6), size, size, np.asarray)


def twin_pad(image: Array, quad: Array, side: float, border: int) -> tuple[Array, Array]:
    height, width = image.shape[:2]
    low, high = np.floor(quad.min(axis=0)), np.ceil(quad.max(axis=0))
    pad = np.maximum([*(border - low), *(high - [width, height] + border)], 0).astype(int)  # left, top, right, bottom
    if pad.max() <= border - 4:
        return image, quad
    left, top, right, bottom = np.maximum(pad, int(np.rint(side * 0.3)))
    image = np.pad(image, ((top, bottom), (left, right), (0, 0)), "reflect")
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float64)
    beside = 1 - np.minimum(x / left, (width - 1 - x) / right)
    above = 1 - np.minimum(y / top, (height - 1 - y) / bottom)
    mask = np.maximum(beside, above)[:, :, None]
    blurred = scipy.ndimage.gaussian_filter(image, [side * 0.02, side * 0.02, 0])
    image = image + (blurred - image) * np.clip(3 * mask + 1, 0, 1)
    image = image + (np.median(image, axis=(0, 1)) - image) * np.clip(mask, 0, 1)
    return np.rint(np.clip(image, 0, 255)), quad + np.array([left, top])


def resized(image: Array, rows: int, columns: int, whole: Callable[[Array], Array] = np.rint) -> Array:
    """First the columns, then the rows; levels are whole and within 0 to 255 after both."""
    image = np.rint(np.clip(np.einsum("abc,xb->axc", image, lanczos(image.shape[1], columns)), 0, 255))
    return whole(np.clip(np.einsum("ya,axc->yxc", lanczos(image.shape[0], rows), image), 0, 255))


def lanczos(given: int, wanted: int) -> Array:
    """[wanted,given]: a Lanczos filter of three lobes, as wide as a result's pixel where it reduces."""
    scale = given / wanted
    t = (np.arange(given)[None] + 0.5 - (np.arange(wanted)[:, None] + 0.5) * scale) / max(scale, 1.0)
    weights = np.where(np.abs(t) < 3, np.sinc(t) * np.sinc(t / 3), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def bilinear(plane: Array, where: Array) -> Array:
    """Values at (x, y) where pixel centres are whole numbers."""
    return scipy.ndimage.map_coordinates(plane, [where[..., 1], where[..., 0]], order=1, mode="nearest")


def five_at(centre: tuple[float, float], width: float, degrees: float = 0.0) -> Array:
    """Five points of a face whose eyes are `width` apart, turned clockwise about `centre`, their middle."""
    z = (FIVE[:, 0] + 1j * FIVE[:, 1] - (90 + 61j)) / 40 * width * np.exp(1j * np.deg2rad(degrees))
    return np.stack([z.real, z.imag], axis=1) + centre


def sixty_eight(five: Array, seed: int = 0) -> Array:
    """68 points whose eyes and corners of the mouth are those of the five."""
    points = np.random.RandomState(seed).normal(five.mean(axis=0), 20, (68, 2))
    for first, centre in ((36, five[0]), (42, five[1])):
        ring = np.random.RandomState(seed + first).normal(0, 3, (6, 2))
        points[first : first + 6] = centre + ring - ring.mean(axis=0)
    points[48], points[54] = five[3], five[4]
    return points


def some_picture(width: int = 240, height: int = 180, seed: int = 0) -> NDArray[np.uint8]:
    """Soft blobs and a little noise, uint8 [H,W,3]."""
    random = np.random.RandomState(seed)
    blobs = scipy.ndimage.zoom(random.uniform(0, 255, (7, 9, 3)), (height / 7, width / 9, 1), order=1)
    return np.clip(np.rint(blobs + random.normal(0, 8, blobs.shape)), 0, 255).astype(np.uint8)
