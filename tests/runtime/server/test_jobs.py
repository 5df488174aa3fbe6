"""Jobs: accepted is done, once, with the same pixels, whatever happens to the server."""

import base64
import errno
import io
import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from support.server import SHIPPED, Server, served, start_server

from limner.runtime import Editor, Recipe
from limner.runtime.errors import InputError
from limner.runtime.server.errors import Refusal, as_refusal
from limner.runtime.server.jobs.store import JobStore
from limner.runtime.server.keys import add_key

ONE = ["--bundle", str(SHIPPED / "bundle"), "--no-join", "--limit", "requests_per_minute=100000"]
ASKED = {"recipe": {}, "name": "", "compare": False, "include": [], "output_format": "png"}


def recipe(seed: int, steps: int = 12) -> dict[str, Any]:
    return {"method": "latent-optimization", "source": {"kind": "seed", "seed": seed}, "parameters": {"steps": steps},
            "prompts": [{"text": "a person with a beard"}]}  # fmt: skip


def pixels(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


def ended(client: httpx2.Client, job: str, seconds: float = 60.0) -> dict[str, Any]:
    until = time.monotonic() + seconds
    while True:
        found: dict[str, Any] = client.get(f"/v1/jobs/{job}").json()
        if found["state"] in ("succeeded", "failed", "cancelled"):
            return found
        assert time.monotonic() < until, found
        time.sleep(0.05)


def test_a_job_tells_how_far_it_is_and_gives_its_edit(server: Server) -> None:
    with server.client() as client:
        accepted = client.post("/v1/jobs", json={"recipe": recipe(3), "include": ["reconstruction"]})
        assert accepted.status_code == 202 and accepted.json()["state"] in ("queued", "running")
        job = accepted.json()["id"]
        assert accepted.headers["location"] == f"/v1/jobs/{job}"
        with client.stream("GET", f"/v1/jobs/{job}/events") as stream:
            events = [line for line in stream.iter_lines() if line]
        data = [json.loads(line[6:]) for line in events if line.startswith("data: ")]
        assert events[-2] == "event: end" and data[-1]["state"] == "succeeded" and data[-1]["step"] == 12
        found = client.get(f"/v1/jobs/{job}/result").json()
        assert job in [one["id"] for one in client.get("/v1/jobs").json()["data"]]
    wanted = Editor(SHIPPED / "bundle", threads=1).edit(Recipe.from_dict(recipe(3)), compare=False)
    assert (pixels(found["image"]) == wanted.image).all() and "reconstruction" in found and found["id"] == job


@pytest.mark.parametrize(("count", "kind"), [(0, "png"), (3, "webp")])
def test_pictures_on_the_way(server: Server, count: int, kind: str) -> None:
    with server.client() as client:
        asked = {"recipe": recipe(72 + count, 40), "partial_images": count, "output_format": kind}
        job = client.post("/v1/jobs", json=asked).json()["id"]
        assert ended(client, job)["state"] == "succeeded"
        for _ in range(2):  # whoever comes later sees them too
            with client.stream("GET", f"/v1/jobs/{job}/events") as stream:
                lines = [line for line in stream.iter_lines() if line]
            assert [line[7:] for line in lines if line.startswith("event: ")] == ["preview"] * count + ["end"]
            data = [json.loads(line[6:]) for line in lines if line.startswith("data: ")][:-1]
            assert [one["partial_image_index"] for one in data] == list(range(count))
            assert {one["output_format"] for one in data} <= {kind}
        last = pixels(client.get(f"/v1/jobs/{job}/result").json()["image"]).astype(int)
        away = [np.abs(pixels(one["b64_json"]).astype(int) - last).mean() for one in data]
        assert away == sorted(away, reverse=True) and all(0 < one < 40 for one in away)
        refused = client.post("/v1/jobs", json=asked | {"partial_images": 4})
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "partial_images"


def test_pictures_of_a_job_that_is_made_again(tmp_path: Path) -> None:
    """They take the places of those before: whoever follows sees each number once, and no more than were asked for."""
    store = JobStore(tmp_path)
    job, _ = store.accept("me", "m", ASKED | {"partial_images": 2}, "0" * 64, None, 10)
    store.show(job.id, 0, b"before")
    for number, data in enumerate((b"first", b"second")):
        store.show(job.id, number, data)
    assert store.shown(job.id, 0) == [b"first", b"second"] and store.shown(job.id, 1) == [b"second"]


def test_a_picture_is_sent_with_a_job(server: Server) -> None:
    stream = io.BytesIO()
    Image.fromarray(Editor(SHIPPED / "bundle", threads=1).sample(5).image).save(stream, "PNG")
    given = recipe(0) | {"method": "global-directions", "source": {"kind": "image"}, "parameters": {}}
    with server.client() as client:
        files = {"image": ("p.png", stream.getvalue())}
        job = client.post("/v1/jobs", data={"recipe": json.dumps(given)}, files=files).json()["id"]
        assert ended(client, job)["state"] == "succeeded"
        found = client.get(f"/v1/jobs/{job}/result").json()
    assert found["recipe"]["source"]["path"] == "p.png"


def test_the_same_key_is_the_same_job(server: Server) -> None:
    with server.client(headers={"Idempotency-Key": "once"}) as client:
        first = client.post("/v1/jobs", json={"recipe": recipe(4)})
        again = client.post("/v1/jobs", json={"recipe": recipe(4)})
        other = client.post("/v1/jobs", json={"recipe": recipe(5)})
        assert (first.status_code, again.status_code, other.status_code) == (202, 200, 409)
        assert first.json()["id"] == again.json()["id"] and other.json()["error"]["param"] == "Idempotency-Key"
        long = client.post("/v1/jobs", json={"recipe": recipe(5)}, headers={"Idempotency-Key": "x" * 300})
        assert long.status_code == 400


def test_a_job_is_cancelled(server: Server) -> None:
    with server.client() as client:
        job = client.post("/v1/jobs", json={"recipe": recipe(3, 400)}).json()["id"]
        assert client.get(f"/v1/jobs/{job}/result").status_code == 409
        time.sleep(0.5)
        client.post(f"/v1/jobs/{job}/cancel")
        assert ended(client, job, 10)["state"] == "cancelled"
        assert client.get(f"/v1/jobs/{job}/result").json()["error"]["code"] == "job_cancelled"
        assert client.post(f"/v1/jobs/{job}/cancel").json()["state"] == "cancelled"


def test_a_job_that_fails_says_why(server: Server) -> None:
    given = recipe(0) | {"method": "global-directions", "source": {"kind": "image"}, "parameters": {}}
    with server.client() as client:
        files = {"image": ("p.png", b"\x89PNG\r\n\x1a\n nothing")}
        job = client.post("/v1/jobs", data={"recipe": json.dumps(given)}, files=files).json()["id"]
        assert ended(client, job)["error"]["param"] == "image"
        found = client.get(f"/v1/jobs/{job}/result")
    assert found.status_code == 422 and "p.png" in found.json()["error"]["message"]


@pytest.mark.parametrize("way", ["", "/result", "/events", "/cancel"])
def test_jobs_that_are_not_there(server: Server, way: str) -> None:
    with server.client() as client:
        ask = client.post if way == "/cancel" else client.get
        for name in ("job-0", "..%2f..", "x" * 5000):
            assert ask(f"/v1/jobs/{name}{way}").status_code == 404


def test_jobs_are_their_keys_own(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    mine, theirs = (f"Bearer {add_key(keys, name)}" for name in ("mine", "theirs"))
    more = ["--key-file", str(keys), "--limit", "jobs=2"]
    with served(tmp_path / "work", [*ONE, *more]) as server, server.client(headers={"Authorization": mine}) as client:
        jobs = [client.post("/v1/jobs", json={"recipe": recipe(1, 400)}) for _ in range(3)]
        assert [one.status_code for one in jobs] == [202, 202, 429]
        job = jobs[0].json()["id"]
        for ask, way in ((client.get, ""), (client.get, "/result"), (client.get, "/events"), (client.post, "/cancel")):
            assert ask(f"/v1/jobs/{job}{way}", headers={"Authorization": theirs}).status_code == 404
        assert client.get("/v1/jobs", headers={"Authorization": theirs}).json()["data"] == []


def test_a_server_that_ends_leaves_its_jobs_to_the_next(tmp_path: Path) -> None:
    with served(tmp_path, ONE) as server, server.client() as client:
        job = client.post("/v1/jobs", json={"recipe": recipe(1, 40)}).json()["id"]
        waiting = client.post("/v1/jobs", json={"recipe": recipe(2, 4)}).json()["id"]
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(60)
    with served(tmp_path, ONE, ready=False) as server, server.client() as client:
        assert ended(client, job)["state"] == "succeeded" and ended(client, waiting)["state"] == "succeeded"


def test_killed_servers_lose_no_job_and_do_none_twice(tmp_path: Path) -> None:
    """Killed at random moments, with jobs accepted all along; every one is there with its pixels at the end."""
    kill_and_check(tmp_path, kills=4, seed=1)


@pytest.mark.slow
def test_ninety_kills(tmp_path: Path) -> None:
    kill_and_check(tmp_path, kills=90, seed=2)


@pytest.mark.slow
def test_forty_kills_of_two_servers_that_share_their_jobs(tmp_path: Path) -> None:
    kill_and_check(tmp_path, kills=40, seed=3, servers=2)


def test_two_servers_share_their_jobs(tmp_path: Path) -> None:
    kill_and_check(tmp_path, kills=2, seed=4, servers=2)


def kill_and_check(tmp_path: Path, kills: int, seed: int, servers: int = 1) -> None:
    rng, accepted, began = random.Random(seed), dict[str, int](), list[float]()
    others = [start_server(tmp_path, *ONE) for _ in range(servers - 1)]
    for number in range(kills):
        begin = time.monotonic()
        server = start_server(tmp_path, *ONE, ready=number % 10 == 9)
        began += [time.monotonic() - begin] if number % 10 == 9 else []
        until = time.monotonic() + rng.uniform(0.5, 3.0)
        with server.client() as client:
            while time.monotonic() < until:
                made = len(accepted)
                answer = client.post("/v1/jobs", json={"recipe": recipe(made, 3 + made % 5)},
                                     headers={"Idempotency-Key": f"job {made}"})  # fmt: skip
                if answer.status_code in (200, 202):
                    accepted[answer.json()["id"]] = made
                time.sleep(rng.uniform(0.05, 0.4))
        others.append(server)
        others.pop(rng.randrange(servers)).kill()
        assert "Traceback" not in server.log.read_text(), number
    for server in others:
        server.kill()
    print(f"{kills} kills, {len(accepted)} jobs", *(f"ready again after {one:.1f} s" for one in began), sep="; ")
    results = {path.parent.name: path.stat().st_mtime_ns for path in tmp_path.glob("jobs/*/result.json")}
    with served(tmp_path, ONE, ready=False) as server, server.client() as client:
        editor = Editor(SHIPPED / "bundle", threads=1)
        for job, made in accepted.items():
            assert ended(client, job, 120)["state"] == "succeeded"
            found = client.get(f"/v1/jobs/{job}/result").json()
            wanted = editor.edit(Recipe.from_dict(recipe(made, 3 + made % 5)), compare=False)
            assert (pixels(found["image"]) == wanted.image).all()
        assert len(client.get("/v1/jobs").json()["data"]) == min(100, len(accepted))
    for name, when in results.items():  # what was done before is not done again
        assert (tmp_path / "jobs" / name / "result.json").stat().st_mtime_ns == when


def test_a_result_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    """Between the file and the state there is a moment; a server that goes down then has done the job."""
    store = JobStore(tmp_path)
    job, _ = store.accept("me", "m", ASKED, "0" * 64, b"picture", 10)
    store.take()
    (store.place(job.id) / "result.json").write_text('{"id": 1}')
    other = JobStore(tmp_path)
    assert other.recover() == 0  # the first one lives
    store.server = "elsewhere:1:1:a"
    other.server = "here:2:2:b"
    with other._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE limner_jobs SET beat = 0")
    assert other.recover() == 1 and other.get(job.id).state == "succeeded" and other.result(job.id) == {"id": 1}


def test_two_servers_never_take_the_same_job(tmp_path: Path) -> None:
    stores = [JobStore(tmp_path) for _ in range(2)]
    names = {stores[0].accept("me", "m", ASKED, "0" * 64, None, 100)[0].id for _ in range(10)}
    taken = list[str]()
    while (job := stores[len(taken) % 2].take()) is not None:
        taken.append(job.id)
    assert sorted(taken) == sorted(names)
    first = taken[0]
    assert not stores[1].beat(first, 1, 2) and stores[0].beat(first, 1, 2)
    stores[1].end(first, None, None, "failed")
    assert stores[0].get(first).state == "running"
    stores[0].cancel(first)
    assert not stores[0].beat(first, 1, 2)


def test_old_jobs_are_forgotten(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    done, left = (store.accept("me", "m", ASKED, "0" * 64, None, 10)[0] for _ in range(2))
    store.cancel(done.id)
    assert store.forget(time.time() + 8 * 86_400) == [done.id]
    with pytest.raises(Refusal, match="no job"):
        store.get(done.id)
    assert store.get(left.id).state == "queued"


def test_a_disk_that_is_full_accepts_nothing_and_says_so(tmp_path: Path) -> None:
    """SQLite's own error where its file may not grow, and the system's where a picture does not fit."""
    store = JobStore(tmp_path)
    with store._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

    def small(connection: Any, _: Any) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    store._engine.dispose()
    event.listen(store._engine, "connect", small)
    with pytest.raises(OperationalError, match="full") as error:
        store.accept("me", "m", ASKED | {"name": "x" * 20_000}, "0" * 64, b"picture", 10)
    assert as_refusal(error.value).status == 507
    assert not list(tmp_path.glob("job-*")) and store.listed("me") == [] and store.take() is None
    room = OSError(errno.ENOSPC, "No space left on device")
    wrapped = InputError("results", "no room", "room")
    wrapped.__cause__ = room
    assert as_refusal(room).status == as_refusal(wrapped).status == 507
    assert as_refusal(OperationalError("select", {}, Exception("locked"))).status == 503
    unsigned = as_refusal(InputError("LIMNER_SIGNING_CERT", "'/etc/chain.pem', which ended", "one that is valid now"))
    assert unsigned.status == 503 and "/etc" not in unsigned.message


def test_a_database_that_cannot_be_reached(tmp_path: Path) -> None:
    for url in ("nonsense", "sqlite:////nowhere/x.sqlite", "oracle+magic://x"):
        with pytest.raises(InputError, match="database"):
            JobStore(tmp_path, url)
