"""Edits on a Ray cluster: the server of all other tests with replicas for its threads, which may go down."""

import functools
import itertools
import os
import random
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest
from support.server import SHIPPED, Server, served

from limner.runtime import Editor, PromptEdit, Recipe, Source
from limner.runtime.cli import main
from limner.runtime.client import Client, ServerError
from limner.runtime.server.keys import add_key
from limner.runtime.timing import Previews

pytest.importorskip("ray")
BUNDLES = ["--bundle", str(SHIPPED / "bundle"), "--bundle", str(SHIPPED / "diffusion")]
RAY = ["--engine", "ray", "--no-join", "--limit", "requests_per_minute=100000"]
TWO = ["--ray", "replicas_least=2", "--ray", "replicas_most=2", "--ray", "attempts=100"]
STARTS_S = 10
PAGE = (Path(__file__).resolve().parents[3] / "docs" / "serving.md").read_text()
BEARD = (PromptEdit("a person with a beard"),)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("cluster"), [*BUNDLES, *RAY, *TWO]) as one:
        yield one


def recipe_of(number: int, steps: int = 30) -> Recipe:
    """Edits of two methods, no two the same."""
    if number % 2:
        return Recipe("latent-optimization", Source.from_seed(number), BEARD, {"steps": steps})
    face = Source.from_prompt("a portrait of a woman with brown hair", number)
    return Recipe("sega", face, (PromptEdit("glasses"),), {"steps": min(steps, 8)})


def alone(number: int, steps: int = 30) -> np.ndarray:
    recipe = recipe_of(number, steps)
    return editor("diffusion" if recipe.method == "sega" else "bundle").edit(recipe, compare=False).image


@functools.cache
def editor(family: str) -> Editor:
    return Editor(SHIPPED / family, threads=1)


def replicas(server: Server) -> list[int]:
    """The processes below a server that make edits, but those that just start: Ray waits longer each time for them."""
    found, parents = [], {server.process.pid}
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,etimes=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 3) for line in listed.splitlines()]
    for _ in range(4):
        parents |= {int(pid) for pid, parent, _, _ in rows if int(parent) in parents}
    for pid, _, age, name in rows:
        if int(pid) in parents and int(age) >= STARTS_S and name.startswith("ray::ServeReplica:limner-edits"):
            found.append(int(pid))
    return found


def test_the_same_pixels_whoever_makes_them(cluster: Server) -> None:
    with Client(cluster.url) as client, ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda number: client.edit(recipe_of(number), compare=False).image, range(6)))
    assert all((image == alone(number)).all() for number, image in enumerate(found))


def test_progress_and_pictures_come_through(cluster: Server) -> None:
    shown, told = list[tuple[int, ...]](), list[int]()
    watching = Previews(2, lambda step, steps, image: shown.append(image.shape), lambda step, *_: told.append(step))
    with Client(cluster.url) as client:
        edit = client.edit(recipe_of(7), watching, compare=False)
        assert (edit.image == alone(7)).all()
        assert shown == [(1, 3, 128, 128)] * 2 and told == sorted(told) and told[-1] == 30
    asked = {"prompt": "a portrait", "stream": True, "partial_images": 2}
    with cluster.client() as http, http.stream("POST", "/v1/images/generations", json=asked) as stream:
        events = [line[7:] for line in stream.iter_lines() if line.startswith("event: ")]
    assert events == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]


def test_what_fails_on_a_replica_is_said_as_anywhere(cluster: Server) -> None:
    broken, fields = {"image": ("a.png", b"\x89PNG no picture")}, {"model": "sega", "prompt": "glasses"}
    with cluster.client() as http:
        answer = http.post("/v1/images/edits", data=fields, files=broken)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "image"
        assert "tmp" not in answer.json()["error"]["message"]
    with Client(cluster.url) as client, pytest.raises(ServerError) as error:
        client.edit(Recipe("latent-mapper", Source.from_seed(1), (PromptEdit("horns"),)), compare=False)
    assert error.value.status == 400 and error.value.exit_code == 2


def test_an_edit_ends_when_its_client_leaves(cluster: Server) -> None:
    long = Recipe("latent-optimization", Source.from_seed(900), BEARD, {"steps": 450}).to_dict()
    with cluster.client() as http:
        job = http.post("/v1/jobs", json={"recipe": long}).json()["id"]
        with pytest.raises(httpx2.TimeoutException):
            http.post("/v1/edits", json={"recipe": long | {"source": {"kind": "seed", "seed": 901}}}, timeout=1.0)
        http.post(f"/v1/jobs/{job}/cancel")
        until = time.monotonic() + 10
        while "limner_edits_running 0.0" not in http.get("/metrics").text or state(http, job) == "running":
            assert time.monotonic() < until
            time.sleep(0.1)
        assert state(http, job) == "cancelled"
        begin = time.monotonic()  # the replicas are free too
        http.post("/v1/edits", json={"recipe": recipe_of(11).to_dict()}).raise_for_status()
        assert time.monotonic() - begin < 10


def state(http: httpx2.Client, job: str) -> str:
    return str(http.get(f"/v1/jobs/{job}").json()["state"])


