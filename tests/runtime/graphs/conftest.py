"""A small bundle with an engine for each of its graphs, made by the twin of TensorRT."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tensorrt_twin import plan

from limner.runtime.bundle.engines import EngineMeta
from limner.runtime.bundle.loading import Bundle, load_bundle, manifest_text
from limner.runtime.graphs.selection import Here, graph_source
from limner.runtime.schema import to_dict
from limner.runtime.storage import caches
from limner.runtime.storage.files import sha256_bytes

AddEngine = Callable[..., Bundle]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(caches.VARIABLE, str(tmp_path / "cache"))


@pytest.fixture
def here() -> Here:
    """A machine with an sm89 GPU and the version of TensorRT for RTX that the engines are made by."""
    return Here("sm89", {"tensorrt-rtx": "1.7.1.116"})


@pytest.fixture
def add_engine(bundle_folder: Path) -> AddEngine:
    """A function that puts an engine of the graph "pair" into the small bundle; keywords alter its entry."""

    def add(data: bytes | None = None, graph: str = "pair", **changes: Any) -> Bundle:
        bundle = load_bundle(bundle_folder)
        data = plan((bundle_folder / "pair.onnx").read_bytes()) if data is None else data
        entry: dict[str, Any] = {
            "graph": graph,
            "file": f"engines/{graph}{len(bundle.manifest.engines)}.engine",
            "source": graph_source(bundle, graph),
            "builder": "tensorrt-rtx",
            "version": "1.7.1.116",
            "targets": ("sm86", "sm89"),
            "precision": "fp32",
            "sizes": {"batch": (1, 1, 4)},
        }
        meta = EngineMeta(**(entry | changes))
        path = bundle_folder / meta.file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        manifest = json.loads((bundle_folder / "bundle.json").read_bytes())
        manifest["files"][meta.file] = {"sha256": sha256_bytes(data), "size": len(data)}
        manifest["engines"] = [*manifest.get("engines", []), to_dict(meta)]
        (bundle_folder / "bundle.json").write_bytes(manifest_text(manifest))
        return load_bundle(bundle_folder)

    return add
