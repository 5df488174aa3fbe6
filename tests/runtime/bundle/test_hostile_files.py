"""Files that nobody should trust: ONNX files that read others, files that change, JSON, arrays, devices and names."""

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.toy_bundle import NUM_WS, W_DIM, build_toy_bundle

from limner.runtime.arrays import read_array
from limner.runtime.bundle.loading import load_bundle
from limner.runtime.bundle.onnx_files import check_external_data, external_files
from limner.runtime.editor import Editor
from limner.runtime.errors import BundleError, InputError
from limner.runtime.graphs.sessions import Sessions
from limner.runtime.recipe import PromptEdit, Recipe, Source
from limner.runtime.schema import parse_json, read_json
from limner.runtime.storage.files import read_plain, sha256_file

# --- external data of ONNX files --------------------------------------------------------------------------


def outside(location: str, name: str = "w") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in (("offset", "0"), ("location", location), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph_of(nodes: list[Any] = [], tensors: list[Any] = []) -> Any:  # noqa: B006
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    return helper.make_graph(nodes, "g", [], [value], tensors)


def places(location: str) -> dict[str, onnx.ModelProto]:
    """The same path in every place of an ONNX file where a tensor may stand."""
    constant = helper.make_node("Constant", [], ["y"], value=outside(location))
    branch = graph_of(tensors=[outside(location)])
    nested = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=graph_of([constant]))
    many = helper.make_node("X", [], ["y"], tensors=[outside(location), outside(location)])
    sparse = onnx.SparseTensorProto(values=outside(location), indices=outside("indices.bin"), dims=[1])
    function = helper.make_function("f", "F", [], ["y"], [constant], [helper.make_opsetid("", 20)])
    training = onnx.TrainingInfoProto(initialization=branch)
    models = {
        "initializer": helper.make_model(graph_of(tensors=[outside(location)])),
        "constant": helper.make_model(graph_of([constant])),
        "branch": helper.make_model(graph_of([nested])),
        "list": helper.make_model(graph_of([many])),
        "sparse": helper.make_model(graph_of()),
        "function": helper.make_model(graph_of(), functions=[function]),
        "training": helper.make_model(graph_of()),
    }
    models["sparse"].graph.sparse_initializer.append(sparse)
    models["training"].training_info.append(training)
    return models


@pytest.mark.parametrize("place", places(""))
@pytest.mark.parametrize(
    "location",
    ["../secret", "/etc/passwd", "other.bin", "sub/../weights.bin", "*/_ORT_MEM_ADDR_/*", "weights.bin\0", ""],
)
def test_weights_from_elsewhere_are_refused_wherever_they_stand(place: str, location: str) -> None:
    data = places(location)[place].SerializeToString()
    assert location in external_files(data)
    with pytest.raises(BundleError, match="which the graph's entry does not name"):
        check_external_data(data, "graphs.g.file", ["weights.bin", "indices.bin"])
    check_external_data(
        places("weights.bin")[place].SerializeToString(), "graphs.g.file", ["weights.bin", "indices.bin"]
    )


def test_paths_are_those_of_the_files_own_folder() -> None:
    data = places("w.bin")["initializer"].SerializeToString()
    check_external_data(data, "g", ["deep/w.bin"], "deep")
    with pytest.raises(BundleError):
        check_external_data(data, "g", ["w.bin"], "deep")


def test_a_node_that_hands_files_to_a_provider_is_refused() -> None:
    node = helper.make_node("EPContext", [], ["y"], domain="com.microsoft", ep_cache_context="/etc/passwd")
    with pytest.raises(BundleError, match="a node EPContext"):
        external_files(helper.make_model(graph_of([node])).SerializeToString())


def test_broken_onnx_files_give_one_error() -> None:
    data = places("weights.bin")["branch"].SerializeToString()
    random = np.random.RandomState(0)
    for length in range(len(data)):
        try_to_read(data[:length])
    for _ in range(2000):
        broken = bytearray(data)
        broken[random.randint(len(broken))] = random.randint(256)
        try_to_read(bytes(broken))
    deep = b""
    for _ in range(200):  # graph > node > attribute > graph ...
        deep = field(1, field(5, field(6, deep)))
    with pytest.raises(BundleError, match="nested too deep"):
        external_files(field(7, deep))


