"""Rewrites of exported graphs that spare nodes and copies; each keeps every number as it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

BROADCASTING = ("Add", "Sub", "Mul", "Div")


def rewrite(model: ir.Model) -> None:
    """Apply every rewrite below to every node, in order; in place."""
    rules: tuple[Callable[[ir.Graph, ir.Node], ir.Value | None], ...]
    rules = (constant_reshape, broadcast_matmul, late_expand, no_expand)
    for rule in rules:
        for node in list(model.graph):
            replacement = rule(model.graph, node) if node.graph is not None else None
            if replacement is not None:
                ir.convenience.replace_all_uses_with(node.outputs[0], replacement)
                replacement.shape = replacement.shape or node.outputs[0].shape
                replacement.type = replacement.type or node.outputs[0].type
                model.graph.remove(node, safe=True)


def constant_reshape(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    """Reshape(x, Concat(numbers and one computed size)) -> Reshape(x, numbers and one -1)."""
    if node.op_type != "Reshape" or node.outputs[0].is_graph_output():
        return None
    source = node.inputs[1].producer() if node.inputs[1] is not None else None
    if source is None or source.op_type != "Concat":
        return None
    sizes: list[int] = []
    for part in source.inputs:
        known = _numbers(part)
        sizes += [-1] if known is None else known
    one_each = all(_numbers(part) is not None or _length(part) == 1 for part in source.inputs)
    if not one_each or sizes.count(-1) != 1 or 0 in sizes:
        return None
    return _insert(graph, node, "Reshape", [node.inputs[0], _constant(graph, node, sizes)])


def broadcast_matmul(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    """MatMul(Reshape(Expand(matrix)), Reshape(x)) -> Reshape(MatMul(matrix, x)): the product broadcasts itself.

    torch writes a matrix times a stack of matrices as copies of the matrix times a flat stack.
    """
    if node.op_type != "MatMul" or node.outputs[0].is_graph_output():
        return None
    left, right = node.inputs
    turn = left.producer() if left is not None else None
    turned = turn is not None and turn.op_type == "Transpose" and _axes(turn) == [0, 2, 1]
    copies = turn.inputs[0] if turn is not None and turned else left
    matrix = _source(_source(copies, "Reshape"), "Expand")
    stack = _source(right, "Reshape")
    if len(_sizes(matrix)) != 2 or _sizes(copies)[-2:] != _sizes(matrix):
        return None
    if len(_sizes(stack)) < 3 or _sizes(stack)[-2:] != _sizes(right)[-2:]:
        return None
    numbers = [size for size in _sizes(node.outputs[0])[-2:] if isinstance(size, int)]
    if len(_sizes(node.outputs[0])) != 3 or len(numbers) != 2:
        return None
    if turned:
        matrix = _insert(graph, node, "Transpose", [matrix], perm=[1, 0])
    product = _insert(graph, node, "MatMul", [matrix, stack])
    return _insert(graph, node, "Reshape", [product, _constant(graph, node, [-1, *numbers])])


def late_expand(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    """Div(Expand(x), scalar) -> Expand(Div(x, scalar)), and Mul alike: compute small, then copy."""
    if node.op_type not in ("Div", "Mul") or node.outputs[0].is_graph_output():
        return None
    expand = node.inputs[0].producer() if node.inputs[0] is not None else None
    divisor = node.inputs[1]
    if expand is None or expand.op_type != "Expand" or divisor is None or divisor.shape is None or len(divisor.shape):
        return None
    if expand.inputs[0] is None or expand.inputs[0].shape is None:
        return None
    small = _insert(graph, node, node.op_type, [expand.inputs[0], divisor])
    small.shape, small.type = expand.inputs[0].shape, node.outputs[0].type
    return _insert(graph, node, "Expand", [small, expand.inputs[1]])


def no_expand(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    """Drop an Expand whose readers all broadcast against something that has the full shape already."""
    value = node.outputs[0]
    if node.op_type != "Expand" or value.is_graph_output() or value.shape is None:
        return None
    for use in value.uses():
        reader = use.node
        others = [v for i, v in enumerate(reader.inputs) if i != use.idx and v is not None]
        full = any(v is not value and v.shape is not None and list(v.shape) == list(value.shape) for v in others)
        if reader.op_type not in BROADCASTING or not full:
            return None
    return node.inputs[0]


def _source(value: ir.Value | None, op_type: str) -> ir.Value | None:
    """The first input of the node that makes `value`, if that is an `op_type`."""
    node = None if value is None else value.producer()
    return node.inputs[0] if node is not None and node.op_type == op_type else None


def _numbers(value: ir.Value | None) -> list[int] | None:
    if value is None or value.const_value is None:
        return None
    return [int(size) for size in np.atleast_1d(value.const_value.numpy())]


def _sizes(value: ir.Value | None) -> list[int | ir.SymbolicDim]:
    """The shape; empty for a scalar and where it is not known."""
    return [] if value is None or value.shape is None else list(value.shape)


def _axes(node: ir.Node) -> list[int]:
    perm = node.attributes.get("perm")
    return [] if perm is None else list(perm.as_ints())


def _length(value: ir.Value | None) -> int | None:
    if value is None or value.shape is None or len(value.shape) != 1:
        return None
    return value.shape[0] if isinstance(value.shape[0], int) else None


def _constant(graph: ir.Graph, node: ir.Node, numbers: list[int]) -> ir.Value:
    name = f"sizes_{'_'.join(map(str, numbers))}".replace("-", "m")
    if name not in graph.initializers:
        tensor = ir.tensor(np.array(numbers, dtype=np.int64), name=name)
        graph.initializers[name] = ir.Value(
            name=name, shape=ir.Shape([len(numbers)]), type=ir.TensorType(ir.DataType.INT64), const_value=tensor
        )
    return graph.initializers[name]


def _insert(
    graph: ir.Graph, before: ir.Node, op_type: str, inputs: list[ir.Value | None], **attributes: list[int]
) -> ir.Value:
    node = ir.node(op_type, inputs, attributes=attributes)
    graph.insert_before(before, node)
    return node.outputs[0]
