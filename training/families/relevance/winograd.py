"""3x3 convolutions by minimal filtering: the same numbers from fewer multiply-adds.

Winograd 1980; Lavin and Gray 2016, eq. 8: a tile is Y = A^T [(G g G^T) * (B^T d B)] A, where * is elementwise and
summed over input channels. `same` is F(4,3), 36 products a channel pair for 4 x 4 outputs where the plain way takes
144. `doubling` is the transposed convolution of stride 2 by its phases, y[2i] = g0 x[i] + g2 x[i-1] and
y[2i+1] = g1 x[i]: F(4,2) for even outputs and plain products for odd ones, 81 products where the plain way takes 144.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

POINTS = (0, 1, -1, 2, -2)  # where the polynomials are evaluated; infinity is the last one
TILE = 4  # inputs a tile advances by, along each axis
Rows = tuple[tuple[Fraction, ...], ...]


@dataclass(frozen=True)
class Algorithm:
    """The three matrices of one axis."""

    outputs: Rows  # A^T [outputs a tile, products]
    kernel: Rows  # G [products, 3]
    inputs: Rows  # B^T [products, inputs a tile]

    @property
    def reach(self) -> int:
        """Inputs that a tile reads along an axis."""
        return len(self.inputs[0])

    @property
    def products(self) -> int:
        return len(self.inputs)

    @property
    def step(self) -> int:
        """Outputs that a tile gives along an axis."""
        return len(self.outputs)

    @cached_property
    def transform_cost(self) -> tuple[int, int]:
        """Multiply-adds of a tile's transforms: per input channel, per output channel."""
        sums_in, sums_out = _sums(self.inputs), _sums(self.outputs)
        return sums_in * (self.reach + self.products), sums_out * (self.products + self.step)

    def kernels(self, weight: Tensor) -> Tensor:
        """weight [O,I,3,3] -> [products^2, I, O], computed in double precision."""
        matrix = torch.tensor([[float(v) for v in row] for row in self.kernel], dtype=torch.float64)
        found = torch.einsum("pa,oiab,qb->pqio", matrix, weight.detach().double().cpu(), matrix)
        return found.flatten(0, 1).to(weight)


def _sums(matrix: Rows) -> int:
    """Terms of a matrix-vector product; a row that only copies costs nothing."""
    counts = (sum(v != 0 for v in row) for row in matrix)
    return sum(n for n in counts if n > 1)


def minimal_filter(outputs: int, taps: int) -> Algorithm:
    """F(outputs, taps) by Toom-Cook: A^T and G evaluate polynomials at POINTS, B^T is the inverse transposed."""
    size = outputs + taps - 1
    inverse = _inverse(_evaluation(size, size))
    rows, kernel = [list(row) for row in zip(*inverse, strict=True)], [list(r) for r in _evaluation(size, taps)]
    for i, row in enumerate(rows):  # whole numbers in B^T; G takes what is left
        scale = max(v.denominator for v in row if v)
        while any((v * scale).denominator > 1 for v in row):
            scale += 1
        rows[i], kernel[i] = [v * scale for v in row], [v / scale for v in kernel[i]]
    out = tuple(zip(*_evaluation(size, outputs), strict=True))
    return Algorithm(out, tuple(map(tuple, kernel)), tuple(map(tuple, rows)))


