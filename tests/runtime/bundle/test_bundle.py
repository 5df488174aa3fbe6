"""A bundle loads when it is whole; each way of breaking it gives one sentence that names what is wrong."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from limner.runtime.bundle.loading import load_bundle, parse_manifest, write_manifest
from limner.runtime.errors import BundleError, InputError, MissingGraphError
from limner.runtime.schema import to_dict


def edit_json(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "bundle.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def message_of(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message
    return message


def test_loads_and_gives_constants(bundle_folder: Path) -> None:
    bundle = load_bundle(bundle_folder)
    assert bundle.generator.num_ws == 4
    assert bundle.latent_avg.shape == (4,)
    assert bundle.latent_avg.dtype == np.float32
    assert bundle.relevance["relevance"].shape == (6, 3)
    assert bundle.relevance["relevance"].dtype == np.float32
    assert len(bundle.digest) == 64
    assert load_bundle(bundle_folder / "bundle.json").digest == bundle.digest
    assert load_bundle(str(bundle_folder), verify_hashes=False).digest == bundle.digest


def test_manifest_round_trip(bundle_folder: Path) -> None:
    manifest = load_bundle(bundle_folder).manifest
    assert parse_manifest(json.dumps(to_dict(manifest))) == manifest


def test_writing_twice_gives_the_same_digest(bundle_folder: Path) -> None:
    before = load_bundle(bundle_folder)
    assert write_manifest(bundle_folder, before.manifest).digest == before.digest


def test_missing_graph_names_it_and_the_known_ones(bundle_folder: Path) -> None:
    with pytest.raises(MissingGraphError) as caught:
        load_bundle(bundle_folder).graph("maping")
    message = str(caught.value)
    assert "'maping'" in message
    assert "mapping, pair" in message
    assert "did you mean 'mapping'" in message


def test_bundle_without_relevance(bundle_folder: Path) -> None:
    edit_json(bundle_folder, lambda data: data.update(relevance=None))
    with pytest.raises(BundleError, match="no channel relevance"):
        _ = load_bundle(bundle_folder).relevance


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(schema_version=2), "schema_version: got 2; allowed: 1; update limner"),
        (lambda d: d.update(schema_version="1"), "schema_version: got '1'; allowed: 1; export"),
        (lambda d: d.update(schema_version=True), "schema_version: got True"),
        (lambda d: d.pop("schema_version"), "schema_version: got None"),
        (lambda d: d.update(colour=1), "colour: got an unknown key"),
        (lambda d: d["generator"].update(siz=8), "generator.siz: got an unknown key"),
        (lambda d: d["generator"].update(siz=8), "did you mean 'size'"),
        (lambda d: d["generator"].pop("w_dim"), "generator.w_dim: got nothing"),
        (lambda d: d["generator"].update(size="8"), "generator.size: got '8'; allowed: a whole number"),
        (lambda d: d["generator"].update(size=True), "generator.size: got True"),
        (lambda d: d["generator"].update(size=12), "generator.size: got 12; allowed: a power of two"),
        (lambda d: d["generator"].update(num_ws=5), "generator.num_ws: got 5; allowed: 4"),
        (lambda d: d["generator"].update(style_channels=7), "generator.style_channels: got 7; allowed: 6"),
        (lambda d: d["generator"]["layers"][1].update(w_index=4), "generator.layers[1].w_index: got 4"),
        (lambda d: d["generator"]["layers"][1].update(kind="rgb"), "generator.layers[1].kind: got 'rgb'"),
        (lambda d: d.update(graphs=[]), "graphs: got a list"),
        (lambda d: d["graphs"]["pair"].update(inputs=[]), "graphs.pair.inputs"),
        (lambda d: d["graphs"]["pair"]["inputs"][0].update(dtype="float"), "dtype: got 'float'"),
        (lambda d: d["graphs"]["pair"]["inputs"][0].update(shape=[0]), "sizes of 1 or more"),
        (lambda d: d["graphs"]["pair"]["inputs"][0].update(shape=[1.5]), "shape[0]: got 1.5"),
        (lambda d: d["graphs"]["pair"].update(file="other.onnx"), "graphs.pair.file: got 'other.onnx'"),
        (
            lambda d: d["graphs"]["mapping"]["parity"].update(max_rel_error=1.0),
            "at most its tolerance 0.0001",
        ),
        (lambda d: d.update(relevance="none.npz"), "relevance: got 'none.npz', which `files` does not list"),
        (lambda d: d["files"]["pair.onnx"].update(size=-1), "files.pair.onnx.size: got -1"),
        (lambda d: d["files"]["pair.onnx"].update(sha256="0" * 63), "64 lower-case hexadecimal digits"),
        (lambda d: d["files"]["pair.onnx"].update(sha256="0" * 64), "pair.onnx: got content with sha256"),
        (lambda d: d["files"]["pair.onnx"].update(size=3), "allowed: 3 bytes as bundle.json says"),
    ],
)
def test_altered_manifest(bundle_folder: Path, change: Callable[[dict[str, Any]], object], words: str) -> None:
    edit_json(bundle_folder, change)
    assert words in message_of(bundle_folder)


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "/etc/passwd",
        "a/../../b",
        "a//b",
        "./a",
        "a\\..\\b",
        "C:a",
        "",
        "a/",
        "bundle.json",
        "a\0b",
    ],
)
def test_paths_that_leave_the_bundle(bundle_folder: Path, path: str) -> None:
    def change(data: dict[str, Any]) -> None:
        data["files"][path] = {"sha256": "0" * 64, "size": 0}

    edit_json(bundle_folder, change)
    assert "a plain relative path inside the bundle" in message_of(bundle_folder)


def test_graph_path_that_leaves_the_bundle(bundle_folder: Path) -> None:
    edit_json(bundle_folder, lambda data: data["graphs"]["pair"].update(data=["../weights.bin"]))
    assert "graphs.pair.data[0]: got the path '../weights.bin'" in message_of(bundle_folder)


def test_link_that_leaves_the_bundle(bundle_folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.onnx"
    (bundle_folder / "pair.onnx").rename(outside)
    (bundle_folder / "pair.onnx").symlink_to(outside)
    assert "pair.onnx: got a link that leaves the bundle" in message_of(bundle_folder)


def test_one_altered_byte(bundle_folder: Path) -> None:
    data = bytearray((bundle_folder / "weights.bin").read_bytes())
    data[5] ^= 1
    (bundle_folder / "weights.bin").write_bytes(data)
    assert "weights.bin: got content with sha256" in message_of(bundle_folder)


def test_truncated_and_missing_file(bundle_folder: Path) -> None:
    (bundle_folder / "weights.bin").write_bytes(b"short")
    assert "weights.bin: got 5 bytes; allowed: 64 bytes" in message_of(bundle_folder)
    with pytest.raises(BundleError, match="5 bytes"):
        load_bundle(bundle_folder, verify_hashes=False)
    (bundle_folder / "weights.bin").unlink()
    assert "weights.bin: got no such file" in message_of(bundle_folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON (line 1"),
        (b"[]", "not an object"),
        (b'{"schema_version": 1, "schema_version": 1}', "the key 'schema_version' twice"),
        (b'{"schema_version": NaN}', "the number NaN"),
        (b'{"schema_version": Infinity}', "the number Infinity"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_text_that_is_no_manifest(bundle_folder: Path, text: bytes, words: str) -> None:
    (bundle_folder / "bundle.json").write_bytes(text)
    assert words in message_of(bundle_folder)


def test_folder_that_is_no_bundle(tmp_path: Path) -> None:
    assert "no folder at" in message_of(tmp_path / "nothing")
    assert "no bundle.json in" in message_of(tmp_path)


def test_constants_of_another_shape(bundle_folder: Path) -> None:
    for tensors, words in (
        ({"latent_avg": np.ones(3, np.float32)}, r"got \[3\]"),
        ({"mean": np.ones(4, np.float32)}, "got nothing"),
        ({"latent_avg": np.full(4, np.nan, np.float32)}, "NaN or infinity"),
    ):
        save_file(tensors, bundle_folder / "constants.safetensors")
        bundle = write_manifest(bundle_folder, load_or_parse(bundle_folder))
        with pytest.raises(BundleError, match=words):
            _ = bundle.latent_avg
    (bundle_folder / "constants.safetensors").write_bytes(b"no tensors")
    bundle = write_manifest(bundle_folder, load_or_parse(bundle_folder))
    with pytest.raises(BundleError, match="does not open"):
        _ = bundle.latent_avg


def load_or_parse(folder: Path) -> Any:
    return parse_manifest((folder / "bundle.json").read_bytes())


def test_a_failed_write_keeps_the_old_manifest(bundle_folder: Path) -> None:
    before = (bundle_folder / "bundle.json").read_bytes()
    (bundle_folder / "pair.onnx").unlink()
    with pytest.raises(BundleError, match=r"graphs.pair.file"):
        write_manifest(bundle_folder, parse_manifest(before))
    assert (bundle_folder / "bundle.json").read_bytes() == before
    assert not list(bundle_folder.glob(".*.part"))


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(BundleError("size", 3, "4", "try again")))
    assert str(error) == "size: got 3; allowed: 4; try again"
    assert isinstance(error, InputError)
    assert error.field == "size"
