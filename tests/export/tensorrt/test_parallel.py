"""Engines by several processes: the cache has them all, and the bundle takes them from there."""

from pathlib import Path

import pytest
from benchmarks.engines import titles, with_graphs
from support.toy_bundle import build_toy_bundle

from limner.export.tensorrt import compile as compiling
from limner.export.tensorrt.compile import EngineConfig, compile_bundle
from limner.export.tensorrt.parallel import Task, fill_cache
from limner.runtime.errors import InputError

pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx has wheels for x86-64 alone")


def test_two_processes_fill_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, _ = build_toy_bundle(tmp_path / "bundle")
    config = EngineConfig(("sm86",), "fp32", graphs=("mapping", "affine"), cache=tmp_path / "cache")
    lines: list[str] = []
    fill_cache([Task(bundle.root, config)], 2, lines.append)
    assert len(lines) == 2
    assert len(list((tmp_path / "cache").glob("*.engine"))) == 2
    assert not bundle.manifest.engines
    monkeypatch.setattr(compiling, "_compile", lambda *rest: pytest.fail("built again"))
    assert [one.source for one in compile_bundle(bundle.root, config, say=lambda line: None)] == ["cache", "cache"]


def test_jobs_and_cache_are_checked(tmp_path: Path) -> None:
    bundle, _ = build_toy_bundle(tmp_path / "bundle")
    config = EngineConfig(("sm86",), graphs=("mapping",))
    with pytest.raises(InputError, match="jobs"):
        fill_cache([Task(bundle.root, config)], 0)
    with pytest.raises(InputError, match="cache"):
        fill_cache([Task(bundle.root, config)], 2)


def test_bundles_of_one_name_are_told_apart(tmp_path: Path) -> None:
    first, _ = build_toy_bundle(tmp_path / "a")
    second, _ = build_toy_bundle(tmp_path / "b")
    named = titles([first, second])
    name = first.manifest.name
    assert list(named) == [f"{name}-stylegan2", f"{name}-stylegan2-2"]
    assert list(titles([first])) == [name]
    assert with_graphs(named, ["mapping"]) == dict.fromkeys(named, ("mapping",))
    assert with_graphs(named, []) == dict.fromkeys(named, ())
    with pytest.raises(InputError, match="maping"):
        with_graphs(named, ["maping"])
