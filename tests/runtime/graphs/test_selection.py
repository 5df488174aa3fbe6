"""An engine of another GPU, version or graph, or one that was altered, is named and never loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tensorrt_twin import FakeTrt, HostDevice, plan

from limner.runtime.bundle.loading import Bundle, load_bundle, write_manifest
from limner.runtime.errors import BundleError, InputError, ProviderError
from limner.runtime.graphs.backends import backends
from limner.runtime.graphs.driver import Driver, Gpu
from limner.runtime.graphs.selection import Here, check_sizes, select_engine, survey, why_stale
from limner.runtime.graphs.tensorrt import EngineSession, read_plan

AddEngine = Callable[..., Bundle]
NO_GPU = Driver(None, reason="there is no NVIDIA driver")


def test_engines_do_not_change_what_a_bundle_is(bundle_folder: Path, add_engine: AddEngine) -> None:
    before = load_bundle(bundle_folder).digest
    after = add_engine()
    assert after.digest == before
    assert [engine.graph for engine in after.manifest.engines] == ["pair"]


def test_the_engine_for_this_machine(add_engine: AddEngine, here: Here) -> None:
    add_engine(targets=("sm120",))
    add_engine(precision="fp32")
    bundle = add_engine(precision="fp16")
    assert select_engine(bundle, "pair", here).precision == "fp16"
    states = list(survey(bundle, here).values())
    assert states == ["it was built for sm120, and this GPU is sm89", "usable", "usable"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"targets": ("sm75", "sm120")}, "it was built for sm75, sm120, and this GPU is sm89"),
        ({"version": "1.6.0.14"}, "it was built by tensorrt-rtx 1.6.0.14, and 1.7.1.116 is installed"),
        ({"builder": "tensorrt"}, "it needs tensorrt 1.7.1.116, which is not installed"),
        ({"source": "0" * 64}, "it was built from another 'pair' than the bundle has now"),
    ],
)
def test_foreign_and_stale_engines(add_engine: AddEngine, here: Here, changes: dict[str, Any], words: str) -> None:
    bundle = add_engine(**changes)
    with pytest.raises(ProviderError) as caught:
        EngineSession(bundle, "pair", here=here, device=HostDevice(), trt=FakeTrt(HostDevice()))
    assert words in str(caught.value)
    assert "engines/pair0.engine" in str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_an_engine_goes_stale_when_its_graph_changes(bundle_folder: Path, add_engine: AddEngine, here: Here) -> None:
    bundle = add_engine()
    assert why_stale(bundle, bundle.manifest.engines[0]) is None
    (bundle_folder / "pair.onnx").write_bytes((bundle_folder / "pair.onnx").read_bytes() + b"\x00\x00")
    changed = write_manifest(bundle_folder, bundle.manifest)
    with pytest.raises(ProviderError, match="another 'pair' than the bundle has now"):
        select_engine(changed, "pair", here)


def test_no_engine_and_no_gpu(bundle_folder: Path, add_engine: AddEngine, here: Here) -> None:
    with pytest.raises(ProviderError, match=r"no engine for the graph 'pair'.*limner export tensorrt"):
        select_engine(load_bundle(bundle_folder), "pair", here)
    with pytest.raises(ProviderError, match="there is no NVIDIA driver"):
        select_engine(add_engine(), "pair", Here(None, here.versions, "there is no NVIDIA driver"))


def test_a_byte_flipped_in_any_file_is_refused(bundle_folder: Path, add_engine: AddEngine) -> None:
    bundle = add_engine()
    for name in [*bundle.manifest.files, "bundle.json"]:
        path = bundle_folder / name
        content = path.read_bytes()
        for place in (0, len(content) // 2, len(content) - 1):
            altered = bytearray(content)
            altered[place] ^= 1
            path.write_bytes(altered)
            if name == "bundle.json":
                _refused_or_another_bundle(bundle_folder, bundle.digest)
            else:
                with pytest.raises(BundleError, match=name):
                    load_bundle(bundle_folder)
        path.write_bytes(content)
    assert load_bundle(bundle_folder).digest == bundle.digest


def _refused_or_another_bundle(folder: Path, digest: str) -> None:
    """bundle.json cannot hold its own hash: an altered one is refused or is another bundle by its digest."""
    try:
        loaded = load_bundle(folder)
    except BundleError:
        return
    assert loaded.digest != digest


def test_an_engine_altered_after_loading_is_refused(bundle_folder: Path, add_engine: AddEngine, here: Here) -> None:
    bundle = add_engine()
    path = bundle_folder / "engines/pair0.engine"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match=r"engines/pair0.engine: got other content than bundle.json knows"):
        EngineSession(bundle, "pair", here=here, device=HostDevice(), trt=FakeTrt(HostDevice()))
    path.unlink()
    with pytest.raises(BundleError, match=r"engines/pair0.engine: got No such file"):
        read_plan(bundle, bundle.manifest.engines[0])


def test_a_header_that_contradicts_bundle_json(bundle_folder: Path, add_engine: AddEngine) -> None:
    model = (bundle_folder / "pair.onnx").read_bytes()
    bundle = add_engine(plan(model, (1, 6, 0, 14)))
    with pytest.raises(ProviderError, match=r"whose header says version 1.6.0.14; allowed: 1.7.1.116"):
        read_plan(bundle, bundle.manifest.engines[0])
    bundle = add_engine(b"PK" + bytes(100))
    with pytest.raises(ProviderError, match="which is no engine of tensorrt-rtx"):
        read_plan(bundle, bundle.manifest.engines[1])


def test_an_engine_of_another_graph(bundle_folder: Path, add_engine: AddEngine, here: Here) -> None:
    """A file that calls itself the engine of `mapping` and holds `pair`."""
    device = HostDevice()
    bundle = add_engine(plan((bundle_folder / "pair.onnx").read_bytes()), graph="mapping")
    with pytest.raises(BundleError, match=r"engines.mapping: got engines/mapping0.engine with a, b, root, sum"):
        EngineSession(bundle, "mapping", here=here, device=device, trt=FakeTrt(device))


def test_sizes_outside_the_profile(add_engine: AddEngine) -> None:
    bundle = add_engine()
    inputs = {name: np.zeros((5, 4), np.float32) for name in "ab"}
    with pytest.raises(InputError, match=r"pair.a: got batch = 5; allowed: 1 to 4, which engines/pair0.engine"):
        check_sizes(bundle.manifest.engines[0], bundle.graph("pair"), inputs)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"graph": "encoder", "source": "0"}, "engines[0].graph: got 'encoder'; allowed: mapping, pair"),
        ({"targets": ("ada",)}, "engines[0].targets: got ['ada']"),
        ({"targets": ()}, "engines[0].targets: got []"),
        ({"sizes": {"batch": (4, 1, 1)}}, "engines[0].sizes.batch: got [4, 1, 1]"),
        ({"builder": "trtexec"}, "engines[0].builder: got 'trtexec'"),
    ],
)
def test_broken_entries(bundle_folder: Path, add_engine: AddEngine, changes: dict[str, Any], words: str) -> None:
    graph = changes.pop("graph", None)
    if graph is not None:
        add_engine()
        text = (bundle_folder / "bundle.json").read_text()
        (bundle_folder / "bundle.json").write_text(text.replace('"graph": "pair"', f'"graph": "{graph}"'))
    with pytest.raises(BundleError) as caught:
        add_engine(**changes) if graph is None else load_bundle(bundle_folder)
    assert words in str(caught.value)


def test_back_ends_say_why_not() -> None:
    found = {backend.name: backend for backend in backends(NO_GPU)}
    assert found["cpu"].usable
    assert not found["engine"].usable
    assert not found["tensorrt"].usable
    assert all(backend.reason for backend in found.values() if not backend.usable)
    gpu = Driver("13.0", (Gpu("a GPU", "sm89", 1 << 34),))
    engine = {backend.name: backend for backend in backends(gpu)}["engine"]
    assert engine.usable == (engine.reason == "")
