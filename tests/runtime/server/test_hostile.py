"""Random requests, most of them wrong: never a 5xx, never more memory, and the server as before."""

import copy
import json
import random
import string
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest
from support.server import SHIPPED, Server, served

RECIPE: dict[str, Any] = {
    "method": "global-directions", "source": {"kind": "seed", "seed": 7}, "parameters": {}, "inversion": {}, "seed": 0,
    "prompts": [{"text": "a person with a beard", "strength": 1.0, "options": {}}], "bundle": None, "version": 2,
}  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 1e308, float("1e-320"), "", "x", "../../etc/passwd", "\x00", "\ud83d", "a" * 10_000,
    [], [[]] * 50, {}, {"a": 1}, "http://169.254.169.254/", "${jndi:x}", "'; DROP TABLE limner_jobs; --", "%s%n",
    "\u202e",
)  # fmt: skip
PATHS = ("/v1/edits", "/v1/jobs", "/v1/images/edits", "/v1/images/generations")
METHODS = ("global-directions", "sega", "latent-mapper", "prompt-to-prompt", "latent-optimization")


def mutated(rng: random.Random) -> Any:
    """A recipe with one to three of its places changed."""
    recipe = json.loads(json.dumps(RECIPE)) | {"method": rng.choice(METHODS)}
    for _ in range(rng.randint(1, 3)):
        place: Any = recipe
        while isinstance(place, dict | list) and place and rng.random() < 0.7:
            keys: list[Any] = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = rng.choice(keys)
            if not isinstance(place[key], dict | list) or rng.random() < 0.4:
                place[key] = copy.deepcopy(rng.choice(VALUES))
                break
            place = place[key]
        else:
            if isinstance(place, dict):
                place["".join(rng.choices(string.ascii_lowercase, k=4))] = copy.deepcopy(rng.choice(VALUES))
    return recipe


def noise(rng: random.Random, length: int) -> bytes:
    return rng.randbytes(rng.randint(0, length))


def send(client: httpx2.Client, rng: random.Random) -> httpx2.Response:
    """One hostile request."""
    path, kind = rng.choice(PATHS), rng.randrange(8)
    if kind < 3:
        return client.post(path, content=json.dumps({"recipe": mutated(rng), "prompt": rng.choice(("a", "", None))}),
                           headers={"content-type": "application/json"})  # fmt: skip
    if kind == 3:
        names = ("recipe", "prompt", "model", "n", "size", "seed", "quality", "stream", "mask", "include", "compare")
        data = {name: str(rng.choice(VALUES)).encode("utf-8", "replace").decode() for name in rng.sample(names, 4)}
        return client.post(path, data=data, files={"image": ("x.png", noise(rng, 400))})
    if kind == 4:  # a multipart body with bytes changed, cut or doubled
        body = bytearray(b'--b\r\nContent-Disposition: form-data; name="recipe"\r\n\r\n' + json.dumps(RECIPE).encode()
                         + b'\r\n--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
                         b"Content-Type: image/png\r\n\r\n\x89PNG\r\n\x1a\n\r\n--b--\r\n")  # fmt: skip
        for _ in range(rng.randint(1, 8)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        cut = bytes(body[: rng.randint(1, len(body))])
        return client.post(path, content=cut, headers={"content-type": "multipart/form-data; boundary=b"})
    if kind == 5:
        header = rng.choice(
            ("application/json", "multipart/form-data; boundary=" + "x" * 80, "text/plain", "multipart/")
        )
        return client.post(path, content=noise(rng, 3000), headers={"content-type": header})
    if kind == 6:
        name = "".join(rng.choices(string.printable.strip(), k=rng.randint(1, 60)))
        quoted = "".join(f"%{ord(letter):02x}" for letter in name)
        return client.request(
            rng.choice(("GET", "POST", "DELETE", "PUT")), f"/v1/jobs/{quoted}{rng.choice(('', '/result'))}"
        )
    picture = b"\x89PNG\r\n\x1a\n" + noise(rng, 2000)
    given = json.dumps(RECIPE | {"source": {"kind": "image"}})
    return client.post(path, data={"recipe": given}, files={"image": ("x.png", picture)})


def memory(client: httpx2.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith("limner_memory_bytes")).split()[-1])


def attack(server: Server, count: int, seed: int, threads: int = 4) -> dict[int, int]:
    """Status -> how often; AssertionError for one of 500 and more."""
    found: dict[int, int] = {}
    lock = threading.Lock()

    def one(number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        with server.client() as client:
            for _ in range(count // threads):
                answer = send(client, rng)
                with lock:
                    found[answer.status_code] = found.get(answer.status_code, 0) + 1
                    if answer.status_code >= 500:
                        failed.append(f"{answer.status_code} {answer.request.url}: {answer.text[:300]}")

    failed: list[str] = []
    workers = [threading.Thread(target=one, args=(k,)) for k in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failed, (len(failed), failed[:3], server.log.read_text()[-3000:])
    return found


@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.slow)])
def test_hostile_requests(tmp_path: Path, count: int) -> None:
    more = ["--no-join", "--limit", "requests_per_minute=1000000", "--limit", "jobs=100000", "--limit", "steps=8"]
    bundles = ["--bundle", str(SHIPPED / "bundle"), "--bundle", str(SHIPPED / "diffusion")]
    with served(tmp_path, [*bundles, *more]) as server, server.client() as client:
        attack(server, count // 4, seed=0)
        before = memory(client)
        found = attack(server, count, seed=1)
        after = memory(client)
        assert sum(found.values()) == count // 4 * 4 and found.get(400, 0) > count / 10, found
        assert after - before < 2e8, (before, after)
        good = client.post("/v1/edits", json={"recipe": RECIPE})
        assert good.status_code == 200, good.text
        assert not list((tmp_path / "uploads").glob("*"))
        log = server.log.read_text()
    assert "Traceback" not in log
