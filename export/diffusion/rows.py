"""Operations that the tracing exporter would write at length, each as the one ONNX operation that it is.

Adding to rows found by number is ScatterND, which ONNX Runtime does in place where it may, so no rows cost nothing;
torch's own index operations are exported with an index of every element. Heads are split by Reshape with
its copied sizes (0), where torch's are exported with the arithmetic of every size. Attention whose map nobody asks for
is com.microsoft::MultiHeadAttention, a flash kernel in ONNX Runtime (Dao et al. 2022): the map is never in memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from limner.export.onnx.attention import FUSED


class _AddRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, data: Tensor, rows: Tensor, values: Tensor) -> Tensor:
        return data.index_add(0, rows[:, 0], values)

    @staticmethod
    def symbolic(g: Any, data: Any, rows: Any, values: Any) -> Any:
        sums = g.op("Add", g.op("GatherND", data, rows), values)  # ScatterND's own addition is not known everywhere
        return g.op("ScatterND", data, rows, sums).setType(data.type())


class _SplitHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, heads: int, width: int) -> Tensor:
        return x.unflatten(-1, (heads, width))

    @staticmethod
    def symbolic(g: Any, x: Any, heads: int, width: int) -> Any:
        return _reshape(g, x, [0, 0, heads, width])  # no -1, which no rows would leave open


def _reshape(g: Any, x: Any, shape: list[int]) -> Any:
    sizes = [size if size > 0 else None for size in shape]
    target = g.op("Identity", g.op("Constant", value_t=torch.tensor(shape)))  # the exporter asserts a -1 beside a 0
    return g.op("Reshape", x, target).setType(x.type().with_sizes(sizes))


class _JoinHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, channels: int) -> Tensor:
        return x.flatten(-2)

    @staticmethod
    def symbolic(g: Any, x: Any, channels: int) -> Any:
        return _reshape(g, x, [0, 0, channels])


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
        a, b, c = (x.unflatten(-1, (heads, x.shape[-1] // heads)).transpose(1, 2) for x in (q, k, v))
        return functional.scaled_dot_product_attention(a, b, c, scale=scale).transpose(1, 2).flatten(-2)

    @staticmethod
    def symbolic(g: Any, q: Any, k: Any, v: Any, heads: int, scale: float) -> Any:
        return g.op(f"{FUSED[0]}::{FUSED[1]}", q, k, v, num_heads_i=heads, scale_f=scale).setType(q.type())


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    """softmax(q k^T scale) v for each head; q [B,N,heads c], k and v [B,M,heads c] -> [B,N,heads c]."""
    found: Tensor = _Attend.apply(q, k, v, heads, scale)  # type: ignore[no-untyped-call]
    return found


def weigh(weights: Tensor, v: Tensor, heads: int, width: int) -> Tensor:
    """The same of an attention map [B,heads,N,M] that is there: [B,N,heads width]; B may be 0."""
    mixed = (weights @ split_heads(v, heads, width)).transpose(1, 2)  # [B,N,heads,c]
    found: Tensor = _JoinHeads.apply(mixed, heads * width)  # type: ignore[no-untyped-call]
    return found


def add_rows(data: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """data [B,...] with values[i] added to data[rows[i,0]]; rows int64 [E,1] without repeats, values [E,...]."""
    found: Tensor = _AddRows.apply(data, rows, values)  # type: ignore[no-untyped-call]
    return found


def split_heads(x: Tensor, heads: int, width: int) -> Tensor:
    """[B,N,heads width] -> [B,heads,N,width]."""
    found: Tensor = _SplitHeads.apply(x, heads, width)  # type: ignore[no-untyped-call]
    return found.transpose(1, 2)
