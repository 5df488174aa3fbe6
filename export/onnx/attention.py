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

    apart = constant(graph, f"heads_{heads}", np.array([0, 0, heads, -1], np.int64))
    together = constant(graph, "heads_together", np.array([0, 0, -1], np.int64))
    factor = constant(graph, f"{stem}_scale", np.array(scale, ir.DataType(kind).numpy()))
    q, k, v = (made("Reshape", f"{name}_heads", [x, apart]) for name, x in zip("qkv", node.inputs[:3], strict=True))
    asked = made("Mul", "scaled", [made("Transpose", "q", [q], perm=[0, 2, 1, 3]), factor])
    scores = made("MatMul", "scores", [asked, made("Transpose", "k", [k], perm=[0, 2, 3, 1])])
    weights = made("Softmax", "map", [scores], axis=-1)
    mixed = made("MatMul", "mixed", [weights, made("Transpose", "v", [v], perm=[0, 2, 1, 3])])
    out = made("Reshape", "out", [made("Transpose", "back", [mixed], perm=[0, 2, 1, 3]), together])
    put_in_place(graph, node, out)
