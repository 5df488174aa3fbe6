"""The coordinates that a descent walks in: a displacement v from the start, 0 at first.

    w_plus, w     w = w0 + v, each layer its own way, or all the same way                      (Abdal et al. 2019)
    p_n_plus, p_n unrelu(w) = unrelu(w0) + v B, B the principal axes of 50,000 mapped samples,
                  as long as their standard deviations                             (Zhu et al. 2020, eq. 4 to 6)
    s             s = s0 + v sigma, the standard deviations of the style channels; to-RGB stays

P_N and S are measured in standard deviations: a step, and the L2 term sum v^2, follow the data. In W+ the L2 term is
the published one, sum (w - w0)^2, and comes from the graph.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["SLOPE", "Latents", "Space", "Styles", "Whitened", "unrelu"]

FloatArray = NDArray[np.float32]
SLOPE = 0.2  # of the mapping network's last leaky ReLU


class Space(Protocol):
    """How a displacement becomes a point of the graph, and the point's gradient one of the displacement."""

    @property
    def measures(self) -> bool:
        """Whether the L2 term is sum v^2, and not the graph's own."""
        ...

    def displacement(self, start: FloatArray) -> FloatArray:
        """Return v = 0 for points `start` [N,...]."""
        ...

    def point(self, start: FloatArray, v: FloatArray) -> FloatArray:
        """Return the points [N,...] at v."""
        ...

    def pull(self, start: FloatArray, v: FloatArray, gradient: FloatArray) -> FloatArray:
        """Return the gradient with respect to v from that with respect to the points."""
        ...


@dataclass(frozen=True, eq=False)
class Latents:
    """W+, or W when tied: one step for all rows of w_plus, the mean over them."""

    layers: NDArray[np.bool_] | None = None  # [L], the rows that may move; None is all
    tied: bool = False
    measures: bool = False

    def displacement(self, start: FloatArray) -> FloatArray:
        return np.zeros_like(start)

    def point(self, start: FloatArray, v: FloatArray) -> FloatArray:
        return start + v

    def pull(self, start: FloatArray, v: FloatArray, gradient: FloatArray) -> FloatArray:
        return _rows(gradient, self.layers, self.tied)


@dataclass(frozen=True, eq=False)
class Whitened:
    """P_N+, or P_N when tied."""

    basis: FloatArray  # [D,D], B above: row i is axis i times its standard deviation
    layers: NDArray[np.bool_] | None = None
    tied: bool = False
    measures: bool = True

    def displacement(self, start: FloatArray) -> FloatArray:
        return np.zeros_like(start)

    def point(self, start: FloatArray, v: FloatArray) -> FloatArray:
        p = unrelu(start) + v @ self.basis
        moved: FloatArray = np.where(p < 0, np.float32(SLOPE) * p, p)
        return moved

    def pull(self, start: FloatArray, v: FloatArray, gradient: FloatArray) -> FloatArray:
        p = unrelu(start) + v @ self.basis
        slope = np.where(p < 0, np.float32(SLOPE), np.float32(1))
        return _rows((gradient * slope) @ self.basis.T, self.layers, self.tied)


@dataclass(frozen=True, eq=False)
class Styles:
    """S; a channel of standard deviation 0 stays."""

    sigma: FloatArray  # [S], 0 where a channel may not move
    measures: bool = True

    def displacement(self, start: FloatArray) -> FloatArray:
        return np.zeros_like(start)

    def point(self, start: FloatArray, v: FloatArray) -> FloatArray:
        return start + v * self.sigma

    def pull(self, start: FloatArray, v: FloatArray, gradient: FloatArray) -> FloatArray:
        return gradient * self.sigma


def unrelu(w: FloatArray) -> FloatArray:
    """The inverse of the last leaky ReLU of the mapping network, up to its gain: P of Zhu et al., eq. 4."""
    p: FloatArray = np.where(w < 0, w / np.float32(SLOPE), w)
    return p


def _rows(gradient: FloatArray, layers: NDArray[np.bool_] | None, tied: bool) -> FloatArray:
    """Keep the named rows of [N,L,D]; give every row the mean when tied."""
    found = gradient.copy()
    if layers is not None:
        found[:, ~layers] = 0.0
    if tied:
        found[:] = found.mean(axis=1, keepdims=True)
    return found
