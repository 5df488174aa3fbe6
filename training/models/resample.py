"""Resizing as one fixed matrix per axis, so that graphs hold two matrix products and gradients are exact.

Each function returns a float64 array [size_out, size_in]; `resize` applies one to rows and one to columns.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from limner.runtime.errors import InputError

Matrix = NDArray[np.float64]
BICUBIC_A = -0.5  # Keys' parameter, as in Pillow and in torch's antialiased bicubic


def nearest(size_in: int, size_out: int) -> Matrix:
    """Nearest neighbour, as torch's mode "nearest": output i reads input floor(i * in / out)."""
    matrix = np.zeros((size_out, size_in))
    matrix[np.arange(size_out), np.arange(size_out) * size_in // size_out] = 1.0
    return matrix


def average(size_in: int, size_out: int) -> Matrix:
    """Adaptive average pooling: output i is the mean of inputs floor(i in/out) up to ceil((i+1) in/out)."""
    matrix = np.zeros((size_out, size_in))
    for i in range(size_out):
        start, stop = i * size_in // size_out, -(-(i + 1) * size_in // size_out)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


def crop(size_in: int, start: int, stop: int) -> Matrix:
    """The inputs `start` up to `stop`."""
    return np.eye(size_in)[start:stop]


def bicubic(size_in: int, size_out: int) -> Matrix:
    """Antialiased bicubic, as Pillow's and as torch's with antialias=True: the kernel widens when shrinking."""
    scale = size_in / size_out
    width = max(scale, 1.0)
    centre = (np.arange(size_out)[:, None] + 0.5) * scale
    matrix = _cubic((np.arange(size_in)[None] + 0.5 - centre) / width)
    matrix[np.abs(matrix) < 1e-12] = 0.0
    return np.asarray(matrix / matrix.sum(1, keepdims=True))


def _cubic(x: Matrix) -> Matrix:
    """Keys 1981, eq. 4 with a = -1/2."""
    x, a = np.abs(x), BICUBIC_A
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def bilinear_corners(size_in: int, size_out: int) -> Matrix:
    """Bilinear with aligned corners, as e4e enlarges its pyramid: output i reads input i (in-1)/(out-1)."""
    place = np.arange(size_out) * (size_in - 1) / max(size_out - 1, 1)
    return np.asarray(np.clip(1 - np.abs(place[:, None] - np.arange(size_in)[None]), 0, 1))


def published_clip(size_in: int, size_out: int) -> Matrix:
    """StyleCLIP's CLIP input: nearest 7 times as large, then average pooling by 7 * size_in / size_out.

    At 1024 pixels in and 224 out this is the published kernel of 32. Raises InputError for other fractions.
    """
    kernel, rest = divmod(7 * size_in, size_out)
    if rest:
        raise InputError("preprocess", f"'published' from {size_in} to {size_out} pixels",
                         "sizes of which 7 times the first is a multiple of the second")  # fmt: skip
    pool = np.kron(np.eye(size_out), np.full((1, kernel), 1 / kernel))
    return np.asarray(pool @ nearest(size_in, 7 * size_in))


def identity_crop(size_in: int) -> tuple[Matrix, Matrix]:
    """Rows and columns of StyleCLIP's identity input: to 256, crop [35:223, 32:220], to 112 pixels."""
    shrink, pool = average(size_in, 256), average(188, 112)
    return np.asarray(pool @ crop(256, 35, 223) @ shrink), np.asarray(pool @ crop(256, 32, 220) @ shrink)


def resize(image: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """image [N,C,H,W], rows [h,H], columns [w,W] -> [N,C,h,w]."""
    return torch.matmul(torch.matmul(rows, image), columns.t())


class Resize(nn.Module):
    """A fixed resize as a module without parameters; sizes that are equal pass through."""

    def __init__(self, rows: Matrix, columns: Matrix | None = None) -> None:
        super().__init__()
        columns = rows if columns is None else columns
        square = all(m.shape[0] == m.shape[1] for m in (rows, columns))
        self.passes = square and all(np.array_equal(m, np.eye(len(m))) for m in (rows, columns))
        self.register_buffer("rows", torch.tensor(rows, dtype=torch.float32), persistent=False)
        self.register_buffer("columns", torch.tensor(columns, dtype=torch.float32), persistent=False)

    rows: torch.Tensor
    columns: torch.Tensor

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image if self.passes else resize(image, self.rows.to(image), self.columns.to(image))
