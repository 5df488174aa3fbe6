"""The server as a client meets it: edits, refusals, limits, keys, many at once, its end."""

import base64
import io
import json
import shutil
import signal
import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image
from support.server import SHIPPED, Server, served

from limner.runtime import Editor, PromptEdit, Recipe, Source
from limner.runtime.errors import InputError
from limner.runtime.server.bundles import Hosts
from limner.runtime.server.errors import Refusal
from limner.runtime.server.keys import add_key, remove_key
from limner.runtime.server.results import Results
from limner.runtime.server.settings import ServerSettings

BEARD: dict[str, Any] = {"method": "global-directions", "source": {"kind": "seed", "seed": 7},
                         "prompts": [{"text": "a person with a beard"}]}  # fmt: skip
LONG = Recipe(
    "latent-optimization", Source.from_seed(7), (PromptEdit("a person with a beard"),), {"steps": 400}
).to_dict()
ONE = ["--bundle", str(SHIPPED / "bundle"), "--no-join"]


def pixels(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


def png(width: int, height: int) -> bytes:
    """The head of a picture of that size, with hardly any data behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    found: list[Any] = [None] * count
    threads = [threading.Thread(target=lambda k=k: found.__setitem__(k, work(k))) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_an_edit_has_everything_that_the_editor_gives(server: Server) -> None:
    with server.client() as client:
        found = client.post(
            "/v1/edits", json={"recipe": BEARD, "compare": True, "include": ["source", "reconstruction"]}
        )
    assert found.status_code == 200, found.text
    answer = found.json()
    wanted = Editor(SHIPPED / "bundle", threads=1).edit(Recipe.from_dict(BEARD))
    assert (pixels(answer["image"]) == wanted.image).all()
    assert (pixels(answer["reconstruction"]) == wanted.reconstruction).all()
    assert answer["recipe"] == wanted.recipe.to_dict() and answer["model"] == "avatars:global-directions"
    assert answer["scores"] == pytest.approx(wanted.scores, abs=1e-5) and answer["id"] == found.headers["x-request-id"]
    assert set(answer["timing"]) == set(wanted.timing) and answer["compared"]


def test_maps_come_when_asked(server: Server) -> None:
    recipe = Recipe("prompt-to-prompt", Source.from_prompt("a portrait with brown hair", 1),
                    (PromptEdit("a portrait with red hair", options={"blend": ["hair"]}),),
                    {"steps": 4, "maps": True}).to_dict()  # fmt: skip
    with server.client() as client:
        found = client.post("/v1/edits", data={"recipe": json.dumps(recipe), "include": "pictures"}, files={}).json()
    assert "mask" in found["pictures"] and pixels(found["pictures"]["mask"]).shape == (128, 128, 3)


def test_methods_models_and_openapi(server: Server) -> None:
    with server.client() as client:
        methods = client.get("/v1/methods").json()["data"]
        spec = client.get("/openapi.json").json()
        docs = client.get("/docs")
    assert {one["name"] for one in methods} >= {"sega", "latent-mapper"}
    assert all(one["recipe"]["$schema"].endswith("2020-12/schema") for one in methods)
    assert {"/v1/edits", "/v1/jobs", "/v1/images/edits", "/v1/images/generations", "/readyz"} <= set(spec["paths"])
    assert docs.status_code in (200, 404)


HOSTILE: dict[str, tuple[dict[str, Any], int]] = {
    "no body": ({}, 415),
    "no JSON": ({"content": b"{", "headers": {"content-type": "application/json"}}, 400),
    "deep JSON": ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 400),
    "a list": ({"json": [1]}, 400),
    "no recipe": ({"json": {}}, 400),
    "null": ({"json": {"recipe": None}}, 400),
    "unknown method": ({"json": {"recipe": BEARD | {"method": "magic"}}}, 400),
    "unknown field": ({"json": {"recipe": BEARD | {"magic": 1}}}, 400),
    "a path": ({"json": {"recipe": BEARD | {"source": {"kind": "image", "path": "/etc/passwd"}}}}, 400),
    "latents of a path": ({"json": {"recipe": BEARD | {"source": {"kind": "w_plus", "path": "/etc/passwd"}}}}, 400),
    "no picture": ({"json": {"recipe": BEARD | {"source": {"kind": "image"}}}}, 400),
    "a picture too many": ({"json": {"recipe": BEARD, "image": base64.b64encode(png(64, 64)).decode()}}, 400),
    "NaN": ({"content": b'{"recipe": NaN}', "headers": {"content-type": "application/json"}}, 400),
    "no base64": ({"json": {"recipe": BEARD | {"source": {"kind": "image"}}, "image": "***"}}, 400),
    "no picture in it": ({"json": {"recipe": BEARD | {"source": {"kind": "image"}}, "image": "aGFsbG8="}}, 400),
    "another bundle's": ({"json": {"recipe": BEARD | {"bundle": "0" * 64}}}, 409),
    "too many steps": ({"json": {"recipe": LONG | {"parameters": {"steps": 9000}}}}, 400),
    "format": ({"json": {"recipe": BEARD, "output_format": "exe"}}, 400),
    "include": ({"json": {"recipe": BEARD, "include": ["passwords"]}}, 400),
    "broken form": ({"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data; boundary=y"}}, 400),
    "form without boundary": ({"content": b"a", "headers": {"content-type": "multipart/form-data"}}, 400),
    "a file twice": ({"data": {"recipe": json.dumps(BEARD)}, "files": [("image", b"a"), ("image", b"b")]}, 400),
    "too large": ({"content": b"x" * 21_000_000, "headers": {"content-type": "application/json"}}, 413),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_bad_requests_are_told_and_leave_the_server_as_it_was(server: Server, name: str) -> None:
    given, status = HOSTILE[name]
    with server.client() as client:
        found = client.post("/v1/edits", **given)
        assert found.status_code == status, found.text
        error = found.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and "Traceback" not in error["message"]
        assert str(server.work) not in found.text and "site-packages" not in found.text
        assert client.post("/v1/edits", json={"recipe": BEARD}).status_code == 200
    assert not list((server.work / "uploads").glob("*"))


def test_a_picture_bomb_is_seen_in_its_head(server: Server) -> None:
    recipe = BEARD | {"source": {"kind": "image"}}
    with server.client() as client:
        for size in ((60_000, 60_000), (6000, 6000)):
            data = {"recipe": json.dumps(recipe)}
            found = client.post("/v1/edits", data=data, files={"image": ("a.png", png(*size))})
            assert found.status_code == 413 and found.json()["error"]["param"] == "image", found.text


def test_names_of_files_go_nowhere(server: Server, tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(Editor(SHIPPED / "bundle", threads=1).sample(5).image).save(stream, "PNG")
    recipe = BEARD | {"source": {"kind": "image"}}
    for name in ("../../../etc/x.png", "/abs.png", "a\\b\\c.png", "..", "con.png\n", "x" * 500 + ".png"):
        with server.client() as client:
            found = client.post("/v1/edits", data={"recipe": json.dumps(recipe)},
                                files={"image": (name, stream.getvalue())})  # fmt: skip
        assert found.status_code == 200, found.text
        path = found.json()["recipe"]["source"]["path"]
        assert "/" not in path and "\\" not in path and len(path) <= 80 and ".." not in path.split(".png")[0]
    assert {one.name for one in server.work.iterdir()} <= {"uploads", "jobs", "log.txt", "results"}


def test_many_at_once_have_their_own_pixels(server: Server) -> None:
    seeds = range(6)
    wanted = [Editor(SHIPPED / "bundle", threads=1).edit(Recipe.from_dict(of(seed))).image for seed in seeds]

    def one(seed: int) -> np.ndarray:
        with server.client() as client:
            return pixels(client.post("/v1/edits", json={"recipe": of(seed)}).json()["image"])

    for mine, theirs in zip(wanted, together(len(seeds), one), strict=True):
        assert (mine == theirs).all()


def of(seed: int) -> dict[str, Any]:
    return BEARD | {"source": {"kind": "seed", "seed": seed}}


def test_a_client_that_leaves_frees_its_place(server: Server) -> None:
    with server.client() as client:
        with pytest.raises(httpx2.TimeoutException):
            client.post("/v1/edits", json={"recipe": LONG}, timeout=0.7)
        until = time.monotonic() + 10
        while running(client) > 0:
            assert time.monotonic() < until
            time.sleep(0.05)
        text = client.get("/metrics").text
    assert 'limner_edits_total{model="avatars:latent-optimization",outcome="cancelled"}' in text


def running(client: httpx2.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith("limner_edits_running")).split()[-1])


def test_an_edit_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with served(tmp_path, [*ONE, "--limit", "seconds=0.5"]) as server, server.client() as client:
        found = client.post("/v1/edits", json={"recipe": LONG})
        assert found.status_code == 504 and found.json()["error"]["code"] == "deadline_exceeded"
        assert client.post("/v1/edits", json={"recipe": BEARD}).status_code == 200


def test_places_and_rates_are_limited(tmp_path: Path) -> None:
    limits = ["running=1", "waiting=1", "requests_per_minute=12"]
    with served(tmp_path, [*ONE, *(f"--limit={one}" for one in limits)]) as server:

        def one(number: int) -> httpx2.Response:
            with server.client() as client:
                return client.post("/v1/edits", json={"recipe": LONG | {"parameters": {"steps": 20}}})

        found = together(4, one)
        codes = sorted(one.status_code for one in found)
        assert codes == [200, 200, 429, 429], codes
        assert all("retry-after" in one.headers for one in found if one.status_code == 429)
        with server.client() as client:
            codes = [client.get("/v1/models").status_code for _ in range(10)]
        assert codes[0] == 200 and codes[-1] == 429


def test_keys_and_rights(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    whole, metrics = add_key(path, "team"), add_key(path, "prometheus", ("metrics",))
    assert whole not in path.read_text() and path.stat().st_mode & 0o077 == 0
    with served(tmp_path / "work", [*ONE, "--key-file", str(path)]) as server, server.client() as client:

        def status(key: str, place: str = "/v1/models") -> int:
            return client.get(place, headers={"Authorization": f"Bearer {key}"}).status_code

        assert client.get("/v1/models").status_code == 401 and client.get("/metrics").status_code == 401
        assert status("lk-nothing") == 401 and status(whole[:-1]) == 401
        assert status(whole) == 200 and status(whole, "/metrics") == 200
        assert status(metrics) == 403 and status(metrics, "/metrics") == 200
        assert client.get("/healthz").status_code == 200
        remove_key(path, "team")
        assert status(whole) == 401 and status(metrics, "/metrics") == 200
        path.write_text("no JSON")
        assert status(metrics, "/metrics") == 401
    assert whole not in server.log.read_text() and '"key": "team"' in server.log.read_text()


def test_it_ends_in_good_order(tmp_path: Path) -> None:
    with served(tmp_path, ONE) as server:
        found: list[httpx2.Response] = []

        def one() -> None:
            with server.client() as client:
                found.append(client.post("/v1/edits", json={"recipe": LONG | {"parameters": {"steps": 30}}}))

        thread = threading.Thread(target=one)
        thread.start()
        time.sleep(0.6)
        code = server.end(signal.SIGTERM)
        thread.join()
    assert found[0].status_code == 200 and code == 0
    assert "limner: ended" in server.log.read_text() and "Traceback" not in server.log.read_text()


def test_bundles_come_and_go(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(SHIPPED / "bundle", folder)
    with served(tmp_path / "work", ["--bundle", f"mine={folder}", "--no-join"]) as server, server.client() as client:
        before = client.get("/v1/models/mine:global-directions").json()["bundle"]
        manifest = json.loads((folder / "bundle.json").read_text())
        (folder / "new.json").write_text(json.dumps(manifest | {"created_by": "a test"}))
        (folder / "new.json").replace(folder / "bundle.json")
        assert wait(lambda: client.get("/v1/models/mine:global-directions").json()["bundle"] != before)
        assert client.post("/v1/edits", json={"recipe": BEARD}).status_code == 200
        (folder / "bundle.json").write_text("{")  # a bundle that does not load changes nothing
        assert wait(lambda: "the one before stays" in server.log.read_text())
        assert client.post("/v1/edits", json={"recipe": BEARD}).status_code == 200
        (folder / "bundle.json").unlink()
        assert wait(lambda: client.post("/v1/edits", json={"recipe": BEARD}).status_code == 404)


def wait(what: Callable[[], bool], seconds: float = 30.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if what():
            return True
        time.sleep(0.2)
    return False


def test_the_same_edit_is_not_made_twice(tmp_path: Path) -> None:
    with served(tmp_path, ONE) as server, server.client() as client:
        asked = [client.post("/v1/edits", json={"recipe": of(seed)}).json() for seed in (41, 41, 42)]
        job = client.post("/v1/jobs", json={"recipe": of(41)}).json()["id"]
        assert wait(lambda: client.get(f"/v1/jobs/{job}").json()["state"] == "succeeded")
        text = client.get("/metrics").text
        with_source = client.post("/v1/edits", json={"recipe": of(41), "include": ["source"]}).json()
    assert 'limner_edits_total{model="avatars:global-directions",outcome="done"} 2.0' in text
    assert asked[0]["image"] == asked[1]["image"] != asked[2]["image"] and asked[0]["id"] != asked[1]["id"]
    assert "source" in with_source and "source" not in asked[0]


def test_results_stay_within_their_room(tmp_path: Path) -> None:
    results = Results(tmp_path, 1000)
    for number in range(5):
        results.put(f"{number}", {"image": "x" * 300})
        time.sleep(0.01)
        results.get("0")
    results.put("large", {"image": "x" * 2000})
    left = {path.stem for path in tmp_path.glob("*.json")}
    assert "0" in left and "4" in left and "large" not in left and len(left) == 3
    (tmp_path / "0.json").write_text("{")
    assert results.get("0") is None and results.get("none") is None
    gone = Results(tmp_path / "gone", 1000)
    (tmp_path / "gone").rmdir()
    gone.put("a", {})  # no place to write to is no fault of the edit
    nothing = Results(tmp_path / "none", 0)
    nothing.put("a", {})
    assert nothing.get("a") is None and not (tmp_path / "none").exists()


def hosts(tmp_path: Path, *bundles: tuple[str, Path], join: bool | None = True) -> Hosts:
    return Hosts(ServerSettings(tuple(bundles), tmp_path / "work", lanes=1, threads=1, join=join))


def test_a_method_that_several_bundles_have_needs_their_name(tmp_path: Path) -> None:
    both = hosts(tmp_path, ("one", SHIPPED / "bundle"), ("two", SHIPPED / "bundle"))
    assert both.find("two:latent-mapper")[0].name == "two" and both.find("two", "latent-mapper")[0].name == "two"
    for given in (("latent-mapper", None), (None, "latent-mapper")):
        with pytest.raises(Refusal, match="one:latent-mapper, two:latent-mapper") as error:
            both.find(*given)
        assert error.value.status == 400 and error.value.param == "model"
    both.close()
    with pytest.raises(InputError, match="'one' twice"):
        hosts(tmp_path, ("one", SHIPPED / "bundle"), ("one", SHIPPED / "bundle"))


def test_a_replaced_bundle_is_warm_joins_and_stays_for_who_waits(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(SHIPPED / "diffusion", folder)
    served = hosts(tmp_path, ("mine", folder))
    served.warm()
    old = served.all[0]
    with old:  # an edit that waits for a place
        text = (folder / "bundle.json").read_text().replace('"created_by": "limner', '"created_by": "a test of limner')
        (folder / "new.json").write_text(text)
        (folder / "new.json").replace(folder / "bundle.json")
        served.look()
        new = served.all[0]
        assert new is not old and new.sessions.join and set(new.sessions.join) == set(old.sessions.join)
        assert "unet" in new.sessions.load_ms
        with old.sessions.edit():
            assert old.editor.generate(["a portrait"], [1], {"steps": 1})[0].image.shape == (128, 128, 3)
    with pytest.raises(Refusal, match="just replaced"), old:
        pass
    served.close()