def field(number: int, content: bytes) -> bytes:
    def varint(value: int) -> bytes:
        out = bytearray()
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes([*out, value])

    return varint(number << 3 | 2) + varint(len(content)) + content


def try_to_read(data: bytes) -> None:
    with contextlib.suppress(BundleError):
        external_files(data)


def rewritten(root: Path, change: Callable[[onnx.ModelProto], None], graph: str = "affine") -> None:
    """Change a graph of a bundle, and bundle.json with it: a bundle that is whole and hostile."""
    path = root / f"{graph}.onnx"
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    manifest = json.loads((root / "bundle.json").read_text())
    manifest["files"][path.name] = {"sha256": sha256_file(path), "size": path.stat().st_size}
    (root / "bundle.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("location", ["../secret.bin", "{root}/../secret.bin", "link.bin", "unlisted.bin"])
def test_an_escape_is_refused_before_onnx_runtime_sees_it(location: str, tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    build_toy_bundle(root)
    (tmp_path / "secret.bin").write_bytes(b"\0" * 4096)
    (root / "unlisted.bin").write_bytes(b"\0" * 4096)
    (root / "link.bin").symlink_to(tmp_path / "secret.bin")

    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(outside(location.format(root=root), "spy"))

    rewritten(root, change)
    sessions = Sessions(load_bundle(root), threads=1)
    with pytest.raises(BundleError, match=r"graphs\.affine\.file: got weights in .*does not name"):
        sessions.run("affine", w_plus=np.zeros((1, NUM_WS, W_DIM), np.float32))


# --- what was verified is what runs -----------------------------------------------------------------------


def run_affine(sessions: Sessions) -> Any:
    return sessions.run("affine", w_plus=np.zeros((1, NUM_WS, W_DIM), np.float32))


def test_a_graph_that_was_swapped_after_the_bundle_was_verified_is_not_run(tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    build_toy_bundle(root)
    sessions = Sessions(load_bundle(root), threads=1)
    path, data = root / "affine.onnx", (root / "affine.onnx").read_bytes()
    path.write_bytes((root / "mapping.onnx").read_bytes())
    with pytest.raises(BundleError, match=r"affine\.onnx: got other content than bundle\.json knows"):
        run_affine(sessions)
    path.write_bytes(data)
    run_affine(sessions)  # the same content under another stamp
    path.write_bytes(b"")
    run_affine(sessions)  # it is loaded by now


def weighted(root: Path) -> None:
    """A bundle whose graph affine has its weights in a file."""
    build_toy_bundle(root)
    model = onnx.load(root / "affine.onnx")
    onnx.save(model, root / "affine.onnx", save_as_external_data=True, location="affine.bin", size_threshold=256)
    manifest = json.loads((root / "bundle.json").read_text())
    for name in ("affine.onnx", "affine.bin"):
        manifest["files"][name] = {"sha256": sha256_file(root / name), "size": (root / name).stat().st_size}
    manifest["graphs"]["affine"]["data"] = ["affine.bin"]
    (root / "bundle.json").write_text(json.dumps(manifest))


def test_weights_that_change_before_or_while_they_are_used_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    weighted(root)
    data = (root / "affine.bin").read_bytes()
    sessions = Sessions(load_bundle(root), threads=1)
    (root / "affine.bin").write_bytes(data[:-4] + b"\1\2\3\4")
    with pytest.raises(BundleError, match=r"affine\.bin: got content with sha256"):
        run_affine(sessions)
    (root / "affine.bin").write_bytes(data)
    expected = run_affine(sessions)["style_channels"]
    fresh = root / "fresh.bin"
    fresh.write_bytes(b"other")
    fresh.replace(root / "affine.bin")  # a new file under the name: the old one is still there for those who have it
    np.testing.assert_array_equal(run_affine(sessions)["style_channels"], expected)


def test_weights_cut_short_while_they_are_mapped_end_with_a_sentence(tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    weighted(root)
    sessions = Sessions(load_bundle(root), threads=1)
    run_affine(sessions)
    with (root / "affine.bin").open("r+b") as stream:
        stream.truncate(8)
    with pytest.raises(BundleError, match=r"affine\.bin: got a file that was written to while it is in use"):
        run_affine(sessions)
    sessions.close()


def test_telemetry_of_onnx_runtime_is_off(tmp_path: Path) -> None:
    code = ("import os; os.environ.pop('ORT_DISABLE_TELEMETRY', None)\n"
            "from limner.runtime.graphs.providers import import_onnxruntime as load; load()\n"
            "print(os.environ['ORT_DISABLE_TELEMETRY'])")  # fmt: skip
    home = os.environ | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=home, check=True)
    assert ran.stdout.strip() == "1"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# --- JSON -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"a": 1, "a": 2}', "the key 'a' twice"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 50_000, "nested too deep"),
        (b"[1" + b"0" * 5000 + b"]", "a number of 5001 digits"),
        (b"[-" + b"9" * 41 + b"]", "a number of 42 digits"),
        (b"[1" + b"0" * 400 + b".0]", "the number 1000"),
        (b"[1e999]", "the number 1e999"),
        (b"[NaN]", "the number NaN"),
        (b"[-Infinity]", "the number -Infinity"),
        (b'["\\ud800"]', "half of a character"),
        (b'{"\\udc00": 1}', "half of a character"),
        (b"\xff\xfe[\x00]\x00", "not UTF-8 at byte 0"),
        (b"", "not JSON"),
        (b"\x00", "not JSON"),
    ],
)
def test_json_that_is_refused_in_one_sentence(text: bytes, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_json(text, "recipe")
    assert words in str(caught.value) and len(str(caught.value)) < 300


def test_many_keys_take_time_in_proportion() -> None:
    text = "{" + ",".join(f'"{n}": 1' for n in range(200_000)) + ',"7": 2}'
    done = threading.Event()

    def parse() -> None:
        with pytest.raises(InputError, match="the key '7' twice"):
            parse_json(text, "recipe")
        done.set()

    threading.Thread(target=parse, daemon=True).start()
    assert done.wait(60)  # quadratic: hours


def test_halves_that_make_a_character_are_read() -> None:
    assert parse_json(b'["\\ud83d\\ude00"]', "recipe") == ["\U0001f600"]


# --- arrays -----------------------------------------------------------------------------------------------


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}", b"\0" * 16),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}", b"\0" * 16),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4,)}", b"\0" * 17),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4,)}", b"\0" * 12),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"\0" * 8),
        npy("{'descr': '|V0', 'fortran_order': False, 'shape': (1000000000,)}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9" + "9" * 4500 + ",)}"),
        npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", b"\0" * 4),
        npy("(" * 2000),
        npy("__import__('os').system('true')"),
        b"\x93NUMPY\x09\x00" + b"\0" * 100,
    ],
)
def test_arrays_that_are_refused(data: bytes) -> None:
    with pytest.raises(InputError, match=r"^source\.path: got a \.?(npy )?file"):
        read_array(data, "source.path")


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_read_as_numpy_reads_them(order: Any) -> None:
    for array in (np.arange(12, dtype=np.float32).reshape(3, 4), np.float64(3.5), np.zeros((0, 3), np.int8)):
        stream = io.BytesIO()
        np.save(stream, np.asarray(array, order=order))
        np.testing.assert_array_equal(read_array(stream.getvalue(), "x"), array)


