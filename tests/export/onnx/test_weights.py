"""One file of weights: shared, exact, and folded when ONNX Runtime loads a graph."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from limner.export.onnx.simplify import simplify
from limner.export.onnx.weights import SMALLEST_BYTES, WEIGHTS, WeightFile, exact_in_fp16
from limner.runtime.bundle.loading import Bundle

HALVES = np.random.RandomState(0).randn(16, 16).astype(np.float16).astype(np.float32)
SINGLES = HALVES + np.float32(1e-5)


def product(weight: NDArray[np.float32]) -> ir.Model:
    """y = x W."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16])],
        [numpy_helper.from_array(weight, "w")],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def run(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


@pytest.mark.parametrize("storage", ["fp16", "fp32"])
@pytest.mark.parametrize("weight", [HALVES, SINGLES], ids=["halves", "singles"])
def test_storage_changes_no_number(tmp_path: Path, storage: Any, weight: NDArray[np.float32]) -> None:
    path = WeightFile(tmp_path, storage).save(product(weight), tmp_path / "g.onnx")
    x = np.eye(16, dtype=np.float32)
    np.testing.assert_array_equal(run(path, x), weight)


def test_two_graphs_share_their_weights(tmp_path: Path) -> None:
    weights = WeightFile(tmp_path)
    first = weights.save(product(HALVES), tmp_path / "a.onnx")
    size = weights.size
    second = weights.save(product(HALVES), tmp_path / "b.onnx")
    assert weights.size == size == (tmp_path / WEIGHTS).stat().st_size
    assert weights.shared == 16 * 16 * 2
    x = np.ones((2, 16), np.float32)
    np.testing.assert_array_equal(run(first, x), run(second, x))


def test_halves_take_half_the_room(tmp_path: Path) -> None:
    sizes = {}
    for storage in ("fp16", "fp32"):
        folder = tmp_path / storage
        folder.mkdir()
        weights = WeightFile(folder, storage)
        weights.save(product(HALVES), folder / "g.onnx")
        sizes[storage] = weights.size
    assert 2 * sizes["fp16"] == sizes["fp32"]


def test_exact_in_fp16() -> None:
    assert exact_in_fp16(HALVES)
    assert not exact_in_fp16(SINGLES)
    assert not exact_in_fp16(np.array([1e6], np.float32))
    assert not exact_in_fp16(np.array([1], np.int64))


def test_casts_are_folded_at_load(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """After loading, nothing in the graph is fp16 any more: each step computes on fp32 weights."""
    stored_as_halves = 0
    for name, meta in tiny_bundle.manifest.graphs.items():
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(tmp_path / f"{name}.onnx")
        onnxruntime.InferenceSession(str(tiny_bundle.file(meta.file)), options, providers=["CPUExecutionProvider"])
        model = onnx.load(tmp_path / f"{name}.onnx", load_external_data=False)
        casts = [node for node in model.graph.node if node.op_type == "Cast"]
        halves = {t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16}
        assert not [node for node in casts if node.input[0] in halves], name
        before = onnx.load(tiny_bundle.file(meta.file), load_external_data=False)
        stored_as_halves += sum(tensor.data_type == TensorProto.FLOAT16 for tensor in before.graph.initializer)
    assert stored_as_halves > 50


def test_large_constants_are_outside(tiny_bundle: Bundle) -> None:
    for meta in tiny_bundle.manifest.graphs.values():
        model = onnx.load(tiny_bundle.file(meta.file), load_external_data=False)
        for tensor in model.graph.initializer:
            outside = tensor.data_location == TensorProto.EXTERNAL
            count = int(np.prod(tensor.dims))
            assert outside or count * 8 < 2 * SMALLEST_BYTES, tensor.name


def test_no_weight_is_stored_twice(tiny_bundle: Bundle) -> None:
    content = tiny_bundle.file(WEIGHTS).read_bytes()
    places = set()
    for meta in tiny_bundle.manifest.graphs.values():
        model = onnx.load(tiny_bundle.file(meta.file), load_external_data=False)
        for tensor in model.graph.initializer:
            entry = {item.key: item.value for item in tensor.external_data}
            if entry:
                places.add((int(entry["offset"]), int(entry["length"])))
    hashes = [hashlib.sha256(content[offset : offset + length]).digest() for offset, length in places]
    assert len(hashes) == len(set(hashes))


def test_simplify_keeps_small_constants_that_are_not_zero() -> None:
    """x + 1e-8 under a root must stay, although 1e-8 is close to nothing."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "e"], ["s"]), helper.make_node("Sqrt", ["s"], ["y"])],
        "root",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16])],
        [numpy_helper.from_array(np.array(1e-8, np.float32), "e")],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    assert [node.op_type for node in simplify(model).graph] == ["Add", "Sqrt"]
