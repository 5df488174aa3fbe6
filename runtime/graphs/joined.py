"""Calls of one graph that go through it as one: what fits together, the joined inputs, and each call's own outputs.

Calls fit together where all their inputs with a row for each picture have the same sizes beside the rows, and all
others the same numbers. A row never reads another call's: numbers of rows (the UNet's `source_index`) are moved with
their call, and a call whose numbers lie outside its own rows is joined with none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.parts import GraphMeta, TensorMeta

__all__ = ["ROW_NUMBERS", "Joinable", "joinable", "joined_inputs", "own_outputs", "row_symbol"]

Arrays = Mapping[str, NDArray[Any]]
ROW_NUMBERS = ("source_index",)  # inputs whose numbers are rows of their own call
FILLED = ("words",)  # axes that zeros may fill up to the longest: their outputs hang on no other place of the axis


@dataclass(frozen=True)
class Joinable:
    """What a call is to those that join: its rows, the places of each, and what it fits together with."""

    rows: int
    places: int  # of the largest input, a row
    key: tuple[Any, ...] | None  # calls of equal keys fit; None fits with none


def joinable(graph: str, meta: GraphMeta, inputs: Arrays) -> Joinable:
    """Look at the checked inputs of a call."""
    symbol = row_symbol(meta)
    batched = [tensor for tensor in meta.inputs if symbol is not None and tensor.shape[:1] == (symbol,)]
    if not batched:
        return Joinable(1, max((array.size for array in inputs.values()), default=0), None)
    rows = len(inputs[batched[0].name])
    places = max(inputs[tensor.name].size for tensor in batched) // max(rows, 1)
    for name in ROW_NUMBERS:
        if name in inputs and (inputs[name].min() < 0 or inputs[name].max() >= rows):
            return Joinable(rows, places, None)
    parts = tuple(_part(tensor, inputs[tensor.name], tensor in batched) for tensor in meta.inputs)
    return Joinable(rows, places, (graph, *parts))


def row_symbol(meta: GraphMeta) -> str | None:
    """The dimension that counts rows: the first one of every output, if that is one and the caller chooses it."""
    found = {tensor.shape[0] if tensor.shape else None for tensor in meta.outputs}
    symbol = next(iter(found)) if len(found) == 1 else None
    return symbol if isinstance(symbol, str) else None


def _part(tensor: TensorMeta, array: NDArray[Any], batched: bool) -> Any:
    if not batched:
        return array.shape, array.tobytes()
    return tuple(size for size, name in zip(array.shape[1:], tensor.shape[1:], strict=True) if name not in FILLED)


def joined_inputs(meta: GraphMeta, calls: Sequence[Arrays], rows: Sequence[int]) -> dict[str, NDArray[Any]]:
    """The inputs of all calls one after another; `rows` are theirs."""
    symbol = row_symbol(meta)
    firsts = np.cumsum([0, *rows[:-1]])
    found: dict[str, NDArray[Any]] = {}
    for tensor in meta.inputs:
        parts = [call[tensor.name] for call in calls]
        if tensor.shape[:1] != (symbol,):
            found[tensor.name] = parts[0]
            continue
        if tensor.name in ROW_NUMBERS:
            parts = [part + first for part, first in zip(parts, firsts, strict=True)]
        for axis, name in enumerate(tensor.shape):
            if name in FILLED:
                longest = max(part.shape[axis] for part in parts)
                parts = [_grown(part, axis, longest) for part in parts]
        found[tensor.name] = np.concatenate(parts)
    return found


def own_outputs(
    meta: GraphMeta, outputs: Arrays, inputs: Arrays, wanted: Sequence[str], first: int, rows: int
) -> dict[str, NDArray[Any]]:
    """A call's own part of the joined outputs, copied: its rows, and as much of filled axes as its inputs have."""
    shapes = {tensor.name: tensor.shape for tensor in (*meta.inputs, *meta.outputs)}
    sizes = {
        name: size
        for key, array in inputs.items()
        for name, size in zip(shapes[key], array.shape, strict=True)
        if name in FILLED
    }
    found = {}
    for key in wanted:
        cut = tuple(slice(sizes[name]) if name in sizes else slice(None) for name in shapes[key][1:])
        found[key] = outputs[key][(slice(first, first + rows), *cut)].copy()
    return found


def _grown(array: NDArray[Any], axis: int, size: int) -> NDArray[Any]:
    if array.shape[axis] == size:
        return array
    return np.pad(array, [(0, size - length if k == axis else 0) for k, length in enumerate(array.shape)])
