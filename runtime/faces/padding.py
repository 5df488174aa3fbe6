"""What FFHQ puts beside a picture whose face lies at the border: a reflection that blurs and fades away."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["gaussian_blur", "pad_softly"]

BLOCK = 256  # lines that are transformed at once


def pad_softly(
    image_u8: NDArray[np.uint8],  # [H,W,3]
    pad: tuple[int, int, int, int],  # left, top, right, bottom; each at least 1
    side: float,  # of the crop, in pixels of this picture
) -> NDArray[np.uint8]:
    """Reflect the picture at its borders, blurred and faded to its median the more, the farther outside.

    Karras et al. 2019, `recreate_aligned_images`: m is 1 on the new border, 0 on the old one and below 0 inside;
    blur with sigma 0.02 side, weight clip(3 m + 1, 0, 1), then the median, weight clip(m, 0, 1).
    """
    left, top, right, bottom = pad
    height, width = image_u8.shape[0] + top + bottom, image_u8.shape[1] + left + right
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    beside = np.float32(1) - np.minimum(x / np.float32(left), (width - 1 - x) / np.float32(right))
    above = np.float32(1) - np.minimum(y / np.float32(top), (height - 1 - y) / np.float32(bottom))
    outside = np.maximum(beside, above)  # m [H,W]
    blurred, faded = np.clip(outside * 3 + 1, 0, 1), np.clip(outside, 0, 1)
    result = np.empty((height, width, 3), dtype=np.uint8)
    for channel in range(3):
        padded = np.pad(image_u8[:, :, channel].astype(np.float32), ((top, bottom), (left, right)), "reflect")
        padded += (gaussian_blur(padded, side * 0.02) - padded) * blurred
        padded += (np.median(padded) - padded) * faded
        result[:, :, channel] = np.clip(np.rint(padded), 0, 255)
    return result


def gaussian_blur(plane: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Blur float32 [H,W] as scipy.ndimage.gaussian_filter does: kernel cut at 4 sigma, edges mirrored."""
    radius = int(4.0 * sigma + 0.5)
    if radius == 0:
        return plane
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    return _convolve_rows(np.ascontiguousarray(_convolve_rows(plane, kernel).T), kernel).T


def _convolve_rows(plane: NDArray[np.float32], kernel: NDArray[np.float64]) -> NDArray[np.float32]:
    """Convolve each row of [H,W] by FFT in float64; both its ends are mirrored, the last pixel doubled."""
    radius, width = len(kernel) // 2, plane.shape[1]
    length = _fast_length(width + 4 * radius)
    spectrum = np.fft.rfft(kernel, length)
    result = np.empty_like(plane)
    for first in range(0, len(plane), BLOCK):
        rows = np.pad(plane[first : first + BLOCK].astype(np.float64), ((0, 0), (radius, radius)), "symmetric")
        full = np.fft.irfft(np.fft.rfft(rows, length) * spectrum, length)
        result[first : first + BLOCK] = full[:, 2 * radius : 2 * radius + width]
    return result


def _fast_length(least: int) -> int:
    """The smallest length of at least `least` that an FFT divides well."""
    lengths = (factor << shift for factor in (1, 3, 5, 9, 15) for shift in range(least.bit_length() + 1))
    return min(length for length in lengths if length >= least)
