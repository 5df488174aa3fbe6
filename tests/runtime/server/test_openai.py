"""OpenAI's official client on every endpoint that it has."""

import asyncio
import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image
from support.server import SHIPPED, Server

from limner.runtime import Editor, PromptEdit, Recipe, Source
from limner.runtime.provenance import read_recipe, replay
from limner.runtime.server.images import _pictures
from limner.runtime.server.orders import Watching


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "portrait.png"
    Image.fromarray(Editor(SHIPPED / "bundle", threads=1).sample(5).image).save(path)
    return path


def pixels(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


def test_models(client: openai.OpenAI) -> None:
    names = [one.id for one in client.models.list()]
    assert {"avatars:sega", "avatars:prompt-to-prompt"} & set(names) == set()
    assert {"avatars:global-directions", "avatars-diffusion", "avatars-diffusion:sega"} <= set(names)
    assert client.models.retrieve("avatars-diffusion:sega").owned_by == "limner"
    with pytest.raises(openai.NotFoundError, match="model"):
        client.models.retrieve("dall-e-3")


@pytest.mark.parametrize(("model", "prompt", "more"), [
    ("global-directions", "a person with a beard", {}),
    ("avatars:latent-mapper", "beard", {}),
    ("sega", "glasses", {"seed": 3}),
    ("prompt-to-prompt", "a portrait with red hair", {"source_prompt": "a portrait with brown hair"}),
])  # fmt: skip
def test_edits_have_the_pixels_of_the_editor(
    client: openai.OpenAI, portrait: Path, model: str, prompt: str, more: dict[str, Any], tmp_path: Path
) -> None:
    with portrait.open("rb") as stream:
        found = client.images.edit(model=model, image=stream, prompt=prompt, extra_body=more)
    assert found.size == "128x128" and found.output_format == "png" and found.data is not None
    name = model.rpartition(":")[2]
    editor = Editor(SHIPPED / ("diffusion" if name in ("sega", "prompt-to-prompt") else "bundle"), threads=1)
    recipe = Recipe(name, Source.from_image(portrait, more.get("source_prompt")), (PromptEdit(prompt),),
                    seed=more.get("seed", 0))  # fmt: skip
    wanted = editor.edit(recipe, compare=False)
    assert (pixels(found.data[0].b64_json or "") == wanted.image).all()
    path = tmp_path / "made.png"
    path.write_bytes(base64.b64decode(found.data[0].b64_json or ""))
    assert read_recipe(path).source.path == "portrait.png"
    assert replay(path, editor, source=portrait).same_pixels


def test_a_recipe_says_everything(client: openai.OpenAI) -> None:
    recipe = Recipe("sega", Source.from_prompt("a portrait of a man", 4), (PromptEdit("glasses"), PromptEdit("a hat")),
                    {"steps": 5})  # fmt: skip
    found = client.images.generate(prompt="-", n=2, extra_body={"recipe": recipe.to_json()})
    wanted = Editor(SHIPPED / "diffusion", threads=1).edit(recipe, compare=False)
    assert found.data is not None and len(found.data) == 2
    assert (pixels(found.data[0].b64_json or "") == wanted.image).all()
    extra = found.data[1].model_extra or {}
    assert extra["recipe"]["source"]["seed"] == 5 and extra["recipe"]["parameters"]["steps"] == 5


def test_generations(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"quality": "low", "size": "128x128", "output_format": "webp", "extra_body": {"seed": 7}}
    found = client.images.generate(model="avatars-diffusion", prompt="a portrait of a man with a hat", n=2, **asked)
    made = Editor(SHIPPED / "diffusion", threads=1).generate(["a portrait of a man with a hat"], [8], {"steps": 10})
    assert found.data is not None and found.output_format == "webp"
    assert np.abs(pixels(found.data[1].b64_json or "").astype(int) - made[0].image).max() <= 1


def test_a_stream_shows_no_picture_twice() -> None:
    """An edit that is made again on another machine shows its pictures from the beginning."""

    async def job(watching: Watching | None) -> dict[str, Any]:
        assert watching is not None
        for number in (0, 1, 0, 1, 2):
            watching.shown(number, bytes([number]))
        await asyncio.sleep(0.05)
        return {}

    async def events() -> list[tuple[str, int | None]]:
        return [(name, body.get("partial_image_index")) async for name, body in _pictures(job, 3)]

    pictures = [("partial_image", number) for number in range(3)]
    assert asyncio.run(events()) == [*pictures, ("completed", None)]


def test_streams(client: openai.OpenAI, portrait: Path) -> None:
    with portrait.open("rb") as stream:
        events = list(client.images.edit(model="global-directions", image=stream, prompt="a person with a beard",
                                         stream=True, partial_images=0))  # fmt: skip
    assert [one.type for one in events] == ["image_edit.completed"]
    with portrait.open("rb") as stream:
        events = list(client.images.edit(model="sega", image=stream, prompt="glasses", stream=True, partial_images=2))
    assert [one.type for one in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert [getattr(one, "partial_image_index", None) for one in events] == [0, 1, None]
    shown = [pixels(one.b64_json).astype(int) for one in events]
    assert 0 < np.abs(shown[1] - shown[2]).mean() < np.abs(shown[0] - shown[2]).mean() < 60
    made = list(client.images.generate(prompt="a portrait", stream=True, quality="low"))
    assert [one.type for one in made] == ["image_generation.completed"]
    assert pixels(made[0].b64_json).shape == (128, 128, 3)


@pytest.mark.parametrize(("given", "status", "param"), [
    ({"model": "segaa"}, 404, "model"),
    ({"model": "avatars-diffusion"}, 400, "model"),
    ({"model": "sega", "n": 9}, 400, "n"),
    ({"model": "sega", "size": "banana"}, 400, "size"),
    ({"model": "sega", "size": "4096x4096"}, 400, "recipe.parameters.height"),
    ({"model": "sega", "size": "100x100"}, 400, "height"),
    ({"model": "sega", "response_format": "url"}, 400, "response_format"),
    ({"model": "sega", "background": "transparent"}, 400, "background"),
    ({"model": "sega", "quality": "best"}, 400, "quality"),
    ({"model": "latent-mapper", "prompt": "horns"}, 400, "mapper"),
    ({"model": "prompt-to-prompt"}, 400, "source.prompt"),
    ({"model": "sega", "extra_body": {"recipe": "{"}}, 400, "recipe"),
    ({"model": "sega", "extra_body": {"recipe": "[1]"}}, 400, "recipe"),
    ({"model": "sega", "extra_body": {"seed": "x"}}, 400, "seed"),
])  # fmt: skip
def test_what_is_refused_names_its_field(
    client: openai.OpenAI, portrait: Path, given: dict[str, Any], status: int, param: str
) -> None:
    with portrait.open("rb") as stream, pytest.raises(openai.APIStatusError) as error:
        client.images.edit(**{"image": stream, "prompt": "glasses", **given})
    assert error.value.status_code == status and error.value.param == param, error.value.body
    assert error.value.request_id or error.value.response.headers["x-request-id"]


def test_masks_are_refused(client: openai.OpenAI, portrait: Path) -> None:
    given = portrait.read_bytes()
    with pytest.raises(openai.BadRequestError, match="mask"):
        client.images.edit(image=given, mask=given, prompt="glasses")