def test_replicas_go_down_and_nothing_is_lost(cluster: Server) -> None:
    kill_replicas(cluster, kills=2, pause=2.5)


@pytest.mark.slow
def test_seventy_replicas_go_down(cluster: Server) -> None:
    kill_replicas(cluster, kills=70, pause=8.0)


def kill_replicas(cluster: Server, kills: int, pause: float) -> None:
    """Clients that try nothing again, a third of them by jobs, while replicas are killed at random moments."""
    rng, numbers, found = random.Random(kills), itertools.count(1000), dict[int, np.ndarray]()

    def kill() -> None:
        for _ in range(kills):
            time.sleep(rng.uniform(0.3, pause))
            while not (living := replicas(cluster)):
                assert cluster.process.poll() is None
                time.sleep(0.2)
            os.kill(rng.choice(living), signal.SIGKILL)

    def ask(_: int) -> None:
        with Client(cluster.url, retries=0) as client:
            while killer.is_alive():
                number = next(numbers)
                told = None if number % 3 else lambda *_: None
                found[number] = client.edit(recipe_of(number, 5), told, compare=False).image

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))
    print(f"{kills} kills, {len(found)} edits")
    assert sorted(found) == list(range(1000, next(numbers)))
    for number in sorted(found)[:: max(1, len(found) // 40)]:
        assert (found[number] == alone(number, 5)).all(), number
    with cluster.client() as http:
        assert {job["state"] for job in http.get("/v1/jobs").json()["data"]} <= {"succeeded", "cancelled"}


@pytest.mark.parametrize(("given", "said"), [
    (["--ray", "replicas_most=2"], "ray"),
    (["--engine", "ray", "--ray", "replicas_most"], "NAME=VALUE"),
    (["--engine", "ray", "--ray", "replica=2"], "replica"),
    (["--engine", "ray", "--ray", "replicas_most=0"], "ray.replicas_most"),
    (["--engine", "ray", "--ray", "replicas_least=3", "--ray", "replicas_most=2"], "ray.replicas_most"),
    (["--engine", "dask"], "--engine"),
    (["--engine", "ray", "--bundle", "/nowhere"], "bundle"),
])  # fmt: skip
def test_what_is_wrong_is_said(capsys: pytest.CaptureFixture[str], given: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as error:
        sys.exit(main(["serve", "--port", "0", *given]))
    assert error.value.code == 2 and said in capsys.readouterr().err


def test_without_ray_it_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "limner.runtime.server.cluster.launch", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["serve", "--port", "0", "--engine", "ray"]) == 2
    assert "limner[ray]" in capsys.readouterr().err


def serve(work: Path, environment: dict[str, str], *more: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "limner.runtime", "serve", "--port", "0", "--work", str(work), "--engine", "ray"]
    return subprocess.run([*command, *more], capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:9", "nowhere.invalid:6379", "ray://127.0.0.1:9", "banana", "a:b:99999999"]
)
def test_a_cluster_that_is_not_there(tmp_path: Path, address: str) -> None:
    done = serve(tmp_path, os.environ | {"RAY_ADDRESS": address, "RAY_AUTH_TOKEN": "a" * 64})
    assert done.returncode == 2 and "error: RAY_ADDRESS" in done.stderr and "Traceback" not in done.stderr


def test_as_an_application_of_ray_serve(tmp_path: Path) -> None:
    """`serve run`, as the page on serving prints it: servers in front are replicas too."""
    line = next(line for line in PAGE.splitlines() if " serve run " in line)
    key = add_key(tmp_path / "keys.json", "team", ("edit", "jobs", "metrics"))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "RAY_AUTH_TOKEN": "a" * 64, "LIMNER_WORK": str(tmp_path / "work")}
    with (tmp_path / "log.txt").open("w") as log:
        process = subprocess.Popen(["bash", "-c", line.replace("serve run", "exec serve run")], stdout=log, stderr=log,
                                   env=environment, cwd=tmp_path)  # fmt: skip
    try:
        until = time.monotonic() + 120
        while not ready("http://127.0.0.1:8000"):
            assert process.poll() is None and time.monotonic() < until, (tmp_path / "log.txt").read_text()[-3000:]
            time.sleep(0.5)
        with Client("http://127.0.0.1:8000", key) as client:
            assert (client.edit(recipe_of(1), compare=False).image == alone(1)).all()
            told = list[int]()
            client.edit(recipe_of(3), lambda step, *_: told.append(step), compare=False)
            assert told[-1] == 30
        assert httpx2.get("http://127.0.0.1:8000/v1/models").status_code == 401
        assert {path.name for path in tmp_path.iterdir()} == {"keys.json", "log.txt", "work"}
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def test_the_command_as_the_page_prints_it_and_replicas_without_room(tmp_path: Path) -> None:
    line = next(line for line in PAGE.splitlines() if line.startswith("limner serve --engine ray"))
    done = serve(tmp_path, os.environ | {"RAY_AUTH_TOKEN": "a" * 64}, *shlex.split(line, comments=True)[4:],
                 "--ray", "gpus=7")  # fmt: skip
    assert done.returncode == 2 and "error: ray.gpus: got 7" in done.stderr and "Traceback" not in done.stderr


def ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz").status_code == 200
    except httpx2.TransportError:
        return False
