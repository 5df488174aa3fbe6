"""The control UNet for engines: every row takes part in what ONNX Runtime does for the edited rows alone.

The graph finds the rows that are edited and works on them by number (NonZero, Gather, ScatterND), so that plain
generation costs nothing more. A compiled engine has shapes that do not hang on values: TensorRT refuses NonZero. What
the left-out rows would have added is zero, and a row without self-replacement takes its own queries and keys; so all
rows may take part, and the numbers stay the same.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from limner.export.onnx.attention import has_fused, write_out
from limner.export.onnx.editing import constant
from limner.runtime.errors import LimnerError

# What lies between NonZero and the place where its numbers are used.
PASSING = frozenset({"Transpose", "Gather", "Squeeze", "Slice", "Unsqueeze", "Reshape", "Cast", "Identity"})
SWITCH, SOURCE = "self_replace", "source_index"


def prepare(path: Path, scratch: Path, fused: bool = False) -> Path:
    """The graph as a compiler takes it: `path` itself, or a rewritten copy in the folder `scratch`.

    `fused` says that the compiler knows fused attention.
    """
    model = ir.load(path)
    plain = has_fused(model) and not fused
    rows = any(node.op_type == "NonZero" for node in model.graph)
    if not plain and not rows:
        return path
    model = ir.external_data.load_to_model(model)
    if plain:
        write_out(model)
    if rows:
        all_rows(model)
    target = scratch / f"rows-{path.name}"
    ir.save(model, target, external_data=f"{target.name}.data", size_threshold_bytes=256)
    return target


def all_rows(model: ir.Model) -> None:
    """Rewrite in place; LimnerError for a NonZero that is used in another way."""
    graph = model.graph
    for finder in [node for node in graph if node.op_type == "NonZero"]:
        switched = any(value.name == SWITCH for value in _sources(finder))
        numbers = _numbers(finder)
        rows = _all_numbers(graph, finder)
        for value in numbers:
            for use in list(value.uses()):
                _replace_use(graph, use.node, value, switched, rows)
    common.RemoveUnusedNodesPass()(model)
    common.TopologicalSortPass()(model)
    left = [node.name or node.op_type for node in graph if node.op_type == "NonZero"]
    if left:
        raise LimnerError(f"{', '.join(left)}: rows found by value, in a way that no rewrite knows")


def _sources(node: ir.Node) -> list[ir.Value]:
    """The values that a node's first input is computed from, up to the graph's inputs."""
    found, todo = [], [value for value in node.inputs if value is not None]
    while todo:
        value = todo.pop()
        found.append(value)
        producer = value.producer()
        if producer is not None:
            todo += [v for v in producer.inputs if v is not None]
    return found


def _numbers(finder: ir.Node) -> list[ir.Value]:
    """The values that hold the numbers of the rows, in any shape."""
    found, todo = [], [finder.outputs[0]]
    while todo:
        value = todo.pop()
        found.append(value)
        todo += [use.node.outputs[0] for use in value.uses() if use.node.op_type in PASSING and use.idx == 0]
    return found


def _all_numbers(graph: ir.Graph, finder: ir.Node) -> ir.Value:
    """0 to B - 1, [B]."""
    source = next((value for value in graph.inputs if value.name == SOURCE), None)
    if source is None:
        raise LimnerError(f"{finder.name or 'NonZero'}: rows found by value in a graph without {SOURCE}")
    stem = finder.name or "rows"
    shape = _node(graph, finder, "Shape", [source], f"{stem}_shape", ir.DataType.INT64)
    zero, one, first = (constant(graph, f"{stem}_{name}", np.array(value, np.int64)) for name, value in
                        (("zero", 0), ("one", 1), ("first", [0])))  # fmt: skip
    count = _node(graph, finder, "Squeeze", [shape, first], f"{stem}_count", ir.DataType.INT64)
    return _node(graph, finder, "Range", [zero, count, one], f"{stem}_all", ir.DataType.INT64)


def _replace_use(graph: ir.Graph, node: ir.Node, numbers: ir.Value, switched: bool, rows: ir.Value) -> None:
    """Put what all rows give in the place of a node that reads some of them, or changes some."""
    if node.op_type == "ScatterND" and node.inputs[1] is numbers:
        data, values = node.inputs[0], node.inputs[2]
        reduction = node.attributes.get("reduction")
        added = reduction is not None and reduction.as_string() == "add"
        made = _like(graph, node, "Add", [data, values]) if added else values
    elif node.op_type == "Gather" and node.inputs[1] is numbers and _axis(node) == 0:
        made = node.inputs[0]
        if switched and made is not None and made.name == SOURCE:
            made = _own_or_source(graph, node, made, rows)
    elif node.op_type == "GatherND" and node.inputs[1] is numbers:
        made = node.inputs[0]
    else:
        return
    if made is None:
        raise LimnerError(f"{node.name}: an input is missing")
    old = node.outputs[0]
    if old.is_graph_output():  # which has to keep its name
        made = _like(graph, node, "Identity", [made])
        made.name, old.name = old.name, f"{old.name}_before"
    ir.convenience.replace_all_uses_with(old, made, replace_graph_outputs=True)


def _own_or_source(graph: ir.Graph, node: ir.Node, source: ir.Value, rows: ir.Value) -> ir.Value:
    """source_index where self_replace is set, else the row's own number."""
    switch = next(value for value in graph.inputs if value.name == SWITCH)
    stem = node.name or "source"
    on = _node(graph, node, "Cast", [switch], f"{stem}_on", ir.DataType.BOOL, to=ir.DataType.BOOL)
    return _node(graph, node, "Where", [on, source, rows], f"{stem}_chosen", ir.DataType.INT64)


def _like(graph: ir.Graph, node: ir.Node, operator: str, inputs: list[ir.Value | None]) -> ir.Value:
    made = _node(
        graph, node, operator, inputs, f"{node.name}_{operator.lower()}", node.outputs[0].dtype or ir.DataType.FLOAT
    )
    made.shape = node.outputs[0].shape
    return made


def _node(
    graph: ir.Graph,
    before: ir.Node,
    operator: str,
    inputs: list[ir.Value | None],
    name: str,
    kind: ir.DataType,
    **attributes: ir.DataType,
) -> ir.Value:
    node = ir.node(operator, inputs, attributes={key: int(value) for key, value in attributes.items()}, name=name)
    node.outputs[0].name, node.outputs[0].type = f"{name}_value", ir.TensorType(kind)
    graph.insert_before(before, node)
    return node.outputs[0]


def _axis(node: ir.Node) -> int:
    axis = node.attributes.get("axis")
    return 0 if axis is None else axis.as_int()
