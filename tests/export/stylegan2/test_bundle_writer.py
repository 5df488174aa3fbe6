"""From checkpoints to a bundle that the runtime loads, and what is refused on the way."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny import EMBEDDING, SIZE

from limner.export.report.cards import read_licences
from limner.export.stylegan2 import writer as bundle_writer
from limner.export.stylegan2.graphs import build_specs
from limner.export.stylegan2.writer import ExportConfig, export_checkpoints
from limner.runtime import load_bundle
from limner.runtime.bundle.loading import Bundle
from limner.runtime.errors import BundleError, InputError, LimnerError
from limner.runtime.graphs.sessions import Sessions


def test_runtime_runs_every_graph(tiny_bundle: Bundle) -> None:
    sessions = Sessions(tiny_bundle, threads=1)
    for name, meta in tiny_bundle.manifest.graphs.items():
        for batch in (1, 4):
            feed: dict[str, Any] = {}
            for tensor in meta.inputs:
                sizes: dict[Any, Any] = {"batch": batch, "tokens": 8}
                shape = [sizes.get(size, size) for size in tensor.shape]
                feed[tensor.name] = np.full(shape, 0.1, dtype=tensor.dtype)
            if name == "clip_text":
                feed["input_ids"][:, 5] = tiny_bundle.manifest.clip.eos
            found = sessions.run(name, only=None, **feed)
            for tensor in meta.outputs:
                expected = tuple(batch if size == "batch" else size for size in tensor.shape)
                assert found[tensor.name].shape == expected


def test_manifest_says_what_the_bundle_is(tiny_bundle: Bundle) -> None:
    manifest = tiny_bundle.manifest
    assert (manifest.opset, manifest.precision, manifest.weights_storage) == (20, "fp32", "fp16")
    assert tiny_bundle.generator.size == SIZE
    assert manifest.clip.embedding == EMBEDDING
    assert manifest.defaults["latent-optimization"]["steps"] == 3
    assert manifest.neutrals == {"beard": ""}
    assert {entry.licence for entry in manifest.licences} == {"Apache-2.0"}
    assert tiny_bundle.relevance["relevance"].shape == (tiny_bundle.generator.style_channels, EMBEDDING)
    assert tiny_bundle.latent_avg.shape == (tiny_bundle.generator.w_dim,)
    for graph in manifest.graphs.values():
        assert graph.parity is not None
        assert graph.parity.max_rel_error <= 1e-4
    assert set(json.loads(tiny_bundle.file("parity.json").read_text())["graphs"]) == set(manifest.graphs)
    assert "latent_gradient" in tiny_bundle.file("parity.md").read_text()


def test_everyone_may_read_it(tiny_bundle: Bundle) -> None:
    for path in tiny_bundle.root.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)


@pytest.mark.parametrize("file", ["weights.bin", "latent_gradient.onnx", "constants.safetensors", "parity.json"])
def test_a_flipped_byte_is_refused(tiny_bundle: Bundle, tmp_path: Path, file: str) -> None:
    copy = Path(shutil.copytree(tiny_bundle.root, tmp_path / "bundle"))
    content = bytearray((copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / file).write_bytes(content)
    with pytest.raises(BundleError, match=file):
        load_bundle(copy)


def test_bundle_does_not_depend_on_its_place(tiny_bundle: Bundle, tmp_path: Path) -> None:
    moved = load_bundle(shutil.copytree(tiny_bundle.root, tmp_path / "elsewhere"))
    z = np.zeros((1, moved.generator.z_dim), np.float32)
    assert Sessions(moved).run("mapping", z=z)["w"].shape == (1, moved.generator.w_dim)


@pytest.fixture
def only_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export the graph `mapping` alone, which takes a second."""
    real = build_specs
    monkeypatch.setattr(
        bundle_writer,
        "build_specs",
        lambda networks: {k: v for k, v in real(networks).items() if k in ("mapping", "identity")},
    )


