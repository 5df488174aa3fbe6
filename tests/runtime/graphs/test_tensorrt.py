"""An engine's session moves arrays and replays recorded work; the GPU and TensorRT are twins in host memory."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.tensorrt_twin import FakeTrt, HostDevice, plan

from limner.runtime.bundle.loading import Bundle
from limner.runtime.errors import GraphError, InputError
from limner.runtime.graphs import providers, sessions
from limner.runtime.graphs import tensorrt as engine_session
from limner.runtime.graphs.driver import Driver, Gpu
from limner.runtime.graphs.provider_options import profile_texts, rtx_options, tensorrt_options
from limner.runtime.graphs.selection import Here
from limner.runtime.graphs.tensorrt import EngineSession
from limner.runtime.storage.caches import cache_folder

AddEngine = Callable[..., Bundle]


def pair(batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.RandomState(seed)
    return {name: random.rand(batch, 4).astype(np.float32) for name in "ab"}


def check(session: EngineSession, feed: dict[str, np.ndarray]) -> None:
    root, total = session.run(["root", "sum"], feed)
    np.testing.assert_allclose(root, np.sqrt(feed["a"]), rtol=1e-6)
    np.testing.assert_allclose(total, feed["a"] + feed["b"], rtol=1e-6)


def test_results_and_batches(add_engine: AddEngine, here: Here) -> None:
    device = HostDevice()
    session = EngineSession(add_engine(), "pair", here=here, device=device, trt=FakeTrt(device))
    for seed, batch in enumerate((1, 3, 2, 4, 1)):
        check(session, pair(batch, seed))
    assert list(session.run(["sum"], pair(2))[0].shape) == [2, 4]
    assert device.graphs == {}  # TensorRT for RTX records them itself
    session.close()
    assert device.memory == {}


def test_recorded_work_is_replayed_and_dropped_when_memory_moves(add_engine: AddEngine) -> None:
    device = HostDevice()
    bundle = add_engine(builder="tensorrt", version="11.0.0")
    here = Here("sm89", {"tensorrt": "11.0.0"})
    session = EngineSession(bundle, "pair", here=here, device=device, trt=FakeTrt(device))
    for seed in range(4):
        check(session, pair(2, seed))
    assert (len(device.graphs), device.launches) == (1, 3)
    check(session, pair(1))  # fits into the same memory: the record of batch 2 stays good
    check(session, pair(2, 5))
    assert (len(device.graphs), device.launches) == (1, 4)
    check(session, pair(4))  # larger: memory moves
    assert device.freed
    assert device.graphs == {}
    for seed in range(3):
        check(session, pair(2, seed))
    session.close()
    assert device.graphs == {}
    assert device.memory == {}


def test_kernels_are_kept_for_the_next_start(add_engine: AddEngine, here: Here) -> None:
    device, bundle = HostDevice(), add_engine()
    first = EngineSession(bundle, "pair", here=here, device=device, trt=FakeTrt(device))
    check(first, pair(1))
    (kept,) = (cache_folder() / "kernels").iterdir()
    assert kept.read_bytes() == b"kernels"
    second = EngineSession(bundle, "pair", here=here, device=device, trt=FakeTrt(device))
    assert second._engine.configs[0].data == b"kernels"
    assert second._engine.configs[0].cuda_graph_strategy == "whole"


def test_sessions_run_engines_by_name(
    bundle_folder: Path, add_engine: AddEngine, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = HostDevice()
    monkeypatch.setattr(providers, "probe_driver", lambda: Driver("13.0", (Gpu("a GPU", "sm89", 1),)))
    monkeypatch.setattr(providers, "this_machine", lambda: here)
    monkeypatch.setattr(engine_session, "this_machine", lambda: here)
    monkeypatch.setattr(engine_session, "shared_device", lambda: device)
    monkeypatch.setattr(engine_session, "_import", lambda meta: FakeTrt(device))
    warm = sessions.Sessions(add_engine(), "engine")
    feed = pair(2)
    np.testing.assert_allclose(warm.run("pair", only=None, **feed)["sum"], feed["a"] + feed["b"], rtol=1e-6)
    with pytest.raises(InputError, match="batch = 5; allowed: 1 to 4"):
        warm.run("pair", only=None, **pair(5))
    with pytest.raises(GraphError, match="NaN or infinity in root"):
        warm.run("pair", a=-feed["a"], b=feed["b"])
    warm.close()
    assert device.memory == {}
    assert "engine" in providers.available_providers()


def test_caches_and_profiles_of_the_providers(add_engine: AddEngine) -> None:
    bundle = add_engine()
    assert profile_texts(bundle, "pair") == {"min": "a:1x4,b:1x4", "opt": "a:1x4,b:1x4", "max": "a:8x4,b:8x4"}
    options = tensorrt_options(bundle, "pair", "1.32.0")
    assert options["trt_profile_max_shapes"] == "a:8x4,b:8x4"
    assert Path(options["trt_engine_cache_path"]).is_dir()
    others = {
        tensorrt_options(bundle, "pair", "1.33.0")["trt_engine_cache_path"],
        tensorrt_options(bundle, "mapping", "1.32.0")["trt_engine_cache_path"],
        rtx_options(bundle, "pair", "1.32.0")["nv_runtime_cache_path"],
        options["trt_engine_cache_path"],
    }
    assert len(others) == 4


def test_plan_of_nothing(add_engine: AddEngine, here: Here) -> None:
    device = HostDevice()
    with pytest.raises(Exception, match="which tensorrt-rtx does not load"):
        EngineSession(add_engine(plan(b"")), "pair", here=here, device=device, trt=FakeTrt(device))
