"""Gradients at kinks: what an activation within rounding of zero does to them.

The derivative of a ReLU jumps at zero. Where an activation lies within rounding of zero, two fp32 programs may take
different sides, and their gradients differ by far more than rounding, both of them right. Among the millions of
activations of a picture a few always lie there, and now and then one matters: torch's own fp32 gradient then differs
from its float64 one by 1e-3, or from its own of the same row in another batch.

So a row that is off is settled in float64: activations whose float64 value is within rounding of zero, and no others,
may take their other side. The row counts as right if float64 with some of them on the other side gives what was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from limner.export.stylegan2.graphs import BATCH, GraphSpec

ROUNDINGS = 6.0  # an activation is near zero within this many of its layer's rounding errors, root mean square
MOST_UNITS = 24  # that are tried, the nearest to zero first
LEAKY = (F.leaky_relu, torch._C._nn.leaky_relu)
PLAIN = (F.relu, torch.relu, torch.Tensor.relu)
LEARNT = (F.prelu, torch.prelu)
Unit = tuple[int, int]  # which activation, which of its values


@dataclass(frozen=True)
class Kink:
    """One row of one output that was settled in float64; every error is relative to the float64 gradient."""

    output: str
    batch: int  # of the case
    row: int
    torch_fp32: float  # torch in fp32, the row alone
    onnxruntime: float
    units: int  # activations within rounding of zero that had to take their other side
    settled: float  # the error of onnxruntime then


class _Activations(TorchFunctionMode):
    """Notes the inputs of all ReLUs in their order; in float64 turns some of them to their other side."""

    def __init__(self, turned: Mapping[int, Sequence[int]] | None = None, exact: bool = False) -> None:
        super().__init__()
        self.turned, self.exact = turned or {}, exact
        self.seen: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.exact and func is torch.Tensor.float:
            return args[0].double()
        if self.exact and func is torch.Tensor.to:
            args = tuple(torch.float64 if value is torch.float32 else value for value in args)
        if func not in (*LEAKY, *PLAIN, *LEARNT):
            return func(*args, **kwargs)
        x = args[0]
        self.seen.append(x.detach().reshape(-1))
        if not self.exact:
            return func(*args, **kwargs)
        above = (x > 0).reshape(-1)
        above[list(self.turned.get(len(self.seen) - 1, ()))] ^= True
        return torch.where(above.view(x.shape), x, x * self._slope(func, args, kwargs))

    @staticmethod
    def _slope(func: Any, args: Any, kwargs: Any) -> Any:
        """Below zero."""
        if func in PLAIN:
            return 0.0
        if func in LEAKY:
            return args[1] if len(args) > 1 else kwargs.get("negative_slope", 0.01)
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        return weight.view(1, -1, *[1] * (args[0].dim() - 2))


class _Exact:
    """The reference of a graph on one row of its inputs, in float64."""

    def __init__(self, spec: GraphSpec, row: Sequence[Tensor], column: int) -> None:
        self.spec, self.row, self.column = spec, [_double(array) for array in row], column

    def __call__(self, units: Sequence[Unit] = ()) -> tuple[Tensor, list[Tensor]]:
        """The output with these units on their other side, and what every activation was given."""
        turned: dict[int, list[int]] = {}
        for layer, index in units:
            turned.setdefault(layer, []).append(index)
        with _Activations(turned, exact=True) as mode:
            found: Tensor = self.spec.reference(*self.row)[self.column]
        return found.detach(), mode.seen


def settle(spec: GraphSpec, inputs: Sequence[Tensor], row: int, output: str, found: Tensor, tolerance: float) -> Kink:
    """Look for the float64 gradient that `found`, a row [1,...] of this output, is: see above. `settled` is the error
    that remains; up to `tolerance` the row is right."""
    own = [array[row : row + 1] if meta.shape[:1] == (BATCH,) else array
           for meta, array in zip(spec.inputs, inputs, strict=True)]  # fmt: skip
    column = [meta.name for meta in spec.outputs].index(output)
    with _Activations() as rounded:
        single = spec.reference(*own)[column].double()
    with _in_double(spec.modules):
        exact = _Exact(spec, own, column)
        gradient, activations = exact()
        length = gradient.norm()
        chosen: list[Unit] = []
        first = error = float((found.double() - gradient).norm() / length)
        for unit in near_zero(rounded.seen, activations):
            if error <= tolerance / 10:
                break
            other = float((found.double() - exact([*chosen, unit])[0]).norm() / length)
            if other < error:
                chosen, error = [*chosen, unit], other
    single_error = float((single - gradient).norm() / length)
    return Kink(output, len(inputs[0]), row, single_error, first, len(chosen), error)


def near_zero(rounded: Sequence[Tensor], exact: Sequence[Tensor]) -> list[Unit]:
    """The units that lie within rounding of zero in float64, the nearest first."""
    found = []
    for layer, (a, b) in enumerate(zip(rounded, exact, strict=True)):
        noise = (a.double() - b).square().mean().sqrt()
        close = (b.abs() < ROUNDINGS * noise).nonzero()[:, 0].tolist()
        found += [(float(b[index].abs() / noise), layer, int(index)) for index in close]
    return [(layer, index) for _, layer, index in sorted(found)[:MOST_UNITS]]


@contextmanager
def _in_double(modules: Sequence[nn.Module]) -> Iterator[None]:
    """The modules in float64 for a while; their fp32 weights come back as they were."""
    for module in modules:
        module.double()
    try:
        yield
    finally:
        for module in modules:
            module.float()


def _double(array: Tensor) -> Tensor:
    return array.double() if array.is_floating_point() else array
