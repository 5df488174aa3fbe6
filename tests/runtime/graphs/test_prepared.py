"""Graphs as an earlier load left them: the same bits, one memory for all, and what may go wrong with files."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limner.runtime.bundle.loading import Bundle, load_bundle
from limner.runtime.bundle.shipped import shipped_bundle
from limner.runtime.errors import BundleError
from limner.runtime.graphs import prepared, sessions
from limner.runtime.graphs.sessions import Sessions

Z = np.random.RandomState(0).randn(3, 4).astype(np.float32)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, in which every load is slow enough to be written down."""
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LIMNER_PREPARED", "yes")
    monkeypatch.setattr(prepared, "SLOW_S", 0.0)
    return tmp_path / "cache" / "prepared"


@pytest.fixture
def bundle(bundle_folder: Path) -> Bundle:
    return load_bundle(bundle_folder)


def test_the_numbers_are_the_same_bits(cache: Path) -> None:
    """Of what ships: first load, the load after it, and a load without."""
    shipped = load_bundle(shipped_bundle())
    given: dict[str, Any] = {
        "w_plus": np.random.RandomState(1).randn(2, shipped.generator.num_ws, 256).astype(np.float32)
    }
    given["w_plus"] = given["w_plus"][:, :, : shipped.generator.w_dim]
    found = [Sessions(shipped, threads=1).run("synthesis_w", **given)["image"] for _ in range(2)]
    os.environ["LIMNER_PREPARED"] = "no"
    plain = Sessions(shipped, threads=1).run("synthesis_w", **given)["image"]
    assert all(np.array_equal(one, plain) for one in found)
    (place,) = cache.iterdir()
    assert place.name.startswith("synthesis_w-") and {path.name for path in place.iterdir()} == {
        "graph.onnx", "graph.onnx.data"}  # fmt: skip


def test_large_graphs_of_any_size_give_their_working_memory_back(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = load_bundle(shipped_bundle("diffusion"))
    channels = shipped.diffusion.latent_channels
    ids = np.ones((2, 77), np.int64)
    latents = [np.random.RandomState(side).randn(1, channels, side, 16).astype(np.float32) for side in (16, 24)]
    plain = Sessions(shipped)
    wanted = [plain.run("vae_decoder", latents=one)["image"] for one in latents]
    monkeypatch.setattr(sessions, "LARGE", 1)
    found = Sessions(shipped)
    found.run("text_encoder", input_ids=ids)
    for one, image in zip([*latents, *latents], [*wanted, *wanted], strict=True):
        assert np.array_equal(found.run("vae_decoder", latents=one)["image"], image)
    assert set(found._large) == {"vae_decoder"}


def test_quick_loads_leave_nothing(cache: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "SLOW_S", 60.0)
    Sessions(bundle).run("mapping", z=Z)
    assert not cache.exists() or not list(cache.iterdir())


def test_another_graph_has_another_place(cache: Path, bundle: Bundle) -> None:
    places = {prepared.place_of(bundle, name, version) for name in ("mapping", "pair") for version in ("1.22", "1.23")}
    assert len(places) == 4


def test_what_was_damaged_or_cannot_be_written_is_no_matter(
    cache: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Sessions(bundle).run("mapping", z=Z)["w"]
    (place,) = cache.iterdir()
    (place / "graph.onnx").write_bytes(b"not a graph")
    assert np.array_equal(Sessions(bundle).run("mapping", z=Z)["w"], wanted)
    shutil.rmtree(cache)
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("a file in the place of the folder")
    assert np.array_equal(Sessions(bundle).run("mapping", z=Z)["w"], wanted)
    cache.unlink()
    monkeypatch.setattr(prepared, "GROWTH", 1 << 60)  # no disk has that room
    assert np.array_equal(Sessions(bundle).run("mapping", z=Z)["w"], wanted)
    assert not list(cache.iterdir())


def test_a_bundle_that_was_changed_is_refused_all_the_same(cache: Path, bundle: Bundle, bundle_folder: Path) -> None:
    Sessions(bundle).run("mapping", z=Z)
    (bundle_folder / "weights.bin").write_bytes(bytes(64))
    with pytest.raises(BundleError):
        Sessions(bundle).run("mapping", z=Z)


def test_what_was_not_used_for_long_goes(cache: Path, bundle: Bundle) -> None:
    old, fresh = cache / "unet-0", cache / "unet-1"
    for folder in (old, fresh):
        folder.mkdir(parents=True)
    os.utime(old, (0, time.time() - 40 * 24 * 3600))
    Sessions(bundle).run("mapping", z=Z)
    assert not old.exists() and fresh.exists()


SCRIPT = """
import sys
import numpy as np
from limner.runtime.graphs import prepared
from limner.runtime.bundle.loading import load_bundle
from limner.runtime.graphs.sessions import Sessions
prepared.SLOW_S = 0.0
w = Sessions(load_bundle(sys.argv[1])).run("mapping", z=np.ones((2, 4), np.float32))["w"]
print(w.tobytes().hex())
"""


def test_processes_that_start_together(cache: Path, bundle_folder: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(bundle_folder)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert all(process.returncode == 0 for process in running) and len(set(said)) == 1
    assert len(list(cache.iterdir())) == 1
