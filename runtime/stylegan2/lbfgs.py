"""L-BFGS in numpy (Nocedal 1980; Liu and Nocedal 1989, algorithm 2.1), a row at a time and without a line search.

    s_k = x_{k+1} - x_k,   y_k = g_{k+1} - g_k,   r_k = 1 / (y_k . s_k)
    q = g;   for the last pairs, newest first:  a = r s.q,  q -= a y
    q *= (s.y) / (y.y) of the newest pair;   oldest first:  q += s (a - r y.q);   x -= q

Pairs of no positive curvature are left out, and no step is longer than `longest`, so that a function that is quadratic
in pieces (a picture's squared error) is followed safely; the caller keeps the best point. Rows do not influence each
other.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LBFGS"]

FloatArray = NDArray[np.floating[Any]]
CURVATURE = 1e-10  # of |s| |y|, below which a pair says nothing


class LBFGS:
    """Steps for values [N,...]; `first` and `longest` [N,1,...] are root mean squares of a row's step."""

    def __init__(self, first: FloatArray, longest: FloatArray, memory: int = 8) -> None:
        self.first, self.longest, self.memory = first, longest, memory
        self._pairs: list[tuple[FloatArray, FloatArray, FloatArray]] = []  # s, y, r; r is 0 for a pair left out
        self._last: tuple[FloatArray, FloatArray] | None = None  # values and gradient of the last step

    def step(self, values: FloatArray, gradient: FloatArray) -> FloatArray:
        """Return the next values, of the same shape."""
        if self._last is not None:
            self._remember(values - self._last[0], gradient - self._last[1])
        self._last = values, gradient
        q, shares = gradient, []
        for s, y, r in reversed(self._pairs):
            shares.append(r * _dot(s, q))
            q = q - shares[-1] * y
        q = self._scale(gradient) * q
        for (s, y, r), a in zip(self._pairs, reversed(shares), strict=True):
            q = q + s * (a - r * _dot(y, q))
        length = _size(q)
        moved: FloatArray = values - q * np.minimum(1.0, self.longest / np.maximum(length, 1e-30))
        return moved.astype(values.dtype, copy=False)

    def _remember(self, s: FloatArray, y: FloatArray) -> None:
        curvature = _dot(s, y)
        good = curvature > CURVATURE * np.sqrt(_dot(s, s) * _dot(y, y))
        self._pairs.append((s, y, np.where(good, 1.0 / np.where(good, curvature, 1.0), 0.0)))
        del self._pairs[: -self.memory]

    def _scale(self, gradient: FloatArray) -> FloatArray:
        """What the gradient is multiplied with: by the newest pair, or so that the step has its first length."""
        plain = self.first / np.maximum(_size(gradient), 1e-30)
        if not self._pairs:
            return plain
        _, y, r = self._pairs[-1]
        found: FloatArray = np.where(r > 0.0, 1.0 / (np.where(r > 0.0, r, 1.0) * np.maximum(_dot(y, y), 1e-30)), plain)
        return found


def _dot(a: FloatArray, b: FloatArray) -> FloatArray:
    """Row by row, in float64: [N,1,...]."""
    found: FloatArray = np.sum(a * b, axis=tuple(range(1, a.ndim)), keepdims=True, dtype=np.float64)
    return found


def _size(a: FloatArray) -> FloatArray:
    """The root mean square of each row, [N,1,...]."""
    found: FloatArray = np.sqrt(_dot(a, a) / (a.size / len(a)))
    return found
