"""Many edits on one bundle: whose call is next, what goes together, and what stays with its owner."""

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.toy_diffusion import build_toy_diffusion_bundle

from limner.runtime import Editor, PromptEdit, Recipe, Source
from limner.runtime.bundle.loading import Bundle, load_bundle
from limner.runtime.bundle.shipped import checkpoints_folder
from limner.runtime.errors import GraphError, InputError, NonFiniteError, StoppedError
from limner.runtime.graphs.calibration import calibrate, usual_inputs
from limner.runtime.graphs.joined import joinable, joined_inputs, own_outputs
from limner.runtime.graphs.reserve import Reserve
from limner.runtime.graphs.scheduling import JoinLimit, ScheduledSessions
from limner.runtime.graphs.tickets import Ticket

MANY = JoinLimit(16, 1 << 30)
FACE = Source.from_prompt("a portrait of a woman with long hair", 1)
RED = PromptEdit("a portrait of a woman with long red hair", options={"blend": ["hair"]})


def toy(root: Path) -> Bundle:
    return build_toy_diffusion_bundle(root / "toy")


def unet_inputs(rows: int, seed: int, words: int = 1, side: int = 8) -> dict[str, Any]:
    random = np.random.RandomState(seed)
    moved = np.zeros((rows, 77, 77), np.float32)
    moved[-1] = random.rand(77, 77) / 77
    return {
        "sample": random.randn(rows, 4, side, side).astype(np.float32),
        "timestep": np.full(rows, random.randint(1000), np.float32),
        "encoder_hidden_states": random.randn(rows, 77, 6).astype(np.float32),
        "source_index": random.randint(0, rows, rows),
        "token_transfer": moved,
        "token_keep": random.rand(rows, 77).astype(np.float32),
        "self_replace": random.randint(0, 2, rows).astype(np.float32),
        "blend_words": random.rand(rows, words, 77).astype(np.float32),
    }


