"""What rewrites of a graph share: constants by name, and a value in another one's place."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = ["constant", "put_in_place"]


def constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """The graph's constant of that name, made if it is not there."""
    if name not in graph.initializers:
        tensor = ir.tensor(array, name=name)
        graph.initializers[name] = ir.Value(
            name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
    return graph.initializers[name]


def put_in_place(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Let every reader of a node's first output read `value`, and remove the node; an output of the graph keeps its
    name."""
    old = node.outputs[0]
    value.shape, value.type = old.shape, old.type or value.type
    if old.is_graph_output():
        value.name, old.name = old.name, f"{old.name}_before"
    ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
    graph.remove(node, safe=True)
