"""Changing some rows of a tensor, found by number: in torch, and as ONNX's ScatterND.

ONNX Runtime scatters in place where it may, so no rows cost nothing; torch's own index operations are exported with
an index of every element.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _PutRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, data: Tensor, rows: Tensor, values: Tensor) -> Tensor:
        return data.index_copy(0, rows, values)

    @staticmethod
    def symbolic(g: Any, data: Any, rows: Any, values: Any) -> Any:
        return _scatter(g, data, rows, values, "none")


class _AddRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, data: Tensor, rows: Tensor, values: Tensor) -> Tensor:
        return data.index_add(0, rows, values)

    @staticmethod
    def symbolic(g: Any, data: Any, rows: Any, values: Any) -> Any:
        return _scatter(g, data, rows, values, "add")


def _scatter(g: Any, data: Any, rows: Any, values: Any, reduction: str) -> Any:
    axis = g.op("Constant", value_t=torch.tensor([1]))
    return g.op("ScatterND", data, g.op("Unsqueeze", rows, axis), values, reduction_s=reduction).setType(data.type())


def put_rows(data: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """data [B,...] with data[rows[i]] = values[i]; rows int64 [E] without repeats, values [E,...]."""
    found: Tensor = _PutRows.apply(data, rows, values)  # type: ignore[no-untyped-call]
    return found


def add_rows(data: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """data [B,...] with values[i] added to data[rows[i]]; rows int64 [E] without repeats, values [E,...]."""
    found: Tensor = _AddRows.apply(data, rows, values)  # type: ignore[no-untyped-call]
    return found
