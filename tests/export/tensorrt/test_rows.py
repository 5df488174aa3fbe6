"""All rows in the place of the edited ones: the same numbers, and no NonZero for the compiler to refuse."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from limner.export.tensorrt.rows import all_rows, prepare
from limner.runtime.errors import LimnerError

Arrays = dict[str, np.ndarray]


def control_graph(path: Path, misuse: bool = False) -> Path:
    """The control of the UNet in small: y = x, the source's rows put where self_replace is set, then t x added."""

    def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(operator, inputs, [output], name=output, **attributes)

    nodes = [
        node("NonZero", ["self_replace"], "found"),  # [1,R]
        node("Transpose", ["found"], "turned", perm=[1, 0]),
        node("Gather", ["turned", "first"], "replaced", axis=1),  # [R]
        node("Gather", ["source_index", "replaced"], "replaced_source"),
        node("Gather", ["x", "replaced_source"], "taken", axis=0),
        node("Unsqueeze", ["replaced", "axis"], "places"),
        node("ScatterND", ["x", "places", "taken"], "put", reduction="none"),
        node("Abs", ["t"], "size"),
        node("NonZero", ["size"], "hits"),
        node("Squeeze", ["hits", "zeroth"], "edited"),
        node("Gather", ["source_index", "edited"], "edited_source"),
        node("Gather", ["put", "edited_source"], "theirs", axis=0),
        node("Gather", ["t", "edited"], "some", axis=0),
        node("Unsqueeze", ["some", "axis"], "column"),
        node("Mul", ["theirs", "column"], "moved"),
        node("Unsqueeze", ["edited", "axis"], "there"),
        node("ScatterND", ["put", "there", "moved"], "y", reduction="add"),
    ]
    if misuse:
        nodes[1] = node("Shape", ["found"], "turned")
        nodes[2] = node("Slice", ["source_index", "zeroth", "axis"], "replaced")
    constants = {"first": np.array(0), "axis": np.array([1]), "zeroth": np.array([0])}
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3]),
        helper.make_tensor_value_info("t", TensorProto.FLOAT, ["batch"]),
        helper.make_tensor_value_info("self_replace", TensorProto.FLOAT, ["batch"]),
        helper.make_tensor_value_info("source_index", TensorProto.INT64, ["batch"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])]
    if misuse:
        nodes.append(node("Cast", ["turned"], "count", to=TensorProto.FLOAT))
        outputs.append(helper.make_tensor_value_info("count", TensorProto.FLOAT, [2]))
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "control", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def run(path: Path, feed: Arrays) -> np.ndarray:
    return np.asarray(onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(["y"], feed)[0])


def expected(feed: Arrays) -> np.ndarray:
    """The same row by row."""
    put = [feed["x"][feed["source_index"][b] if on else b] for b, on in enumerate(feed["self_replace"])]
    return np.stack([put[b] + t * put[feed["source_index"][b]] for b, t in enumerate(feed["t"])])


@pytest.mark.parametrize(
    ("t", "switch"),
    [((0, 0, 0, 0), (0, 0, 0, 0)), ((0, 2, 0, -1), (0, 1, 0, 0)), ((1, 1, 1, 1), (1, 1, 1, 1))],
)
def test_numbers_stay(tmp_path: Path, t: tuple[float, ...], switch: tuple[float, ...]) -> None:
    path = control_graph(tmp_path / "unet.onnx")
    (tmp_path / "scratch").mkdir()
    plain = prepare(path, tmp_path / "scratch")
    operators = {node.op_type for node in ir.load(plain).graph}
    assert not operators & {"NonZero", "ScatterND"}
    feed: Arrays = {
        "x": np.random.RandomState(0).randn(4, 3).astype(np.float32),
        "t": np.array(t, np.float32),
        "self_replace": np.array(switch, np.float32),
        "source_index": np.array([0, 0, 2, 2]),
    }
    np.testing.assert_allclose(run(path, feed), expected(feed), rtol=1e-6)
    np.testing.assert_allclose(run(plain, feed), expected(feed), rtol=1e-6)


def test_other_graphs_are_left_alone(tmp_path: Path) -> None:
    identity = helper.make_node("Relu", ["x"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy"]
    onnx.save(helper.make_model(helper.make_graph([identity], "g", values[:1], values[1:])), tmp_path / "g.onnx")
    assert prepare(tmp_path / "g.onnx", tmp_path) == tmp_path / "g.onnx"


def test_another_use_of_found_rows_is_refused(tmp_path: Path) -> None:
    model = ir.load(control_graph(tmp_path / "unet.onnx", misuse=True))
    with pytest.raises(LimnerError, match="found: rows found by value, in a way that no rewrite knows"):
        all_rows(model)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_control_unet_compiles(tmp_path: Path, precision: str) -> None:
    """Exported from diffusers' UNet; the rewritten graph agrees with the exported one, and the compiler takes it."""
    pytest.importorskip("tensorrt_rtx")
    from benchmarks.scale_engines import tiny_unet, unet_feed, unet_graph_file, unet_shapes

    from limner.export.precision.half import half_graph
    from limner.export.tensorrt.builders import find_builder
    from limner.export.tensorrt.profiles import Profile
    from limner.export.tensorrt.request import Request

    path = unet_graph_file(tiny_unet(), tmp_path / "unet.onnx")
    plain = prepare(path, tmp_path)
    feed = unet_feed(path, batch=4, side=16)
    found, wanted = (
        onnxruntime.InferenceSession(one, providers=["CPUExecutionProvider"]).run(None, feed) for one in (plain, path)
    )
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    if precision == "fp16":
        model, half = half_graph(plain, "unet")
        assert half.nodes > 2 * len(half.kept)
        ir.save(model, tmp_path / "half.onnx")
        plain = tmp_path / "half.onnx"
        rounded = onnxruntime.InferenceSession(plain, providers=["CPUExecutionProvider"]).run(None, feed)
        assert np.linalg.norm(rounded[0] - wanted[0]) / np.linalg.norm(wanted[0]) < 1e-2
    builder = find_builder("tensorrt-rtx")
    shapes = {name: Profile(*sizes) for name, sizes in unet_shapes(path, 16).items()}
    request = Request("unet", plain, shapes, builder.resolve_targets(["sm89"]), precision)  # type: ignore[arg-type]
    assert len(builder.build(request)) > 1 << 20
