"""Operators whose kernels take fp16 by their signature and refuse it when they run, on the CPU or on CUDA.

Where a kernel is missing by its signature, ONNX Runtime puts casts around the node itself; these it does not see.
"""

from __future__ import annotations

import onnx_ir as ir

SCATTERS = frozenset({"ScatterND", "ScatterElements"})


def has_no_half_kernel(node: ir.Node) -> bool:
    """Whether a node has to stay fp32: a scatter that reduces (CPU: "MLFloat16 is not supported when reduction is")."""
    return node.op_type in SCATTERS and _reduction(node) != "none"


def write_scatters_plainly(model: ir.Model) -> None:
    """Sums into rows found by NonZero, which do not repeat, without a reduction: out[rows] = data[rows] + values.

    The same numbers, in operators that every provider has for fp16; other scatters are left as they are.
    """
    graph = model.graph
    for node in [one for one in graph if one.op_type == "ScatterND" and _reduction(one) == "add"]:
        data, rows, values = node.inputs
        if data is None or rows is None or values is None or not _from_nonzero(rows):
            continue
        stem = node.name or node.outputs[0].name or "scatter"
        last = ir.Value(name=f"{stem}_last", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64),
                        const_value=ir.tensor([-1], dtype=ir.DataType.INT64, name=f"{stem}_last"))  # fmt: skip
        graph.initializers[f"{stem}_last"] = last
        flat = _made(graph, node, "Squeeze", [rows, last], f"{stem}_rows", ir.DataType.INT64)
        there = _made(graph, node, "Gather", [data, flat], f"{stem}_there", data.dtype or ir.DataType.FLOAT)
        total = _made(graph, node, "Add", [there, values], f"{stem}_total", data.dtype or ir.DataType.FLOAT)
        node.replace_input_with(2, total)
        node.attributes["reduction"] = ir.AttrString("reduction", "none")


def _made(graph: ir.Graph, before: ir.Node, kind: str, inputs: list[ir.Value], name: str, dtype: ir.DataType
          ) -> ir.Value:  # fmt: skip
    node = ir.node(kind, inputs, attributes={"axis": 0} if kind == "Gather" else {}, name=name)
    out = node.outputs[0]
    out.name, out.type = f"{name}_out", ir.TensorType(dtype)
    graph.insert_before(before, node)
    return out


def _reduction(node: ir.Node) -> str:
    attribute = node.attributes.get("reduction")
    return "none" if attribute is None else attribute.as_string()


def _from_nonzero(value: ir.Value) -> bool:
    """Whether indices are those of NonZero, moved about: each row comes once."""
    producer = value.producer()
    while producer is not None and producer.op_type in ("Transpose", "Unsqueeze", "Reshape", "Identity", "Cast"):
        source = producer.inputs[0]
        producer = None if source is None else source.producer()
    return producer is not None and producer.op_type == "NonZero"
