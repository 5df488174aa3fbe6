"""The client and `limner edit --server`: the edits of an `Editor`, made elsewhere."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.server import SHIPPED, Server, start_server

from limner.runtime import Editor, PromptEdit, Recipe, Source
from limner.runtime.cli import main
from limner.runtime.client import AsyncClient, Client, ServerError
from limner.runtime.errors import InputError
from limner.runtime.provenance import read_recipe

ONE = ["--bundle", str(SHIPPED / "bundle"), "--no-join"]
BEARD = (PromptEdit("a person with a beard"),)


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as found:
        yield found


@pytest.fixture(scope="module")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "a portrait.png"
    Image.fromarray(Editor(SHIPPED / "bundle", threads=1).sample(5).image).save(path, dpi=(300, 300))
    return path


def recipes(portrait: Path) -> list[tuple[str, Recipe]]:
    prompt = Source.from_prompt("a portrait with brown hair", 1)
    swap = PromptEdit("a portrait with red hair", options={"blend": ["hair"]})
    return [
        ("bundle", Recipe("global-directions", Source.from_image(portrait), BEARD)),
        ("bundle", Recipe("latent-optimization", Source.from_seed(3), BEARD, {"steps": 4})),
        ("diffusion", Recipe("sega", Source.from_image(portrait), (PromptEdit("glasses"),), {"steps": 4}, seed=2)),
        ("diffusion", Recipe("prompt-to-prompt", prompt, (swap,), {"steps": 4, "maps": True})),
    ]


@pytest.mark.parametrize("number", range(4))
def test_an_edit_is_that_of_an_editor(client: Client, portrait: Path, number: int) -> None:
    family, recipe = recipes(portrait)[number]
    wanted, found = Editor(SHIPPED / family, threads=1).edit(recipe), client.edit(recipe)
    assert (found.image == wanted.image).all() and found.recipe == wanted.recipe
    assert (found.source == wanted.source).all() and (found.reconstruction == wanted.reconstruction).all()
    assert found.scores == pytest.approx(wanted.scores, abs=1e-5) and found.warnings == wanted.warnings
    assert {name: image.tobytes() for name, image in found.pictures.items()} == {
        name: image.tobytes() for name, image in wanted.pictures.items()
    }
    assert found.carried == wanted.carried and found.provider == wanted.provider


def test_other_strengths_are_asked_for(client: Client) -> None:
    recipe = Recipe("global-directions", Source.from_seed(3), BEARD)
    wanted, found = Editor(SHIPPED / "bundle", threads=1).edit(recipe).at(0.5), client.edit(recipe).at(0.5)
    assert (found.image == wanted.image).all() and found.recipe == wanted.recipe


def test_an_array_is_sent(client: Client) -> None:
    picture = Editor(SHIPPED / "bundle", threads=1).sample(5).image
    found = client.edit(Recipe("global-directions", Source("image"), BEARD), given=picture, compare=False)
    assert found.image.shape == picture.shape and not found.compared


def test_progress_is_told(client: Client) -> None:
    told: list[tuple[int, int]] = []
    recipe = Recipe("latent-optimization", Source.from_seed(3), BEARD, {"steps": 30})
    found = client.edit(recipe, lambda step, steps, losses: told.append((step, steps)), compare=False)
    assert told[-1] == (30, 30) and len(told) > 2 and found.recipe.parameters.steps == 30


def test_what_the_server_refuses(client: Client, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="mapper: got 'horns'") as error:
        client.edit(Recipe("latent-mapper", Source.from_seed(3), (PromptEdit("horns"),)))
    assert error.value.status == 400 and error.value.field == "mapper" and error.value.exit_code == 2
    assert error.value.request_id
    with pytest.raises(InputError, match="no file at"):
        client.edit(Recipe("global-directions", Source.from_image(tmp_path / "none.png"), BEARD))
    with pytest.raises(InputError, match="server"):
        Client("ftp://x")
    with (
        Client("http://127.0.0.1:9", retries=1) as nowhere,
        pytest.raises(ServerError, match="does not answer") as error,
    ):
        nowhere.models()
    assert error.value.exit_code == 1


def test_the_async_client(server: Server) -> None:
    async def edits() -> list[np.ndarray]:
        async with AsyncClient(server.url) as client:
            assert "avatars-diffusion:sega" in await client.models()
            some = [
                client.edit(Recipe("global-directions", Source.from_seed(k), BEARD), compare=False) for k in range(3)
            ]
            made = await asyncio.gather(*some)
            more = await client.edit(Recipe("latent-optimization", Source.from_seed(3), BEARD, {"steps": 4}),
                                     lambda *_: None)  # fmt: skip
            return [one.image for one in made] + [await asyncio.to_thread(lambda: more.reconstruction)]

    found = asyncio.run(edits())
    editor = Editor(SHIPPED / "bundle", threads=1)
    for k in range(3):
        wanted = editor.edit(Recipe("global-directions", Source.from_seed(k), BEARD), compare=False).image
        assert (found[k] == wanted).all()


def test_a_cancelled_edit_ends_there(server: Server) -> None:
    async def leave() -> None:
        async with AsyncClient(server.url) as client:
            long = Recipe("latent-optimization", Source.from_seed(3), BEARD, {"steps": 450})
            await asyncio.wait_for(client.edit(long, lambda *_: None), 1.0)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(leave())
    with server.client() as client:
        until = time.monotonic() + 10
        while client.get("/v1/jobs").json()["data"][0]["state"] != "cancelled":
            assert time.monotonic() < until
            time.sleep(0.1)


def test_a_job_outlives_its_server(tmp_path: Path) -> None:
    """The server is killed while the client waits, and another one takes its place on the same port."""
    first = start_server(tmp_path, *ONE)
    port = first.url.rpartition(":")[2]
    found: list[np.ndarray] = []

    def edit() -> None:
        with Client(first.url, retries=8) as client:
            recipe = Recipe("latent-optimization", Source.from_seed(3), BEARD, {"steps": 40})
            found.append(client.edit(recipe, lambda *_: None, compare=False).image)

    thread = threading.Thread(target=edit)
    thread.start()
    time.sleep(1.0)
    first.kill()
    second = start_server(tmp_path, *ONE, "--port", port, ready=False)
    thread.join(60)
    second.kill()
    wanted = Editor(SHIPPED / "bundle", threads=1).edit(
        Recipe("latent-optimization", Source.from_seed(3), BEARD, {"steps": 40}), compare=False
    )
    assert (found[0] == wanted.image).all()


def test_the_command_line_gives_the_same_files(
    server: Server, portrait: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMNER_THREADS", "1")
    common = ["edit", str(portrait), "a person with a beard", "--json", "-o"]
    answers = []
    for place, more in (("here.png", []), ("there.png", ["--server", server.url])):
        assert main([*common, str(tmp_path / place), *more]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    here, there = (np.asarray(Image.open(tmp_path / name)) for name in ("here.png", "there.png"))
    assert (here == there).all()
    assert read_recipe(tmp_path / "here.png") == read_recipe(tmp_path / "there.png")
    assert set(answers[0]) == set(answers[1])
    assert main(["edit", "seed:3", "--mapper", "horns", "--server", server.url, "-o", str(tmp_path / "x.png")]) == 2
    assert "mapper: got 'horns'" in capsys.readouterr().err
    assert main(["edit", "seed:3", "a person with a beard", "--server", server.url, "--dry-run"]) == 2


def test_several_sources_go_to_a_server(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["edit", "seed:3", "seed:4", "a person with a beard", "--server", server.url,
                 "--out", str(tmp_path / "made")]) == 0  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["seed-3.png", "seed-4.png"]
