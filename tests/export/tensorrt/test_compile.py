"""The real compiler of TensorRT for RTX, which needs no GPU, on graphs of a few nodes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.toy_bundle import build_toy_bundle

from limner.export.tensorrt import compile as compiling
from limner.export.tensorrt.builders import find_builder
from limner.export.tensorrt.compile import EngineConfig, compile_bundle, copy_bundle
from limner.export.tensorrt.request import RefusedError
from limner.runtime.bundle.loading import Bundle, load_bundle, parse_manifest, write_manifest
from limner.runtime.errors import InputError, ProviderError
from limner.runtime.graphs.driver import Driver, Gpu
from limner.runtime.graphs.selection import Here, check_plan, select_engine, survey

pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx has wheels for x86-64 alone")
GRAPHS = ("mapping", "identity", "latent_gradient")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A toy bundle with fp16 engines of three graphs; read-only by agreement."""
    bundle, _ = build_toy_bundle(tmp_path_factory.mktemp("engines") / "bundle")
    config = EngineConfig(("sm89", "sm86"), graphs=GRAPHS, shapes={"batch": (1, 2, 4)})
    compile_bundle(bundle.root, config, say=lambda line: None)
    return load_bundle(bundle.root)


@pytest.fixture
def folder(compiled: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(compiled.root, tmp_path / "bundle"))


def test_sidecars_say_what_was_built(compiled: Bundle) -> None:
    engines = {engine.graph: engine for engine in compiled.manifest.engines}
    assert set(engines) == set(GRAPHS)
    version = find_builder("tensorrt-rtx").version
    for engine in engines.values():
        assert (engine.builder, engine.version, engine.precision) == ("tensorrt-rtx", version, "fp16")
        assert engine.targets == ("sm86", "sm89")
        assert engine.sizes == {"batch": (1, 2, 4)}
        check_plan(engine, compiled.file(engine.file).read_bytes())
        assert select_engine(compiled, engine.graph, Here("sm86", {"tensorrt-rtx": version})) == engine
    reasons = survey(compiled, Here("sm120", {"tensorrt-rtx": version})).values()
    assert set(reasons) == {"it was built for sm86, sm89, and this GPU is sm120"}


def test_what_is_there_is_kept_and_what_is_stale_goes(folder: Path) -> None:
    lines: list[str] = []
    config = EngineConfig(("sm86", "sm89"), graphs=("mapping",), shapes={"batch": (1, 2, 4)})
    assert compile_bundle(folder, config, lines.append)[0].source == "bundle"
    before = load_bundle(folder)
    path = folder / "mapping.onnx"
    path.write_bytes(path.read_bytes() + b"\x5a\x00")  # an empty field that readers skip
    write_manifest(folder, before.manifest)
    built = compile_bundle(folder, config, lines.append)
    assert built[0].source == "built"
    assert any(
        "removed engines/tensorrt-rtx/mapping.fp16.sm86-sm89.engine: it was built from another" in x for x in lines
    )
    assert {e.graph for e in load_bundle(folder).manifest.engines} == set(GRAPHS)


def test_a_cache_spares_the_build(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = EngineConfig(("sm120",), graphs=("mapping",), cache=tmp_path / "cache")
    assert compile_bundle(folder, config, say=lambda line: None)[0].source == "built"
    copy = copy_bundle(folder, tmp_path / "copy")
    manifest = parse_manifest((copy / "bundle.json").read_bytes())
    assert len(manifest.engines) == len(GRAPHS) + 1
    monkeypatch.setattr(compiling, "_compile", lambda *rest: pytest.fail("built again"))
    fresh, _ = build_toy_bundle(tmp_path / "fresh")
    assert compile_bundle(fresh.root, config, say=lambda line: None)[0].source == "cache"


def test_progress(folder: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    config = EngineConfig(("sm89",), "fp32", graphs=("affine",))
    (built,) = compile_bundle(folder, config, lambda line: None, lambda *step: seen.append(step))
    assert built.meta is not None
    assert not built.meta.refit
    assert seen
    assert all(0 < done <= total for _, done, total in seen)


def test_engines_to_refit_need_a_gpu(folder: Path) -> None:
    builder = find_builder("tensorrt-rtx", Driver(None, reason="there is no driver"))
    with pytest.raises(InputError, match=r"refit: got an engine to refit, by tensorrt-rtx where there is no driver"):
        builder.check_refit()
    find_builder("tensorrt-rtx", Driver("13.0", (Gpu("a GPU", "sm89", 1),))).check_refit()


def test_interrupted_between_phases_writes_nothing(folder: Path) -> None:
    before = (folder / "bundle.json").read_bytes()

    def stop(*step: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_bundle(folder, EngineConfig(("sm89",), "fp32", graphs=("affine",)), lambda line: None, stop)
    assert (folder / "bundle.json").read_bytes() == before
    assert not list(folder.glob("engines/*/affine*"))


def test_refused_nodes_are_named(folder: Path) -> None:
    """Max pooling with indices is what the parser does not take."""
    pool = helper.make_node("MaxPool", ["z"], ["w", "places"], kernel_shape=[1], name="pool_with_indices")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4, 8]) for name in ("z", "w")]
    places = helper.make_tensor_value_info("places", TensorProto.INT64, ["batch", 4, 8])
    graph = helper.make_graph([pool], "pool", values[:1], [values[1], places])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "mapping.onnx"
    )
    manifest = parse_manifest((folder / "bundle.json").read_bytes())
    write_manifest(folder, manifest)
    config = EngineConfig(("sm89",), "fp32", graphs=("mapping",))
    with pytest.raises(RefusedError, match="the graph 'mapping' does not compile: MaxPool") as caught:
        compile_bundle(folder, config, lambda line: None)
    assert caught.value.refusals[0].operator == "MaxPool"
    (result,) = compile_bundle(folder, config, lambda line: None, stop_at_refusal=False)
    assert result.refused
    assert "\n" not in result.refused[0]


