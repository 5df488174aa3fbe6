"""fp16 and int8 forms of a bundle: what keeps its type, how far they are from fp32, and what the gate refuses."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.toy_bundle import ToyWeights, build_toy_bundle, reference_gradient

from limner.export.precision import convert as converting
from limner.export.precision.convert import PrecisionConfig, convert
from limner.export.precision.gate import TOLERANCES, passes, tolerance
from limner.export.precision.half import HalfConfig, half_graph, half_model, settled, write_half
from limner.export.precision.ranges import measure_ranges
from limner.export.precision.samples import Samples
from limner.export.stylegan2.gradient_graph import INPUTS
from limner.runtime.bundle.loading import Bundle, load_bundle
from limner.runtime.errors import InputError, LimnerError
from limner.runtime.graphs.sessions import Sessions

Toy = tuple[Bundle, ToyWeights]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return build_toy_bundle(tmp_path_factory.mktemp("precision") / "bundle")


def silent(line: str) -> None:
    """Takes progress and drops it."""


def save(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], width: int = 4) -> Path:
    """A graph from x [batch,width] to y of the same shape."""
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in "xy")
    graph = helper.make_graph(nodes, "small", [x], [y], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def run(model: ir.Model, folder: Path, x: np.ndarray) -> np.ndarray:
    path = folder / "converted.onnx"
    ir.save(model, path)
    return np.asarray(onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0])


def test_every_type_is_settled(toy: Toy) -> None:
    """No node mixes types, and the interface is that of the fp32 graph."""
    bundle, _ = toy
    for name in bundle.manifest.graphs:
        model, half = half_model(bundle, name)
        assert half.nodes > len(half.kept) - half.casts
        for node in model.graph:
            kinds = {v.dtype for v in node.inputs if v is not None} & {ir.DataType.FLOAT, ir.DataType.FLOAT16}
            assert len(kinds) <= 1, node
        meta = bundle.graph(name)
        values = [*model.graph.inputs, *model.graph.outputs]
        assert [v.name for v in values] == [t.name for t in (*meta.inputs, *meta.outputs)]
        assert all(v.dtype in (ir.DataType.FLOAT, ir.DataType.INT64) for v in values)


def test_half_is_rounded_once_where_numpy_rounds(tmp_path: Path) -> None:
    """y = relu(x W): fp16 operands, as float64 numpy has it from operands rounded by itself."""
    random = np.random.RandomState(0)
    weight, x = random.randn(4, 4).astype(np.float32), random.randn(5, 4).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    model, half = half_graph(save(tmp_path / "g.onnx", nodes, {"w": weight}), "g")
    found = run(model, tmp_path, x)
    rounded = x.astype(np.float16).astype(np.float64) @ weight.astype(np.float16).astype(np.float64)
    np.testing.assert_allclose(found, np.maximum(rounded, 0), atol=2e-3)
    assert half.kept == ()
    assert half.casts == 2


def test_what_fp16_cannot_hold_stays_fp32(tmp_path: Path) -> None:
    """rsqrt(x^2 + 1e-8) of tiny x, and a step function with a slope of 1e30."""
    x = np.array([[3e-5, -2e-4, 0.5, 0.0]], np.float32)
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"]),
        helper.make_node("Add", ["square", "small"], ["energy"]),
        helper.make_node("Sqrt", ["energy"], ["root"]),
        helper.make_node("Reciprocal", ["root"], ["inverse"]),
        helper.make_node("Mul", ["x", "inverse"], ["unit"]),
        helper.make_node("Mul", ["unit", "steep"], ["cliff"]),
        helper.make_node("Clip", ["cliff", "zero", "one"], ["y"]),
    ]
    constants = {"small": np.float32(1e-8), "steep": np.float32(1e30), "zero": np.float32(0), "one": np.float32(1)}
    path = save(tmp_path / "g.onnx", nodes, {name: np.asarray(value) for name, value in constants.items()})

    def measure(model: ir.Model) -> dict[str, float]:
        return {"x": 0.5, "square": 0.25, "cliff": 1e30}

    model, half = half_graph(path, "g", measure=measure)
    np.testing.assert_array_equal(run(model, tmp_path, x), [[1, 0, 1, 0]])
    assert len(half.kept) >= 4


def test_numbers_beyond_fp16_are_found_on_samples(toy: Toy, tmp_path: Path) -> None:
    bundle, _ = toy
    model = settled(bundle.file("affine.onnx"))
    ranges = measure_ranges(bundle, "affine", model)
    samples = Samples(bundle, 0)("affine", 2)
    assert ranges["w_plus"] == pytest.approx(np.abs(samples["w_plus"]).max())
    assert ranges["style_channels"] > 0
    nodes = [helper.make_node("Mul", ["x", "big"], ["h"]), helper.make_node("Mul", ["h", "little"], ["y"])]
    constants = {"big": np.asarray(np.float32(6e3)), "little": np.asarray(np.float32(1 / 6e3))}
    path = save(tmp_path / "g.onnx", nodes, constants)
    x = np.full((1, 4), 100.0, np.float32)  # 6e5 in between
    _, blind = half_graph(path, "g")
    seen, careful = half_graph(path, "g", measure=lambda model: {"x": 100.0, "h": 6e5, "y": 100.0})
    assert len(careful.kept) == 2
    assert len(blind.kept) < 2
    np.testing.assert_allclose(run(seen, tmp_path, x), x, rtol=1e-6)


def test_the_gradient_is_that_of_the_formula(toy: Toy, tmp_path: Path) -> None:
    """Against float64 numpy; the scaling inside the graph is gone from what comes out."""
    bundle, weights = toy
    path = tmp_path / "latent_gradient.onnx"
    write_half(bundle, "latent_gradient", path)
    feed = Samples(bundle, 4)("latent_gradient", 3)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, feed), strict=True))
    arrays = [feed[name].astype(np.float64) for name in INPUTS]
    losses, gradient = reference_gradient(weights, *arrays)
    assert np.linalg.norm(found["gradient"] - gradient) / np.linalg.norm(gradient) < 5e-3
    for name, loss in losses.items():
        np.testing.assert_allclose(found[name], loss, rtol=5e-3, atol=1e-3)


def test_graphs_can_be_kept(toy: Toy) -> None:
    bundle, _ = toy
    model, half = half_model(bundle, "affine", HalfConfig(keep_fp32=("affine",)))
    assert half.nodes == len(half.kept)
    assert all(value.dtype != ir.DataType.FLOAT16 for node in model.graph for value in node.outputs)


@pytest.fixture(scope="module", params=["fp16", "int8"])
def converted(toy: Toy, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Bundle]:
    out = tmp_path_factory.mktemp("converted") / "bundle"
    made, _ = convert(toy[0].root, out, PrecisionConfig(request.param), say=silent)
    return request.param, made


def test_a_converted_bundle_runs_as_the_other_does(toy: Toy, converted: tuple[str, Bundle]) -> None:
    precision, bundle = converted
    assert bundle.manifest.precision == precision
    before, after = Sessions(toy[0]), Sessions(bundle)
    for name in bundle.manifest.graphs:
        feed = Samples(toy[0], 9)(name, 3)
        expected, found = before.run(name, only=None, **feed), after.run(name, only=None, **feed)
        for output, array in expected.items():
            error = np.linalg.norm(found[output] - array) / np.linalg.norm(array)
            assert error <= 1.5 * tolerance(precision, output), (name, output)


def test_the_report_has_every_graph(toy: Toy, converted: tuple[str, Bundle]) -> None:
    precision, bundle = converted
    report = json.loads(bundle.file("parity.json").read_text())["precision"]
    assert report["source"] == toy[0].digest
    rows = {row["graph"]: row for row in report["graphs"]}
    assert set(rows) == set(bundle.manifest.graphs)
    for name, row in rows.items():
        parity = bundle.manifest.graphs[name].parity
        if row["precision"] == precision:
            assert parity is not None
            assert parity.max_rel_error == max(row["errors"].values()) <= parity.tolerance
        else:
            assert not row["errors"]
    assert f"## {precision} against fp32" in bundle.file("parity.md").read_text()
    changed = [name for name, row in rows.items() if row["precision"] == precision]
    assert len(changed) >= 4
    assert ("latent_gradient" in changed) == (precision == "fp16")


def test_the_gate_leaves_a_graph_in_fp32(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOLERANCES["fp16"], "", 1e-9)
    config = PrecisionConfig("fp16", drop=("latent_gradient", "clip_text"))
    made, report = convert(toy[0].root, tmp_path / "out", config, say=silent)
    assert {quality.precision for quality in report} == {"fp32"}
    assert all(quality.refused for quality in report)
    assert "latent_gradient" not in made.manifest.graphs
    feed = Samples(toy[0], 1)("affine", 2)
    expected = Sessions(toy[0]).run("affine", only=None, **feed)["style_channels"]
    np.testing.assert_allclose(Sessions(made).run("affine", only=None, **feed)["style_channels"], expected, rtol=1e-6)
    assert not passes("fp16", {"w": float("nan")})


def test_settled_graphs_keep_their_numbers_and_cast_nothing(toy: Toy, tmp_path: Path) -> None:
    config = PrecisionConfig("fp32", drop=("latent_gradient",))
    made, report = convert(toy[0].root, tmp_path / "out", config, say=silent)
    assert (made.manifest.precision, made.manifest.weights_storage) == ("fp32", "fp32")
    assert all(quality.errors and max(quality.errors.values()) <= 1e-5 for quality in report)
    for name, meta in made.manifest.graphs.items():
        model = ir.load(made.file(meta.file))
        constant = [n for n in model.graph if all(v is not None and v.is_initializer() for v in n.inputs)]
        assert constant == [], name


@pytest.mark.parametrize(("after", "written"), [(49.0, True), (47.9, False)])
def test_the_battery_decides(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: float, written: bool
) -> None:
    scores = itertools.chain([{"beard": 60.0, "bald": 40.0}], itertools.repeat({"beard": 60.0, "bald": 2 * after - 60}))
    monkeypatch.setattr(converting, "battery", lambda *rest: next(scores))
    config = PrecisionConfig("fp16", judge=tmp_path, drop=("latent_gradient",))
    if written:
        made, _ = convert(toy[0].root, tmp_path / "out", config, say=silent)
        assert "| **all** | **50.0** | **49.0** |" in made.file("parity.md").read_text()
        return
    with pytest.raises(LimnerError, match=r"the battery falls from 50.0 to 47.9 % in fp16"):
        convert(toy[0].root, tmp_path / "out", config, say=silent)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_the_battery_does_not_bear_stays_fp32(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst one by its error goes back first, and the report says why; the others stay converted."""
    worst: list[str] = []

    def judged(bundle: Bundle, *rest: object) -> dict[str, float]:
        if bundle.manifest.precision == "fp32":
            return {"beard": 90.0}
        errors = {name: meta.parity.max_rel_error for name, meta in bundle.manifest.graphs.items() if meta.parity}
        worst[:] = worst or [max(errors, key=lambda name: errors[name])]
        return {"beard": 70.0 if not reverted else 89.0}

    reverted: list[str] = []
    monkeypatch.setattr(converting, "battery", judged)
    made, report = convert(toy[0].root, tmp_path / "out", PrecisionConfig("fp16", judge=tmp_path),
                           say=lambda line: reverted.append(line) if "stays fp32" in line else None)  # fmt: skip
    left = [quality for quality in report if quality.precision == "fp32"]
    assert [quality.graph for quality in left] == worst and len(reverted) == 1
    assert "from 90.0 to 70.0 %" in left[0].note and left[0].note in made.file("parity.md").read_text()


def test_bad_input(toy: Toy, converted: tuple[str, Bundle], tmp_path: Path, limner: Callable[..., Any]) -> None:
    precision, bundle = converted
    with pytest.raises(InputError, match=f"in {precision}; allowed: a bundle in fp32"):
        convert(bundle.root, tmp_path / "out", PrecisionConfig("fp16"), say=silent)
    for arguments, words in (
        (("--precision", "fp8"), "precision: got 'fp8'; allowed: fp32, fp16, int8"),
        (("--drop", "mappin"), "did you mean 'mapping'"),
        (("--precision", "int8", "--pictures", str(tmp_path)), "pictures: got"),
    ):
        ran = limner("export", "precision", toy[0].root, "--out", tmp_path / "out", *arguments)
        assert ran.code == 2
        assert words in ran.err
        assert ran.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_samples_are_what_the_graphs_take(toy: Toy) -> None:
    bundle, _ = toy
    first, second = Samples(bundle, 5), Samples(bundle, 5)
    for name in bundle.manifest.graphs:
        one, other = first(name, 3), second(name, 3)
        for key, array in one.items():
            np.testing.assert_array_equal(array, other[key])
    assert load_bundle(bundle.root).digest == bundle.digest