def _evaluation(size: int, terms: int) -> list[list[Fraction]]:
    """[size, terms]: powers of the first size-1 points, and the highest coefficient for infinity."""
    finite = [[Fraction(p) ** j for j in range(terms)] for p in POINTS[: size - 1]]
    return [*finite, [Fraction(int(j == terms - 1)) for j in range(terms)]]


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    """Gauss and Jordan's, in fractions."""
    size = len(matrix)
    rows = [[*row, *(Fraction(int(i == j)) for j in range(size))] for i, row in enumerate(matrix)]
    for i in range(size):
        pivot = next(k for k in range(i, size) if rows[k][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [v / rows[i][i] for v in rows[i]]
        for k in range(size):
            if k != i and rows[k][i]:
                rows[k] = [a - rows[k][i] * b for a, b in zip(rows[k], rows[i], strict=True)]
    return [row[size:] for row in rows]


def same() -> Algorithm:
    """3 taps, one output an input: F(4,3)."""
    return minimal_filter(TILE, 3)


def doubling() -> Algorithm:
    """Transposed convolution of stride 2 over inputs x[i-1] ... x[i+3]: outputs y[2i] ... y[2i+7]."""
    even, zero, one = minimal_filter(TILE, 2), Fraction(0), Fraction(1)
    pad = (zero,) * TILE
    outputs: list[tuple[Fraction, ...]] = []
    for i, row in enumerate(even.outputs):
        outputs += [(*row, *pad), (*(zero,) * even.products, *(one if j == i else zero for j in range(TILE)))]
    # y[2i] = g2 x[i-1] + g0 x[i]: the two taps in the order of the inputs
    kernel = [(row[1], zero, row[0]) for row in even.kernel] + [(zero, one, zero)] * TILE
    copies = [tuple(one if j == i + 1 else zero for j in range(even.reach)) for i in range(TILE)]
    return Algorithm(tuple(outputs), tuple(kernel), (*even.inputs, *copies))


def convolve(x: Tensor, kernels: Tensor, algorithm: Algorithm) -> Tensor:
    """x [N,H,W,I] with the tiles' margins, H and W of the form TILE t + reach - TILE -> [N,step t,step u,O]."""
    count, high, wide, _ = x.shape
    tall, broad = (high - algorithm.reach) // TILE + 1, (wide - algorithm.reach) // TILE + 1
    rows = _combine(algorithm.inputs, [x[:, a : a + TILE * (tall - 1) + 1 : TILE] for a in range(algorithm.reach)])
    tiles = [
        tile
        for row in rows
        for tile in _combine(
            algorithm.inputs, [row[:, :, b : b + TILE * (broad - 1) + 1 : TILE] for b in range(algorithm.reach)]
        )
    ]
    product = torch.bmm(torch.stack(tiles).flatten(1, 3), kernels)  # [products^2, N*t*u, O]
    grid = product.unflatten(1, (count, tall, broad)).unflatten(0, (algorithm.products, algorithm.products))
    made = [_combine(algorithm.outputs, list(row.unbind(0))) for row in grid.unbind(0)]  # [products][step]
    out = x.new_empty(count, tall, algorithm.step, broad, algorithm.step, kernels.shape[2])
    for b in range(algorithm.step):
        for a, value in enumerate(_combine(algorithm.outputs, [row[b] for row in made])):
            out[:, :, a, :, b] = value
    return out.flatten(3, 4).flatten(1, 2)


def _combine(matrix: Rows, parts: Sequence[Tensor]) -> list[Tensor]:
    """matrix times parts, term by term."""
    found = []
    for row in matrix:
        (first, factor), *rest = [(part, float(v)) for part, v in zip(parts, row, strict=True) if v]
        total = first if factor == 1 else first * factor
        for part, factor in rest:
            total = torch.add(total, part, alpha=factor)
        found.append(total)
    return found


def same_convolution(x: Tensor, kernels: Tensor) -> Tensor:
    """x [N,I,H,W], kernels of `same` -> [N,O,H,W] as F.conv2d with padding 1; H and W multiples of TILE."""
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    return convolve(padded, kernels, same()).permute(0, 3, 1, 2)


def doubling_convolution(x: Tensor, kernels: Tensor, weight: Tensor) -> Tensor:
    """x [N,I,H,W], kernels of `doubling`, weight [O,I,3,3] -> [N,O,2H+1,2W+1] as F.conv_transpose2d of stride 2.

    The tiles give all but the last row and column, which the last inputs alone reach: two short convolutions.
    """
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 0, 1, 0))
    body = convolve(padded, kernels, doubling()).permute(0, 3, 1, 2)  # [N,O,2H,2W]
    taps = weight.transpose(0, 1)
    bottom = F.conv_transpose1d(x[:, :, -1], taps[:, :, 2], stride=2)  # [N,O,2W+1]
    right = F.conv_transpose1d(x[:, :, :, -1], taps[:, :, :, 2], stride=2)  # [N,O,2H+1]
    return torch.cat([torch.cat([body, right[:, :, :-1, None]], 3), bottom[:, :, None]], 2)


def multiply_adds(n_in: int, n_out: int, size: int, doubles: bool) -> int:
    """Multiply-adds for one picture of size x size inputs, the transforms' sums included."""
    algorithm = doubling() if doubles else same()
    tiles = (size // TILE) ** 2
    first, last = algorithm.transform_cost
    edge = 6 * size * n_in * n_out if doubles else 0
    return tiles * (algorithm.products**2 * n_in * n_out + first * n_in + last * n_out) + edge