def test_builders_are_chosen_by_what_is_there() -> None:
    gpu = Driver("13.0", (Gpu("a GPU", "sm90", 1),))
    assert find_builder(driver=Driver(None, reason="no driver")).name == "tensorrt-rtx"
    assert find_builder(driver=gpu).name == "tensorrt-rtx"  # tensorrt is not installed here
    with pytest.raises(
        InputError, match=r"'tensorrt', which is not installed; allowed: tensorrt-rtx, which is installed"
    ):
        find_builder("tensorrt")
    with pytest.raises(InputError, match="'trtexec'; allowed: tensorrt or tensorrt-rtx"):
        find_builder("trtexec")
    with pytest.raises(InputError, match=r"target: got 'sm90'; allowed: sm75, .*pip install 'limner\[tensorrt\]'"):
        find_builder("tensorrt-rtx").resolve_targets(["sm90"])


def test_no_builder_names_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limner.export.tensorrt.builders.installed", lambda: ())
    with pytest.raises(InputError) as caught:
        find_builder(driver=Driver(None, reason="there is no driver"))
    assert "limner[tensorrt]" in str(caught.value)
    assert "limner[tensorrt-rtx]" in str(caught.value)
    monkeypatch.setattr("limner.export.tensorrt.builders.installed", lambda: ("tensorrt",))
    with pytest.raises(ProviderError, match="'tensorrt' on a machine where there is no driver"):
        find_builder("tensorrt", Driver(None, reason="there is no driver"))


def test_command_line(folder: Path, tmp_path: Path, limner: Callable[..., Any]) -> None:
    out = tmp_path / "out"
    ran = limner("export", "tensorrt", folder, "--target", "sm89", "--graph", "affine", "--out", out, "--json")
    assert ran.code == 0, ran.err
    (engine,) = json.loads(ran.out)["engines"]
    assert engine["meta"]["file"] == "engines/tensorrt-rtx/affine.fp16.sm89.engine"
    assert load_bundle(out).digest == load_bundle(folder).digest
    assert not list(folder.glob("engines/*/affine*"))
    ran = limner("export", "tensorrt", folder, "--target", "sm89,sm120", "--dry-run", "--shapes", "batch=1:4:16")
    assert ran.code == 0, ran.err
    assert "engines/tensorrt-rtx/encoder.fp16.sm89-sm120.engine  batch 1:4:16" in ran.out
    for arguments, words in (
        (("--target", "sm70"), "target: got 'sm70'"),
        (("--target", "sm89", "--precision", "int8"), "precision: got 'int8'"),
        (("--target", "sm89", "--graph", "mappin"), "did you mean 'mapping'"),
        (("--target", "sm89", "--shapes", "batch=2:1"), "shapes: got 'batch=2:1'"),
        (("--target", ","), "target: got nothing"),
    ):
        ran = limner("export", "tensorrt", folder, *arguments)
        assert ran.code == 2
        assert words in ran.err
        assert ran.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_every_graph_of_the_family_compiles(tiny_bundle: Bundle, tmp_path: Path, precision: str) -> None:
    copy = copy_bundle(tiny_bundle.root, tmp_path / "bundle")
    built = compile_bundle(copy, EngineConfig(("sm86", "sm89", "sm120"), precision), stop_at_refusal=False)  # type: ignore[arg-type]
    assert {one.graph: one.refused for one in built} == dict.fromkeys(tiny_bundle.manifest.graphs, ())
    assert np.all([one.megabytes > 0 for one in built])