def test_an_old_bundle_is_replaced_whole(tiny_checkpoints: Path, tmp_path: Path, only_mapping: None) -> None:
    out = tmp_path / "bundle"
    first = export_checkpoints(tiny_checkpoints, out, ExportConfig(name="first"), say=lambda line: None)
    (out / "left-over").write_text("of the old one")
    second = export_checkpoints(
        tiny_checkpoints, out, ExportConfig(name="second", weights_storage="fp32"), say=lambda line: None
    )
    assert (first.manifest.name, second.manifest.name) == ("first", "second")
    assert not (out / "left-over").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_graph_off_par_writes_nothing(tiny_checkpoints: Path, tmp_path: Path, only_mapping: None) -> None:
    with pytest.raises(LimnerError, match="differ from torch by more than 1e-12"):
        export_checkpoints(tiny_checkpoints, tmp_path / "bundle", ExportConfig(tolerance=1e-12), say=lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_only_a_bundle_is_replaced(tiny_checkpoints: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("not a bundle")
    with pytest.raises(InputError, match="other files"):
        export_checkpoints(tiny_checkpoints, tmp_path)
    with pytest.raises(InputError, match="missing folder"):
        export_checkpoints(tiny_checkpoints, tmp_path / "no" / "bundle")
    with pytest.raises(InputError, match="out"):
        export_checkpoints(tiny_checkpoints, tmp_path / "mine.txt")


@pytest.mark.parametrize("part", ["stylegan2", "clip", "identity", "encoder"])
def test_a_missing_checkpoint_is_named(tiny_checkpoints: Path, tmp_path: Path, part: str) -> None:
    copy = Path(shutil.copytree(tiny_checkpoints, tmp_path / "checkpoints"))
    shutil.rmtree(copy / part)
    with pytest.raises(InputError, match=part):
        export_checkpoints(copy, tmp_path / "bundle")


@pytest.mark.parametrize(("field", "value"), [("opset", 12), ("tolerance", 0.0), ("batches", ()), ("batches", (0,))])
def test_bad_settings_are_refused(field: str, value: object) -> None:
    with pytest.raises(InputError, match=field):
        ExportConfig(**{field: value})  # type: ignore[arg-type]


def test_command_line(tiny_checkpoints: Path, tmp_path: Path, limner: Callable[..., Any]) -> None:
    out = tmp_path / "bundle"
    ran = limner("export", "onnx", "--checkpoints", tiny_checkpoints, "--out", out, "--dry-run", "--json")
    assert ran.code == 0, ran.err
    plan = json.loads(ran.out)
    assert plan["relevance"] is True
    assert "latent_gradient" in plan["graphs"]
    assert not out.exists()
    ran = limner("export", "onnx", "--checkpoints", tmp_path / "none", "--out", out)
    assert ran.code == 2
    assert ran.err.startswith("error: ")
    ran = limner("export", "onnx", "--checkpoints", tiny_checkpoints, "--weights-storage", "fp8")
    assert ran.code == 2
    assert "weights_storage" in ran.err


def test_cards_name_weights_and_drawings(tmp_path: Path) -> None:
    text = (
        "# X\n\n## Licence\n\nWeights: Apache-2.0. Trained on pictures drawn with DiceBear, style `avataaars`: "
        "Avataaars (https://avataaars.com/), by Pablo Stanley. Licence of the drawings: Free for personal and "
        "commercial use.\n"
    )
    (tmp_path / "README.md").write_text(text)
    weights, drawings = read_licences(tmp_path, "clip")
    assert weights.licence == "Apache-2.0"
    assert drawings.creator == "Pablo Stanley"
    assert drawings.licence == "Free for personal and commercial use"
    assert drawings.source == "Avataaars (https://avataaars.com/)"
    assert read_licences(tmp_path / "none", "clip")[0].licence == "not stated"
