"""Each rewrite on a small graph: fewer nodes, the same numbers."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from limner.export.onnx.simplify import simplify

RANDOM = np.random.RandomState(0)
MATRIX = RANDOM.randn(5, 4).astype(np.float32)
SHAPES = {  # of what lies inside the graphs, as the exporter writes them down
    "stack": ["flat", 4, 6], "left": ["flat", 5, 4], "product": ["flat", 5, 6],
    "small": ["batch", 2, 1, 1], "means": ["batch", 2, 3, 4],
}  # fmt: skip


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def flat_product(
    turned: bool,
) -> tuple[list[onnx.NodeProto], dict[str, NDArray[np.generic]], tuple[int, ...], tuple[int, ...]]:
    """A matrix times a stack of matrices as torch writes it: copies of the matrix times a flat stack."""
    node = helper.make_node
    matrix = MATRIX.T.copy() if turned else MATRIX
    nodes = [
        node("Shape", ["x"], ["batch_size"], start=0, end=1),
        node("Mul", ["batch_size", "three"], ["count"]),
        node("Concat", ["batch_size", "three", "rows", "columns"], ["full"], axis=0),
        node("Expand", ["matrix", "full"], ["copied_matrix"]),
        node("Concat", ["count", "rows", "columns"], ["flat"], axis=0),
        node("Reshape", ["copied_matrix", "flat"], ["flat_copies"]),
        node("Concat", ["count", "inner", "last"], ["flat_x"], axis=0),
        node("Reshape", ["x", "flat_x"], ["stack"]),
        *([node("Transpose", ["flat_copies"], ["left"], perm=[0, 2, 1])] if turned else []),
        node("MatMul", ["left" if turned else "flat_copies", "stack"], ["product"]),
        node("Concat", ["batch_size", "three", "outer", "last"], ["back"], axis=0),
        node("Reshape", ["product", "back"], ["y"]),
    ]
    constants: dict[str, NDArray[Any]] = {
        "matrix": matrix, "three": ints(3), "rows": ints(matrix.shape[0]), "columns": ints(matrix.shape[1]),
        "inner": ints(4), "outer": ints(5), "last": ints(6),
    }  # fmt: skip
    return nodes, constants, (3, 4, 6), (3, 5, 6)


def model_of(
    nodes: list[onnx.NodeProto],
    constants: dict[str, NDArray[Any]],
    given: tuple[int, ...],
    made: tuple[int, ...],
) -> ir.Model:
    value = helper.make_tensor_value_info
    shapes: dict[str, list[Any]] = SHAPES | {"copies": ["batch", 2, 3, 4]}
    if "matrix" in constants:
        rows, columns = constants["matrix"].shape
        shapes |= {"copied_matrix": ["batch", 3, rows, columns], "flat_copies": ["flat", rows, columns]}
    inner = [value(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["batch", *given])],
        [value("y", TensorProto.FLOAT, ["batch", *made])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
        value_info=[info for info in inner if any(info.name in node.output for node in nodes)],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def run(model: ir.Model, x: NDArray[np.float32]) -> NDArray[np.float32]:
    content = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


@pytest.mark.parametrize("turned", [False, True])
def test_product_broadcasts_itself(turned: bool) -> None:
    x = RANDOM.randn(2, 3, 4, 6).astype(np.float32)
    before, after = (model_of(*flat_product(turned)) for _ in range(2))
    simplify(after)
    kinds = [node.op_type for node in after.graph]
    assert "Expand" not in kinds
    np.testing.assert_allclose(run(after, x), MATRIX @ x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run(after, x), run(before, x), rtol=1e-6)


def test_small_values_are_not_copied_to_full_size() -> None:
    """mean's gradient: expand, divide, add."""
    node = helper.make_node
    nodes = [
        node("ReduceSum", ["x", "axes"], ["small"], keepdims=1),
        node("Shape", ["x"], ["full"]),
        node("Expand", ["small", "full"], ["copies"]),
        node("Div", ["copies", "count"], ["means"]),
        node("Add", ["means", "x"], ["y"]),
    ]
    constants: dict[str, NDArray[Any]] = {"axes": ints(2, 3), "count": np.array(12, np.float32)}
    model = model_of(nodes, constants, (2, 3, 4), (2, 3, 4))
    simplify(model)
    assert sorted(node.op_type for node in model.graph) == ["Add", "Div", "ReduceSum"]
    x = RANDOM.randn(2, 2, 3, 4).astype(np.float32)
    np.testing.assert_allclose(run(model, x), x + x.mean((2, 3), keepdims=True), rtol=1e-5, atol=1e-6)


def test_an_expand_that_counts_stays() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["batch_size"], start=0, end=1),
        helper.make_node("Concat", ["batch_size", "two"], ["full"], axis=0),
        helper.make_node("Expand", ["x", "full"], ["y"]),
    ]
    model = model_of(nodes, {"two": ints(2)}, (1,), (2,))
    simplify(model)
    np.testing.assert_array_equal(run(model, np.ones((3, 1), np.float32)), np.ones((3, 2)))


def test_a_turn_of_other_axes_is_left_alone() -> None:
    nodes, constants, given, made = flat_product(turned=True)
    nodes[8] = helper.make_node("Transpose", ["flat_copies"], ["left"], perm=[0, 1, 2])
    constants["matrix"] = MATRIX
    constants["rows"], constants["columns"] = ints(5), ints(4)
    x = RANDOM.randn(2, 3, 4, 6).astype(np.float32)
    model = model_of(nodes, constants, given, made)
    simplify(model)
    np.testing.assert_allclose(run(model, x), MATRIX @ x, rtol=1e-5, atol=1e-6)