def together(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each gives, or its exception, all at the same time."""
    found: list[Any] = [None] * len(jobs)

    def one(number: int) -> None:
        try:
            found[number] = jobs[number]()
        except BaseException as reason:
            found[number] = reason

    threads = [threading.Thread(target=one, args=(k,)) for k in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


class Slow(ScheduledSessions):
    """Sessions whose calls take a time, and say what they were given."""

    def __init__(self, bundle: Bundle, seconds: float, **more: Any) -> None:
        self.pause, self.ran = seconds, list[tuple[str, int]]()
        super().__init__(bundle, **more)

    def once(self, graph: str, wanted: Sequence[str], inputs: Mapping[str, Any]) -> dict[str, Any]:
        self.ran.append((graph, len(next(iter(inputs.values())))))
        time.sleep(self.pause)
        return super().once(graph, wanted, inputs)


def test_joined_rows_are_those_of_calls_alone(tmp_path: Path) -> None:
    sessions = ScheduledSessions(toy(tmp_path), threads=1)
    meta = sessions.bundle.graph("unet")
    calls = [unet_inputs(2, 0), unet_inputs(3, 1, words=3), unet_inputs(1, 2, words=2)]
    fits = [joinable("unet", meta, call) for call in calls]
    assert len({one.key for one in fits}) == 1 and [one.rows for one in fits] == [2, 3, 1]
    outputs = sessions.once("unet", ["noise_pred", "blend_maps"], joined_inputs(meta, calls, [2, 3, 1]))
    for call, first in zip(calls, (0, 2, 5), strict=True):
        rows = len(call["sample"])
        own = own_outputs(meta, outputs, call, ["noise_pred", "blend_maps"], first, rows)
        alone = sessions.run("unet", only=None, **call)
        for name, array in alone.items():
            np.testing.assert_allclose(own[name], array, atol=1e-6)
            assert own[name].shape == array.shape and own[name].base is None


@pytest.mark.parametrize("number", [-1, 2, 7])
def test_a_row_that_points_outside_its_call_is_joined_with_none(tmp_path: Path, number: int) -> None:
    meta = toy(tmp_path).graph("unet")
    call = unet_inputs(2, 0) | {"source_index": np.array([0, number])}
    assert joinable("unet", meta, call).key is None
    other = unet_inputs(2, 0, side=12)
    assert joinable("unet", meta, other).key != joinable("unet", meta, unet_inputs(2, 0)).key


def test_waiting_calls_go_together_within_the_limits(tmp_path: Path) -> None:
    sessions = Slow(toy(tmp_path), 0.1, threads=1, join={"unet": JoinLimit(5, 1 << 30)})
    sessions.warm("unet")
    here = threading.Barrier(6)

    def call(seed: int) -> Any:
        with sessions.edit():
            here.wait(10)
            return sessions.run("unet", **unet_inputs(2, seed))["noise_pred"]

    found = together([lambda k=k: call(k) for k in range(6)])  # type: ignore[misc]
    assert sorted(rows for _, rows in sessions.ran) == [4, 4, 4]
    plain = ScheduledSessions(sessions.bundle, threads=1)
    for k, output in enumerate(found):
        np.testing.assert_allclose(output, plain.run("unet", **unet_inputs(2, k))["noise_pred"], atol=1e-6)
    sessions.ran.clear()
    sessions.join["unet"] = JoinLimit(16, 4 * 64)  # a picture's latents have 256 numbers
    together([lambda k=k: call(k) for k in range(6)])  # type: ignore[misc]
    assert [rows for _, rows in sessions.ran] == [2] * 6


def test_what_fails_stays_with_its_owner(tmp_path: Path) -> None:
    sessions = Slow(toy(tmp_path), 0.05, threads=1, join={"unet": MANY})
    sessions.warm("unet")
    bad = unet_inputs(2, 5) | {"sample": np.full((2, 4, 8, 8), np.nan, np.float32)}
    wrong = unet_inputs(2, 6) | {"sample": np.zeros((2, 4, 6, 6), np.float32)}  # 6 is no multiple of 4

    def call(inputs: dict[str, Any]) -> Any:
        with sessions.edit():
            return sessions.run("unet", **inputs)["noise_pred"]

    jobs = [unet_inputs(2, 0), bad, wrong, unet_inputs(2, 1)]
    found = together([lambda one=one: call(one) for one in jobs])  # type: ignore[misc]
    assert isinstance(found[1], NonFiniteError) and isinstance(found[2], GraphError)
    plain = ScheduledSessions(sessions.bundle, threads=1)
    for k in (0, 3):
        np.testing.assert_allclose(found[k], plain.run("unet", **jobs[k])["noise_pred"], atol=1e-6)
    with pytest.raises(InputError, match=r"unet\.sample"):
        call(unet_inputs(2, 0) | {"sample": np.zeros((2, 3, 8, 8), np.float32)})


def test_a_joined_call_that_fails_is_run_again_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Slow(toy(tmp_path), 0.05, threads=1, join={"unet": MANY})
    sessions.warm("unet")
    once = ScheduledSessions.once

    def breaks(self: ScheduledSessions, graph: str, wanted: Sequence[str], inputs: Mapping[str, Any]) -> Any:
        if len(inputs["sample"]) > 2:
            raise GraphError("no memory for so many rows")
        return once(self, graph, wanted, inputs)

    monkeypatch.setattr(ScheduledSessions, "once", breaks)

    def call(seed: int) -> Any:
        with sessions.edit():
            return sessions.run("unet", **unet_inputs(2, seed))["noise_pred"]

    found = together([lambda k=k: call(k) for k in range(4)])  # type: ignore[misc]
    assert all(isinstance(one, np.ndarray) for one in found) and sessions.counts["unet.alone"] >= 2


def test_the_edit_that_had_least_goes_first(tmp_path: Path) -> None:
    """A short edit beside three long ones: it waits for about one call each time, not for three."""
    sessions = Slow(toy(tmp_path), 0.02, threads=1)
    sessions.warm("unet")
    took: list[float] = []
    ends = threading.Event()

    def long() -> None:
        with sessions.edit():
            while not ends.is_set():
                sessions.run("unet", **unet_inputs(1, 0))

    def short() -> None:
        time.sleep(0.2)
        for _ in range(3):
            begin = time.monotonic()
            with sessions.edit():
                for _ in range(3):
                    sessions.run("unet", **unet_inputs(1, 0))
            took.append(time.monotonic() - begin)
        ends.set()

    together([long, long, long, short])
    assert min(took) < 0.2  # first in, first out would take 3 x 4 calls: 0.24 s and more


def test_long_edits_leave_a_lane_to_short_ones(tmp_path: Path) -> None:
    """Beside four long edits a short one waits for nobody; alone again, the long ones have both lanes."""
    sessions = Slow(toy(tmp_path), 0.04, threads=1, lanes=2)
    sessions.warm("unet")
    took: list[float] = []
    runs: list[int] = []
    ends = threading.Event()

    def one(calls: int) -> None:
        with sessions.edit():
            for _ in range(calls):
                sessions.run("unet", **unet_inputs(1, 0))

    def long() -> None:
        with sessions.edit():
            while not ends.is_set():
                sessions.run("unet", **unet_inputs(1, 0))

    def short() -> None:
        time.sleep(1.0)  # the others have had more than four times as much, then
        for _ in range(5):
            begin = time.monotonic()
            one(5)
            took.append(time.monotonic() - begin)
        time.sleep(1.0)
        before = len(sessions.ran)
        time.sleep(0.8)
        runs.append(len(sessions.ran) - before)
        ends.set()

    one(2)
    together([long, long, long, long, short])
    assert statistics.median(took) < 0.3, took  # 5 calls of 0.04 s; each would wait for 0.02 s and more
    assert runs[0] > 26, runs  # of 20 on one lane, 40 on two


def test_what_is_long_hangs_on_what_ended_lately() -> None:
    reserve = Reserve(4)
    heavy, light = Ticket(had=50.0), Ticket(had=0.1)
    assert not reserve.is_long(heavy)
    reserve.ended(light)
    assert reserve.is_long(heavy) and not reserve.is_long(Ticket(had=0.4))
    assert 0.0 < (reserve.left or 0.0) < 0.4 and reserve.lanes([heavy]) == 3
    time.sleep(0.41)
    assert (reserve.left or 0.0) == 0.0 and reserve.lanes([heavy]) == 4 and reserve.lanes([heavy, Ticket()]) == 3
    for _ in range(3):
        reserve.ended(Ticket(had=40.0))
    reserve.ended(Ticket())  # one that asked nothing of any graph
    assert not reserve.is_long(heavy)
    assert Reserve(1).lanes([light]) == 1


def test_calls_go_together_when_no_lane_is_free(tmp_path: Path) -> None:
    sessions = Slow(toy(tmp_path), 0.1, threads=1, lanes=2, join={"unet": MANY})
    sessions.warm("unet")
    here = threading.Barrier(6)

    def call(seed: int) -> None:
        with sessions.edit():
            here.wait(10)
            for _ in range(3):
                sessions.run("unet", **unet_inputs(1, seed))

    together([lambda k=k: call(k) for k in range(6)])  # type: ignore[misc]
    rows = [rows for _, rows in sessions.ran]
    assert sum(rows) == 18 and max(rows) < 6, rows  # two lanes have them between them
    assert len(rows) < 12, rows


def test_an_edit_stops_between_two_calls(tmp_path: Path) -> None:
    sessions = Slow(toy(tmp_path), 0.05, threads=1)
    ticket, reached = Ticket(), threading.Event()

    def endless() -> None:
        with sessions.edit(ticket):
            while True:
                sessions.run("unet", **unet_inputs(1, 0))
                reached.set()

    def stop() -> float:
        reached.wait(10)
        begin = time.monotonic()
        sessions.stop(ticket)
        return begin

    found = together([endless, stop])
    assert isinstance(found[0], StoppedError) and found[0].reason == "cancelled"

    def late() -> None:
        with sessions.edit(Ticket.within(0.12)):
            while True:
                sessions.run("unet", **unet_inputs(1, 0))

    with pytest.raises(StoppedError, match="deadline"):
        late()
    assert sessions.waiting == 0


def test_a_waiting_call_is_given_up_at_once(tmp_path: Path) -> None:
    sessions = Slow(toy(tmp_path), 0.5, threads=1)
    sessions.warm("unet")
    ticket = Ticket()

    def first() -> None:
        with sessions.edit():
            sessions.run("unet", **unet_inputs(1, 0))

    def second() -> float:
        time.sleep(0.1)
        begin = time.monotonic()
        threading.Timer(0.05, sessions.stop, [ticket]).start()
        with pytest.raises(StoppedError), sessions.edit(ticket):
            sessions.run("unet", **unet_inputs(1, 0))
        return time.monotonic() - begin

    assert together([first, second])[1] < 0.3


def test_closed_sessions_end_what_waits(tmp_path: Path) -> None:
    sessions = Slow(toy(tmp_path), 0.2, threads=1)
    sessions.warm("unet")

    def call() -> None:
        with sessions.edit():
            sessions.run("unet", **unet_inputs(1, 0))

    def close() -> None:
        time.sleep(0.1)
        sessions.close()

    found = together([call, call, close])
    assert sorted(type(one).__name__ for one in found[:2]) == ["NoneType", "StoppedError"]
    with pytest.raises(StoppedError):
        call()


@pytest.mark.parametrize("family", ["diffusion", "bundle"])
def test_edits_beside_others_have_the_pixels_that_they_have_alone(family: str) -> None:
    """Edits of all methods at once, every graph that can be joined: the same bits, but for gradients."""
    bundle = load_bundle(checkpoints_folder() / "avatars" / family, verify_hashes=False)
    recipes = {
        "diffusion": [
            Recipe("sega", FACE, (PromptEdit("glasses"),), {"steps": 4}),
            Recipe("sega", FACE, (PromptEdit("a beard"), PromptEdit("a hat")), {"steps": 6, "cache_interval": 2}),
            Recipe("prompt-to-prompt", FACE, (RED,), {"steps": 5, "maps": True}),
            Recipe("sega", Source.from_prompt("a portrait of a man", 4), (PromptEdit("red hair"),), {"steps": 5}),
        ],
        "bundle": [
            Recipe("global-directions", Source.from_seed(3), (PromptEdit("a person with a beard"),)),
            Recipe("global-directions", Source.from_seed(4), (PromptEdit("a person with glasses"),)),
            Recipe("latent-mapper", Source.from_seed(5), (PromptEdit("beard"),)),
            Recipe("latent-mapper", Source.from_seed(6), (PromptEdit("smiling"),)),
        ],
    }[family]
    alone = [Editor(bundle, threads=1).edit(recipe) for recipe in recipes]
    sessions = ScheduledSessions(bundle, threads=1, lanes=2, join=dict.fromkeys(bundle.manifest.graphs, MANY))
    editor = Editor(bundle, sessions=sessions)

    def edit(recipe: Recipe) -> Any:
        with sessions.edit():
            return editor.edit(recipe)

    found = together([lambda one=one: edit(one) for one in recipes])  # type: ignore[misc]
    for one, made in zip(alone, found, strict=True):
        assert made.image.tobytes() == one.image.tobytes(), one.recipe.method
        assert made.recipe == one.recipe and set(made.pictures) == set(one.pictures)
    runs = sum(count for name, count in sessions.counts.items() if name.endswith(".runs"))
    calls = sum(count for name, count in sessions.counts.items() if name.endswith(".calls"))
    assert calls > runs, sessions.counts
    sessions.close()


def test_many_threads_load_each_graph_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = ScheduledSessions(toy(tmp_path), threads=1)
    load, loaded = ScheduledSessions._load, list[str]()

    def counted(self: ScheduledSessions, name: str, meta: Any) -> Any:
        loaded.append(name)
        time.sleep(0.05)
        return load(self, name, meta)

    monkeypatch.setattr(ScheduledSessions, "_load", counted)
    together([lambda name=name: sessions.warm(name) for name in ("unet", "vae_decoder") * 6])  # type: ignore[misc]
    assert sorted(loaded) == ["unet", "vae_decoder"]


def test_calibration_says_which_graphs_pay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = ScheduledSessions(toy(tmp_path), threads=1)
    meta = sessions.bundle.graph("unet")
    given = usual_inputs(meta, {}, 3)
    assert {name: array.shape[0] for name, array in given.items()} == dict.fromkeys(given, 3)
    seconds = {"unet": (0.010, 0.012), "vae_decoder": (0.010, 0.020), "text_encoder": (0.6, 0.7)}

    def timed(sessions: Any, name: str, wanted: Any, inputs: dict[str, Any]) -> float:
        few = len(next(iter(inputs.values()))) <= {"unet": 4}.get(name, 1)
        return seconds[name][0 if few else 1]

    monkeypatch.setattr("limner.runtime.graphs.calibration._seconds", timed)
    found = calibrate(sessions, ("unet", "vae_decoder", "text_encoder"))
    assert set(found) == {"unet"} and found["unet"].rows == 16
