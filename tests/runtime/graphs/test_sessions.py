"""Sessions feed checked arrays to a bundle's graphs, and never on another provider than the one asked for."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import limner.runtime.graphs.providers as providers
from limner.runtime.bundle.loading import Bundle, load_bundle, parse_manifest, write_manifest
from limner.runtime.errors import BundleError, GraphError, InputError, MissingGraphError, ProviderError
from limner.runtime.graphs.sessions import Sessions

Z = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)


@pytest.fixture
def bundle(bundle_folder: Path) -> Bundle:
    return load_bundle(bundle_folder)


def test_runs_with_external_weights_and_any_batch(bundle: Bundle, mapping_weight: np.ndarray) -> None:
    sessions = Sessions(bundle, "cpu", threads=1)
    for batch in (1, 2, 5):
        z = np.resize(Z, (batch, 4))
        np.testing.assert_allclose(sessions.run("mapping", z=z)["w"], z @ mapping_weight, rtol=1e-5)
    assert set(sessions.load_ms) == {"mapping"}
    assert "pair" in sessions
    assert "encoder" not in sessions


def test_warm_loads_all_or_the_named(bundle: Bundle) -> None:
    sessions = Sessions(bundle)
    assert set(sessions.warm("pair")) == {"pair"}
    assert set(sessions.warm()) == {"mapping", "pair"}
    sessions.close()
    assert sessions.run("mapping", z=Z)["w"].shape == (2, 4)


def test_only_the_outputs_asked_for(bundle: Bundle) -> None:
    sessions = Sessions(bundle)
    assert set(sessions.run("pair", a=abs(Z), b=Z, only=["sum"])) == {"sum"}
    with pytest.raises(InputError, match="root, sum"):
        sessions.run("pair", a=abs(Z), b=Z, only=["total"])


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "mapping.z: got nothing; allowed: float32 [batch, 4]"),
        ({"z": Z, "y": Z}, "mapping.y: got an unknown input; allowed: z"),
        ({"z": Z.astype(np.float64)}, "mapping.z: got float64 [2, 4]; allowed: float32 [batch, 4]"),
        ({"z": Z[0]}, "mapping.z: got float32 [4]"),
        ({"z": Z[:, :3]}, "mapping.z: got float32 [2, 3]"),
        ({"z": Z[:0]}, "mapping.z: got float32 [0, 4]"),
        ({"z": Z.tolist()}, "mapping.z: got a list; allowed: a numpy array"),
    ],
)
def test_wrong_inputs(bundle: Bundle, inputs: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(InputError) as caught:
        Sessions(bundle).run("mapping", only=None, **inputs)
    assert words in str(caught.value)


def test_one_symbol_is_one_size(bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"pair.b: got float32 \[1, 4\].* with batch = 2"):
        Sessions(bundle).run("pair", a=Z, b=Z[:1])


def test_nan_names_the_graph_and_the_cause(bundle: Bundle) -> None:
    sessions = Sessions(bundle)
    with pytest.raises(GraphError, match="graph 'pair' gave NaN or infinity in root; its inputs were finite"):
        sessions.run("pair", a=-abs(Z) - 1, b=Z)
    with pytest.raises(GraphError, match="its input b already did"):
        sessions.run("pair", a=abs(Z), b=Z * np.inf)


def test_missing_graph(bundle: Bundle) -> None:
    with pytest.raises(MissingGraphError, match=r"'encoder'.*mapping, pair"):
        Sessions(bundle).run("encoder", image=Z)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_bad_threads(bundle: Bundle, threads: int) -> None:
    with pytest.raises(InputError, match="threads"):
        Sessions(bundle, threads=threads)


def test_graph_that_is_not_what_the_manifest_says(bundle_folder: Path, save_graph: Callable[..., None]) -> None:
    manifest = parse_manifest((bundle_folder / "bundle.json").read_bytes())
    for inputs, words in (
        ({"z": 5}, "graphs.mapping.inputs.z: got tensor"),
        ({"y": 4}, "got y in the ONNX file"),
    ):
        node = helper.make_node("Relu", list(inputs), ["w"])
        save_graph(bundle_folder / "mapping.onnx", [node], inputs, {"w": 4}, [])
        bundle = write_manifest(bundle_folder, manifest)
        with pytest.raises(BundleError, match=words):
            Sessions(bundle).warm("mapping")
    (bundle_folder / "mapping.onnx").write_bytes(b"no graph")
    bundle = write_manifest(bundle_folder, manifest)
    with pytest.raises(BundleError, match=r"graphs.mapping.file: got a file that does not read as ONNX"):
        Sessions(bundle).warm("mapping")


def test_weights_outside_the_bundle_are_refused(bundle_folder: Path) -> None:
    path = bundle_folder / "mapping.onnx"
    model, inside, outside = (
        path.read_bytes(),
        b"weights.bin",
        b"../weight.b",
    )  # of one length: a valid file stays
    assert model.count(inside) == 1
    path.write_bytes(model.replace(inside, outside))
    (bundle_folder.parent / "weight.b").write_bytes((bundle_folder / "weights.bin").read_bytes())
    manifest = parse_manifest((bundle_folder / "bundle.json").read_bytes())
    with pytest.raises(BundleError, match=r"graphs.mapping.file: got weights in .*weight.b.*does not name"):
        Sessions(write_manifest(bundle_folder, manifest)).warm("mapping")


def test_unknown_and_unavailable_providers(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "available_providers", lambda: ("cpu",))
    with pytest.raises(ProviderError, match=r"'cdua'.*cpu .available here.*did you mean 'cuda'"):
        Sessions(bundle, "cdua")
    with pytest.raises(ProviderError, match="'cuda', which is not available; allowed: cpu") as caught:
        Sessions(bundle, "cuda")
    assert caught.value.exit_code == 2


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_provider_that_does_not_start_is_not_replaced(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime drops a provider without an exception, as it does when CUDA's libraries are absent."""
    monkeypatch.setitem(providers.PROVIDERS, "openvino", ("OpenVINOExecutionProvider",))
    monkeypatch.setattr(providers, "available_providers", lambda: ("cpu", "openvino"))
    with pytest.raises(ProviderError, match="'openvino', which does not start"):
        Sessions(bundle, "openvino").warm("mapping")


def test_two_wheels_are_a_conflict(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.32.0"}
    monkeypatch.setattr(providers, "installed_wheels", lambda: wheels)
    monkeypatch.setattr(providers, "available_providers", lambda: ("cpu", "cuda"))
    assert "onnxruntime 1.32.0 and onnxruntime-gpu 1.32.0" in str(providers.wheel_conflict())
    with pytest.raises(ProviderError, match="share one import path"):
        Sessions(bundle, "cuda")
    assert Sessions(bundle, "cpu").run("mapping", z=Z)["w"].shape == (2, 4)


def test_available_providers_start_with_cpu() -> None:
    assert providers.available_providers()[0] == "cpu"
    assert any(name.startswith("onnxruntime") for name in providers.installed_wheels())
