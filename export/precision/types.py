"""Gives every node of a graph its type, fp16 or fp32, with a cast wherever one meets the other."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
# These move numbers and do not change them: their result has the type of what they are given.
MOVERS = frozenset(
    {"Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Expand", "Gather", "GatherElements", "Identity", "Split"}
    | {"Flatten", "Tile", "DepthToSpace", "SpaceToDepth", "Pad"}
)
# Inputs that stay fp32 whatever the node's type: roi and scales of Resize.
FP32_INPUTS = {"Resize": (1, 2)}


class Typist:
    """Retypes `model` in place: nodes in `kept` compute in fp32, the other floating-point nodes in fp16."""

    def __init__(self, model: ir.Model, kept: Collection[ir.Node]) -> None:
        self.graph, self.kept = model.graph, set(kept)
        self.floating = 0  # nodes that compute in floating point
        self.casts = 0
        self._other: dict[tuple[int, ir.DataType], ir.Value] = {}  # value, type -> the same numbers in that type

    def rewrite(self) -> None:
        """Do it; the graph's inputs and outputs keep their names and types."""
        declared = {value.name: value.dtype for value in self.graph.outputs}
        floats = {id(value) for node in self.graph for value in node.outputs if value.dtype == FLOAT}
        for node in list(self.graph):
            if any(value is not None and value.dtype in (FLOAT, HALF) for value in (*node.inputs, *node.outputs)):
                self._retype(node, floats)
        for index, value in enumerate(self.graph.outputs):
            wanted = declared[value.name]
            if value.dtype != wanted and wanted in (FLOAT, HALF):
                self._output(index, value, wanted)
        self._drop_unused()

    def _retype(self, node: ir.Node, floats: set[int]) -> None:
        self.floating += 1
        kind = self._kind(node)
        exempt = FP32_INPUTS.get(node.op_type, ())
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in (FLOAT, HALF) and node.op_type not in ("Cast", "Shape", "Size"):
                node.replace_input_with(index, self._as(value, FLOAT if index in exempt else kind, node))
        for output in node.outputs:
            if id(output) in floats:
                output.type = ir.TensorType(kind)
        if node.op_type == "Cast" and node.attributes["to"].as_int() == FLOAT and kind == HALF:
            node.attributes["to"] = ir.AttrInt64("to", HALF)
        fill = node.attributes.get("value")
        if (
            fill is not None
            and fill.type == ir.AttributeType.TENSOR
            and fill.as_tensor().dtype == FLOAT
            and kind == HALF
        ):
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(fill.as_tensor().numpy().astype(np.float16)))

    def _kind(self, node: ir.Node) -> ir.DataType:
        if node.op_type in MOVERS and node.inputs[0] is not None and node.inputs[0].const_value is None:
            return node.inputs[0].dtype or FLOAT
        if node in self.kept:
            return FLOAT
        if node.op_type == "Concat" and all(v is not None and v.dtype == FLOAT for v in node.inputs):
            return FLOAT
        return HALF

    def _as(self, value: ir.Value, kind: ir.DataType, before: ir.Node) -> ir.Value:
        """`value` in the type `kind`: itself, a rounded constant, or a cast that all its readers share."""
        if value.dtype == kind:
            return value
        key = (id(value), kind)
        if key not in self._other:
            self._other[key] = self._constant(value) if value.const_value is not None else self._cast(value, kind)
        return self._other[key]

    def _constant(self, value: ir.Value) -> ir.Value:
        array = value.const_value.numpy().astype(np.float16)  # type: ignore[union-attr]
        name = f"{value.name}_half"
        made = ir.Value(
            name=name, shape=ir.Shape(array.shape), type=ir.TensorType(HALF), const_value=ir.tensor(array, name=name)
        )
        self.graph.initializers[name] = made
        return made

    def _cast(self, value: ir.Value, kind: ir.DataType) -> ir.Value:
        node = ir.node("Cast", [value], attributes={"to": kind}, name=f"{value.name}_to_{kind.name.lower()}")
        cast = node.outputs[0]
        cast.name, cast.shape, cast.type = f"{value.name}_{kind.name.lower()}", value.shape, ir.TensorType(kind)
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            self.graph.insert_after(producer, node)
        self.casts += 1
        return cast

    def _output(self, index: int, value: ir.Value, kind: ir.DataType) -> None:
        name = value.name
        value.name = f"{name}_inner"
        made = self._as(value, kind, self.graph[-1])
        made.name = name
        self.graph.outputs[index] = made

    def _drop_unused(self) -> None:
        outputs = {id(value) for value in self.graph.outputs}
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and id(value) not in outputs:
                del self.graph.initializers[name]