# --- pipes, devices, names --------------------------------------------------------------------------------


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe.json"
    os.mkfifo(path)
    return path


def test_pipes_devices_and_folders_are_not_opened(pipe: Path, tmp_path: Path) -> None:
    for path in (pipe, Path("/dev/zero"), Path("/dev/stdin")):
        with pytest.raises(InputError, match=r"which is no plain file|no file at"):
            read_plain(path, "recipe", 1000)
    with pytest.raises(InputError, match="the folder"):
        read_plain(tmp_path, "recipe", 1000)
    (tmp_path / "large").write_bytes(b"\0" * 1001)
    with pytest.raises(InputError, match="of 1001 bytes; allowed: at most 1000 bytes"):
        read_plain(tmp_path / "large", "recipe", 1000)
    with pytest.raises(BundleError, match="no file at"):
        read_plain(tmp_path / "none", "x", 1000, error=BundleError)
    with pytest.raises(InputError):
        read_json(pipe, "recipe")


ODD = ["~nosuchuser/a.png", "a" * 300 + ".png", "a\udcff.png", "/dev/zero", "/proc/kmsg", "/dev/full", ""]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize(
    "where", ["source", "npy", "landmarks", "recipe", "bundle", "edits", "invert", "align", "output"]
)
def test_odd_names_give_one_sentence(
    name: str, where: str, limner: Callable[..., Any], toy_folder: Path, portrait: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    text = "a person with a beard"
    arguments: dict[str, tuple[object, ...]] = {
        "source": ("edit", name, text),
        "npy": ("edit", name.replace(".png", "") + ".npy", text),
        "landmarks": ("edit", portrait, text, "--landmarks", name),
        "recipe": ("replay", name.replace(".png", "") + ".json"),
        "bundle": ("edit", "seed:1", text, "--bundle", name),
        "edits": ("demo", "--edits", name),
        "invert": ("invert", name),
        "align": ("align", name, "--landmarks", name),
        "output": ("edit", "seed:1", text, "-o", name),
    }
    if where == "output" and name in ("a\udcff.png",):
        pytest.skip("a name that can be written")
    ran = limner(*arguments[where], *(() if where in ("bundle", "edits") else ("--bundle", toy_folder)))
    errors = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert ran.code == 2 and len(errors) == 1 and "unexpected" not in ran.err, ran.err
    assert "Traceback" not in ran.err and len(errors[0]) < 600


def test_texts_that_are_no_text(limner: Callable[..., Any], toy_folder: Path) -> None:
    ran = limner("edit", "seed:1", "a \udcff beard", "--bundle", toy_folder)
    assert ran.code == 2 and "which is no UTF-8 from character 3 on" in ran.err
    with pytest.raises(InputError, match=r"source\.path"):
        Source.from_image("a\udcff.png")


def test_threads_have_a_limit(limner: Callable[..., Any], toy_folder: Path) -> None:
    ran = limner("edit", "seed:1", "a beard", "--threads", "100000", "--bundle", toy_folder)
    assert ran.code == 2 and "threads: got 100000; allowed: a whole number from 1 to " in ran.err


def test_latents_from_a_file_still_edit(toy_folder: Path, tmp_path: Path) -> None:
    editor = Editor(toy_folder, threads=1)
    np.save(tmp_path / "w.npy", editor.sample(3).w_plus[0])
    prompt = (PromptEdit("a person with a beard"),)
    one = editor.edit(Recipe("global-directions", Source.from_w_plus(tmp_path / "w.npy"), prompt))
    other = editor.edit(Recipe("global-directions", Source.from_seed(3), prompt))
    np.testing.assert_array_equal(one.image, other.image)


# --- streams ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("redirection", "code"),
    [(">&-", 0), ("2>&-", 0), ("<&-", 0), (">&- 2>&-", 0), (">/dev/full", 1), ("2>/dev/full", 0), ("| true", None)],
)
def test_closed_and_full_streams(redirection: str, code: int | None, toy_folder: Path, tmp_path: Path) -> None:
    words = f'edit seed:1 "a beard" -o out.png --bundle "{toy_folder}" {redirection}'
    command = f'"{sys.executable}" -m limner.runtime {words}'
    ran = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert code is None or ran.returncode == code, ran
    assert "Traceback" not in ran.stderr and "unexpected" not in ran.stderr
    assert (tmp_path / "out.png").is_file() and ran.stdout in ("", "out.png\n")
    if redirection == ">/dev/full":
        assert ran.stderr.splitlines()[-1] == "error: No space left on device"
