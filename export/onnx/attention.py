"""Fused attention written out in ONNX's own operators, for compilers that do not know ONNX Runtime's operator."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from limner.export.onnx.editing import constant, put_in_place

__all__ = ["FUSED", "has_fused", "is_fused", "write_out"]

FUSED = ("com.microsoft", "MultiHeadAttention")


def is_fused(node: ir.Node) -> bool:
    """Whether a node is softmax(q k^T scale) v of all heads at once."""
    return (node.domain, node.op_type) == FUSED


def has_fused(model: ir.Model) -> bool:
    """Whether any node of the graph is."""
    return any(is_fused(node) for node in model.graph)


def write_out(model: ir.Model) -> None:
    """Put MatMul, Softmax and MatMul in the place of every fused attention without bias, mask or cache; in place."""
    for node in [one for one in model.graph if is_fused(one)]:
        _write_out(model.graph, node)
    model.graph.opset_imports.pop(FUSED[0], None)


def _write_out(graph: ir.Graph, node: ir.Node) -> None:
    """q [B,N,HC], k and v [B,M,HC] -> [B,N,HC]; heads apart as [B,H,N,C]."""
    stem, kind = node.name or node.outputs[0].name or "attention", node.outputs[0].dtype or ir.DataType.FLOAT
    heads, scale = node.attributes["num_heads"].as_int(), node.attributes["scale"].as_float()

    def made(operator: str, name: str, inputs: list[ir.Value | None], **attributes: int | list[int]) -> ir.Value:
        new = ir.node(operator, inputs, attributes=attributes, name=f"{stem}_{name}")
        new.outputs[0].name, new.outputs[0].type = f"{stem}_{name}_value", ir.TensorType(kind)
        graph.insert_before(node, new)
        return new.outputs[0]

    def shaped(name: str, x: ir.Value | None, *sizes: int) -> ir.Value:
        label = "_".join(map(str, sizes)).replace("-", "m")
        return made("Reshape", name, [x, constant(graph, f"sizes_{label}", np.array(sizes, np.int64))])

    width = _width(node)
    factor = constant(graph, f"{stem}_scale", np.array(scale, ir.DataType(kind).numpy()))
    q, k, v = (shaped(f"{name}_heads", x, 0, 0, heads, width) for name, x in zip("qkv", node.inputs[:3], strict=True))
    asked = made("Mul", "scaled", [made("Transpose", "q", [q], perm=[0, 2, 1, 3]), factor])
    scores = made("MatMul", "scores", [asked, made("Transpose", "k", [k], perm=[0, 2, 3, 1])])
    weights = made("Softmax", "map", [scores], axis=-1)
    mixed = made("MatMul", "mixed", [weights, made("Transpose", "v", [v], perm=[0, 2, 1, 3])])
    together = heads * width if width > 0 else -1
    out = shaped("out", made("Transpose", "back", [mixed], perm=[0, 2, 1, 3]), 0, 0, together)
    put_in_place(graph, node, out)


def _width(node: ir.Node) -> int:
    """Channels of a head by number, -1 where no shape says it: that is no size where rows may be none."""
    heads = node.attributes["num_heads"].as_int()
    shapes = [value.shape for value in (*node.inputs, *node.outputs) if value is not None and value.shape is not None]
    return next((last // heads for shape in shapes if isinstance(last := shape[-1], int)), -1)
