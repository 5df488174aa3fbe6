"""What the page does, without a browser: each method, strength, versions, the brush, replays, and what is refused."""

import asyncio
import base64
import io
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from support.certificates import Issued, issued
from support.page import Visitor, page_at

from limner.runtime import Editor, Recipe, read_recipe, write_edit
from limner.runtime.bundle.shipped import demo_file, shipped_bundle
from limner.runtime.cli.sheets import array_bytes
from limner.runtime.marking.credentials import read_credentials
from limner.runtime.marking.manifest import signed
from limner.runtime.marking.signing import load_signing
from limner.runtime.page.desk import Desk
from limner.runtime.page.drawing import mask_of
from limner.runtime.page.mounting import Page
from limner.runtime.page.running import MOST_LIVE
from limner.runtime.pictures.drawn import read_drawn
from limner.runtime.server.settings import Limits

SHOWS = ("a neutral person with brown skin, short brown hair, no beard and no glasses, wearing a blue t-shirt, "
         "pink background")  # fmt: skip
PICTURES = demo_file().parent / "pictures"
POINTS = "[[455, 325], [545, 325], [500, 350], [485, 385], [515, 385]]"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_at(tmp_path_factory.mktemp("page"))


@pytest.fixture
def visitor(page: Page) -> Visitor:
    return Visitor(page)


def desk_of(visitor: Visitor) -> Desk:
    return visitor.page.begin.context.desk(visitor["secret"], visitor.request)  # type: ignore[arg-type]


def picture(visitor: Visitor, number: int) -> np.ndarray:
    return np.asarray(Image.open(desk_of(visitor).picture(number)))


def example(visitor: Visitor, name: str = "test-0115") -> Visitor:
    return visitor.do(visitor.page.begin.example, visitor.parts.secret, event=pressed(choice=f"{name}.png"))


def pressed(**data: Any) -> SimpleNamespace:
    """An event of a component's own script."""
    return SimpleNamespace(_data=data)


def model(visitor: Visitor, method: str) -> Visitor:
    name = next(value for _, value in visitor.parts.model.choices if value.endswith(f":{method}"))
    visitor.set(model=name)
    return visitor.do(visitor.page.begin.fitted, visitor.parts.model, visitor.parts.kind)


# --- edits ----------------------------------------------------------------------------------------------------


def test_it_begins_with_an_edit_that_works(visitor: Visitor) -> None:
    """Pressing Edit at once shows something."""
    visitor.edit()
    assert visitor["tab"].current == 1 and "sunglasses" in visitor.said
    assert 'id="picture-before"' in visitor["stage"] and 'id="picture-after"' in visitor["stage"]
    assert visitor.shown[visitor.parts.edit]["interactive"] and not visitor.shown[visitor.parts.stop]["visible"]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("method", [
    "global-directions", "latent-mapper", "latent-optimization", "prompt-to-prompt", "sega",
])  # fmt: skip
def test_edits_to_begin_with_are_the_demo_s(visitor: Visitor, method: str, number: int) -> None:
    """An edit by the page has the pixels of the same edit by the Editor."""
    starts = visitor.page.begin.context.starts
    name = [one for one in starts if starts[one].method == method][number * 4]
    visitor.set(starts=name).do(visitor.page.begin.begin, visitor.parts.starts, visitor.parts.secret).edit()
    family = "diffusion" if method in ("prompt-to-prompt", "sega") else "stylegan2"
    made = read_recipe(desk_of(visitor).picture(1))
    alone = Editor(shipped_bundle(family), threads=2).edit(desk_of(visitor).placed(made))
    np.testing.assert_array_equal(picture(visitor, 1), alone.image)
    assert [one.text for one in made.prompts] == [one.text for one in starts[name].prompts]


def test_words_and_settings_are_taken(visitor: Visitor) -> None:
    model(visitor.set(kind="words", source_words=SHOWS, words_seed=7), "sega")
    visitor.set(words="+glasses:scale=9\n-beard")
    visitor.field("sega-parameters-steps", "14")
    visitor.field("sega-options-threshold", "0.7")
    visitor.edit()
    made = read_recipe(desk_of(visitor).picture(1))
    assert made.source.seed == 7 and made.source.prompt == SHOWS and made.parameters.steps == 14
    first, second = made.prompts
    assert (first.text, first.strength, first.options.threshold) == ("glasses", 9.0, 0.7)
    assert second.text == "beard" and second.strength is not None and second.strength < 0
    assert "mask: glasses" in visitor["stage"]


def test_a_seed(visitor: Visitor) -> None:
    model(visitor.set(kind="seed", seed=5.0, truncation=0.4), "latent-mapper").set(mappers=["beard", "glasses"]).edit()
    made = read_recipe(desk_of(visitor).picture(1))
    assert (made.source.seed, made.source.truncation) == (5, 0.4)
    assert [one.text for one in made.prompts] == ["beard", "glasses"]
    assert 0 <= visitor.page.begin.another() < 100_000


def test_words_of_a_prompt_have_maps(visitor: Visitor) -> None:
    model(example(visitor), "prompt-to-prompt")
    visitor.set(shows=SHOWS, words=SHOWS.replace("brown hair", "red hair"))
    visitor.field("prompt-to-prompt-options-blend", "hair")
    visitor.edit()
    version = desk_of(visitor).version(1)
    assert [one.name for one in version.overlays][:4] == ["mask", "a", "neutral", "person"]
    for number, one in enumerate(version.overlays):
        assert f'id="chip-{number}"' in visitor["stage"] and one.image.startswith("data:image/png;base64,")
    assert version.shows == SHOWS.replace("brown hair", "red hair")


def test_a_face_in_a_photograph(visitor: Visitor, tmp_path: Path) -> None:
    photo = Image.new("RGB", (900, 700), "grey")
    photo.paste(Image.open(PICTURES / "test-0093.png").resize((400, 400)), (300, 150))
    photo.save(tmp_path / "photo.jpg", quality=95)
    visitor.drop(tmp_path / "photo.jpg")
    for x, y in json.loads(POINTS):
        visitor.do(visitor.page.begin.point, visitor.parts.points, visitor.parts.tab,
                   event=pressed(x=(x + 0.5) / 900, y=(y + 0.5) / 700))  # fmt: skip
    assert json.loads(visitor["points"]) == json.loads(POINTS)
    shown = re.search(r'src="data:image/jpeg;base64,([^"]*)"', visitor["photo"])
    assert shown is not None
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown[1]))), int)
    assert np.abs(drawn[325, 455] - (255, 0, 170)).max() < 12  # where it was clicked
    model(visitor.set(scale=1.296, shift=0.111, words="a person with sunglasses"), "global-directions").edit()
    result, source = picture(visitor, 1), np.asarray(Image.open(tmp_path / "photo.jpg"))
    assert result.shape == source.shape and (result[:60] == source[:60]).all() and (result != source).any()
    assert visitor["command"].startswith("limner replay edit.json")
    assert visitor.shown[visitor.parts.draw]["visible"] is False  # the method has no masks
    visitor.do(visitor.page.begin.no_points, visitor.parts.tab)
    assert visitor["points"] == ""


# --- strength, versions -----------------------------------------------------------------------------------------


def move(visitor: Visitor, strength: Any) -> Visitor:
    visitor.set(strength=strength)
    parts = visitor.parts
    return visitor.do(visitor.page.make.strength, parts.strength, parts.secret, parts.tab)


@pytest.mark.parametrize("method", ["global-directions", "latent-optimization"])
def test_strength_without_a_run(visitor: Visitor, method: str) -> None:
    model(visitor, method).set(words="a surprised person").edit()
    whole = picture(visitor, 1)
    move(visitor, 0.5)
    half, made = picture(visitor, 1), read_recipe(desk_of(visitor).picture(1))
    assert (half != whole).any() and len(desk_of(visitor).versions()) == 1
    assert not any("step" in one for one in visitor.history[-2:])  # nothing ran
    family = shipped_bundle("stylegan2")
    np.testing.assert_array_equal(Editor(family, threads=2).edit(desk_of(visitor).placed(made)).image, half)
    assert f"--strength {made.prompts[0].strength:g} " in visitor["command"]
    move(visitor, 1.0)
    np.testing.assert_array_equal(picture(visitor, 1), whole)


def test_a_strength_that_cannot_be(visitor: Visitor) -> None:
    model(visitor, "latent-mapper").set(mappers=["beard"]).edit()
    whole = picture(visitor, 1)
    for strength, words in ((2.0, "prompts.strength: got 3.4"), (-3, "strength: got -3"), (None, "strength: got None"),
                            ("x", "strength: got 'x'"), (float("nan"), "strength: got nan")):  # fmt: skip
        assert words in move(visitor, strength).said
        assert visitor["strength"] == 1.0 and (picture(visitor, 1) == whole).all()  # the slider goes back


def test_events_that_no_page_sends(visitor: Visitor) -> None:
    visitor.edit()
    begin, choose, parts = visitor.page.begin, visitor.page.choose, visitor.parts
    nonsense: list[dict[str, Any]] = [{}, {"choice": None}, {"choice": "999"}, {"choice": ["x"]}, {"choice": "../../x"}]
    for data in nonsense:
        visitor.do(choose.choose, parts.secret, parts.tab, event=pressed(**data))
        assert visitor["tab"].current == 1
        assert "example: got" in visitor.do(begin.example, parts.secret, event=pressed(**data)).said
    places: list[dict[str, Any]] = [{}, {"x": 2, "y": 0}, {"x": "a", "y": 0}]
    for data in places:
        assert "photo.x: got" in visitor.do(begin.point, parts.points, parts.tab, event=pressed(**data)).said
    for pair in ((77, 1), ("x", 1), (1, -1)):
        visitor.set(first=pair[0], second=pair[1])
        assert "version: got" in visitor.do(choose.compare, parts.first, parts.second, parts.secret, parts.tab).said


def test_other_kinds_of_files(visitor: Visitor, tmp_path: Path) -> None:
    base = Image.open(PICTURES / "test-0093.png").convert("RGB")
    turned = Image.Exif()
    turned[0x0112] = 6
    base.rotate(90, expand=True).resize((300, 400)).save(tmp_path / "turned.jpg", exif=turned)
    base.convert("CMYK").save(tmp_path / "ink.jpg")
    base.save(tmp_path / "moving.gif", save_all=True, append_images=[base.rotate(5)])
    Image.fromarray(np.asarray(base.convert("L"), np.uint16) * 257).save(tmp_path / "deep.png")
    base.save(tmp_path / "odd name & <b>.webp")
    words = {"turned.jpg": "EXIF orientation", "ink.jpg": "CMYK", "moving.gif": "first of 2 frames", "deep.png":
             "16 bits", "odd name & <b>.webp": "a person with a beard"}  # fmt: skip
    model(visitor, "global-directions").set(words="a person with a beard")
    for number, (name, said) in enumerate(words.items(), start=1):
        visitor.drop(tmp_path / name).edit()
        assert said in visitor.said and visitor["tab"].current == number
        assert "<b>" not in visitor["command"]
    latents = Editor(shipped_bundle("stylegan2"), threads=2).invert(PICTURES / "test-0093.png").w_plus[0]
    (tmp_path / "latents.NPY").write_bytes(array_bytes(latents))
    model(visitor.drop(tmp_path / "latents.NPY"), "latent-mapper").set(mappers=["beard"]).edit()
    assert read_recipe(desk_of(visitor).picture(6)).source.kind == "w_plus"


def test_strength_of_an_edit_that_is_not_at_hand(page: Page) -> None:
    """A server that was started anew makes it again, to the same pixels."""
    visitor = Visitor(page)
    visitor.edit()
    first = move(visitor, 0.5)["stage"]
    page.make.context.edits._live.clear()
    move(visitor, 1.0)
    assert move(visitor, 0.5)["stage"] == first
    assert len(page.make.context.edits._live) <= MOST_LIVE


def test_edits_after_one_another_undo_and_compare(visitor: Visitor) -> None:
    model(visitor, "global-directions").set(words="a person with sunglasses").edit()
    visitor.set(words="a person with a beard", go_on="result").edit()
    both = read_recipe(desk_of(visitor).picture(2))
    assert [one.text for one in both.prompts] == ["a person with sunglasses", "a person with a beard"]
    assert desk_of(visitor).version(2).parent == 1
    visitor.set(go_on="result")
    model(visitor, "latent-mapper").set(mappers=["smiling"]).edit()  # another method starts from the picture
    third = read_recipe(desk_of(visitor).picture(3))
    assert third.source.path == "limner-0002.png" and desk_of(visitor).version(3).parent == 2
    for wanted in (2, 1, None):
        visitor.do(visitor.page.choose.undo, visitor.parts.secret, visitor.parts.tab)
        assert visitor["tab"].current == wanted
    assert 'id="picture-now"' in visitor["stage"]
    visitor.do(visitor.page.choose.choose, visitor.parts.secret, visitor.parts.tab, event=pressed(choice="2"))
    assert visitor["tab"].current == 2 and visitor["words"].splitlines()[1] == "a person with a beard"
    for pair in ((1, 3), (0, 1)):
        visitor.set(first=pair[0], second=pair[1])
        names = ("first", "second", "secret", "tab")
        visitor.do(visitor.page.choose.compare, *(getattr(visitor.parts, one) for one in names))
        assert f"<span>{pair[0] or 'source'}</span><span>{pair[1]}</span>" in visitor["stage"]


def test_a_result_that_was_gone_on_from_may_be_moved(visitor: Visitor) -> None:
    """Its strength changes its file; what was made from it keeps the one that it saw."""
    visitor.edit()
    model(visitor.set(go_on="result"), "latent-mapper").set(mappers=["beard"]).edit()
    visitor.do(visitor.page.choose.undo, visitor.parts.secret, visitor.parts.tab)
    move(visitor, 0.3)
    made = desk_of(visitor).placed(read_recipe(desk_of(visitor).picture(2)))
    again = Editor(shipped_bundle("stylegan2"), threads=2).edit(made)
    np.testing.assert_array_equal(again.image, picture(visitor, 2))


def test_a_reload_and_another_tab(page: Page) -> None:
    visitor = Visitor(page, "one")
    visitor.edit()
    other = Visitor(page, "two", visitor["secret"])
    assert other["tab"].current == 1 and "another tab" in other.said and other["stage"] == visitor["stage"]
    other.edit()
    assert [one.number for one in desk_of(visitor).versions()] == [1, 2]
    page.begin.leave(other.request)  # type: ignore[arg-type]
    page.begin.leave(visitor.request)  # type: ignore[arg-type]
    assert Visitor(page, "three", visitor["secret"]).said == ""


def test_forgotten(visitor: Visitor) -> None:
    visitor.edit().do(visitor.page.choose.forget, visitor.parts.secret)
    assert not desk_of(visitor).versions() and "deleted" in visitor.said and visitor["tab"].current is None
    visitor.edit()
    assert visitor["tab"].current == 1


# --- the brush --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["prompt-to-prompt", "sega"])
def test_the_brush(visitor: Visitor, method: str) -> None:
    model(example(visitor), method)
    red = SHOWS.replace("brown hair", "red hair").replace("blue", "green")
    visitor.set(shows=SHOWS, words=red if method == "prompt-to-prompt" else "+red hair")
    if method == "prompt-to-prompt":
        visitor.field("prompt-to-prompt-options-blend", "hair")
    visitor.edit().do(visitor.page.choose.draw, visitor.parts.secret, visitor.parts.tab)
    layer = canvas_of(visitor)
    assert (layer[..., 3] > 0).any() and layer.shape == (256, 256, 4)
    layer[200:240, 50:200] = 255  # over the shirt
    layer[:100, :128] = 0
    paint(visitor, layer)
    version = desk_of(visitor).version(2)
    options = Recipe.from_dict(version.asked).prompts[0].options
    add, remove = (read_drawn(name, getattr(options, name)) for name in ("mask_add", "mask_remove"))
    assert add[220, 100] and not add[150, 150] and remove[25:75, 25:100].any()
    now = mask_of(version.overlays, (256, 256))
    assert now[205:235, 55:195].all() and not now[5:95, 5:123].any()
    assert version.parent == 1 and (picture(visitor, 1) != picture(visitor, 2)).any()
    if method == "prompt-to-prompt":  # outside both masks both edits have the source's pixels
        outside = ~mask_of(desk_of(visitor).version(1).overlays, (128, 128)) & ~mask_of(version.overlays, (128, 128))
        assert outside.any() and (picture(visitor, 1)[outside] == picture(visitor, 2)[outside]).all()


def test_the_brush_on_a_face(visitor: Visitor, tmp_path: Path) -> None:
    """Masks lie over the face in the photograph, and strokes go into its square."""
    photo = Image.new("RGB", (900, 700), "grey")
    photo.paste(Image.open(PICTURES / "test-0115.png").resize((400, 400)), (300, 150))
    photo.save(tmp_path / "photo.png")
    model(visitor.drop(tmp_path / "photo.png"), "prompt-to-prompt")
    visitor.set(points=POINTS, scale=1.296, shift=0.111, shows=SHOWS, words=SHOWS.replace("brown hair", "red hair"))
    visitor.field("prompt-to-prompt-options-blend", "hair")
    visitor.edit()
    version = desk_of(visitor).version(1)
    mask = mask_of(version.overlays, (700, 900))
    assert mask[160:250, 420:580].any() and not mask[:100].any() and not mask[:, :200].any()
    visitor.do(visitor.page.choose.draw, visitor.parts.secret, visitor.parts.tab)
    layer = canvas_of(visitor)
    assert layer.shape == (256, 329, 4)
    beside = layer.copy()
    beside[:20, :20] = 255
    assert "beside the face" in paint(visitor, beside).said and len(desk_of(visitor).versions()) == 1
    layer[175:195, 150:215] = 255  # the shirt
    paint(visitor, layer)
    options = Recipe.from_dict(desk_of(visitor).version(2).asked).prompts[0].options
    add = read_drawn("mask_add", options.mask_add)
    assert add.shape == (256, 256) and add[200:, 60:190].any() and not add[:100].any()
    now = mask_of(desk_of(visitor).version(2).overlays, (700, 900))
    assert now[490:520, 430:570].all()


def canvas_of(visitor: Visitor) -> np.ndarray:
    """The canvas as a browser begins with it."""
    found = re.search(r'data-mask="data:image/png;base64,([^"]*)"', visitor["brush"])
    assert found is not None
    return np.array(Image.open(io.BytesIO(base64.b64decode(found[1]))))


def paint(visitor: Visitor, layer: np.ndarray | str | None) -> Visitor:
    url = layer
    if isinstance(layer, np.ndarray):
        held = io.BytesIO()
        Image.fromarray(layer).save(held, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"
    return visitor.do(visitor.page.make.again, visitor.parts.secret, visitor.parts.tab, event=pressed(painted=url))


def test_a_brush_that_did_nothing(visitor: Visitor) -> None:
    model(example(visitor), "prompt-to-prompt").set(shows=SHOWS, words=SHOWS.replace("brown hair", "red hair")).edit()
    visitor.do(visitor.page.choose.draw, visitor.parts.secret, visitor.parts.tab)
    large = np.zeros((4, 5000, 4), np.uint8)
    for given in (canvas_of(visitor), None, "", "data:image/png;base64,AAAA", "data:image/png;base64,\u00e9", large):
        assert paint(visitor, given).said.startswith("brush: got") and len(desk_of(visitor).versions()) == 1
    visitor.do(visitor.page.choose.close)
    assert visitor.shown[visitor.parts.brush]["visible"] is False


# --- replays ----------------------------------------------------------------------------------------------------


def test_a_result_that_is_dropped_is_replayed(page: Page, tmp_path: Path) -> None:
    first = Visitor(page, "one")
    model(first, "global-directions").set(words="a person with sunglasses").edit()
    copy = tmp_path / "renamed.png"
    copy.write_bytes(desk_of(first).picture(1).read_bytes())
    other = Visitor(page, "other").drop(copy)  # another browser: the source is one of the examples
    assert other.said == "Replayed: the same pixels." and other["words"] == "a person with sunglasses"
    np.testing.assert_array_equal(picture(other, 1), picture(first, 1))


def test_a_recipe_that_is_dropped(page: Page, tmp_path: Path) -> None:
    first = Visitor(page, "one")
    Image.open(PICTURES / "test-0093.png").convert("RGB").resize((200, 200)).save(tmp_path / "mine.png")
    first.drop(tmp_path / "mine.png")
    model(first, "latent-mapper").set(mappers=["beard"]).edit()
    (tmp_path / "edit.json").write_text(first["recipe"])
    other = Visitor(page, "other").drop(tmp_path / "edit.json")
    assert "mine.png" in other.said and "dropped beside" in other.said and not desk_of(other).versions()
    other.drop(tmp_path / "edit.json", tmp_path / "mine.png")
    assert other["tab"].current == 1 and other["mappers"] == ["beard"]
    np.testing.assert_array_equal(picture(other, 1), picture(first, 1))
    changed = json.loads(first["recipe"])
    (tmp_path / "edit.json").write_text(json.dumps(changed | {"bundle": "0" * 64}))
    other.drop(tmp_path / "edit.json")
    assert "bundle" in other.said and "0000" in other.said


def test_no_path_of_a_recipe_is_followed(visitor: Visitor, tmp_path: Path) -> None:
    inside = tmp_path / "private.png"
    Image.new("RGB", (64, 64), "red").save(inside)
    for source in ({"kind": "image", "path": str(inside)}, {"kind": "image", "path": "/etc/passwd", "sha256": "0" * 64},
                   {"kind": "w_plus", "path": str(inside)}, {"kind": "image"}):  # fmt: skip
        recipe = {"method": "global-directions", "source": source, "prompts": [{"text": "a beard"}]}
        (tmp_path / "edit.json").write_text(json.dumps(recipe))
        visitor.drop(tmp_path / "edit.json")
        assert "source: got" in visitor.said and not desk_of(visitor).versions()
        assert str(tmp_path) not in visitor.said


# --- what is refused --------------------------------------------------------------------------------------------


def bad_files(folder: Path) -> dict[str, Path]:
    texts = {"hello.png": b"hello" * 50, "empty.png": b"", "list.json": b"[1]", "broken.json": b"{", "deep.json":
             b"[" * 100_000, "page.html": b"<script>alert(1)</script>", "pickle.npy": b"\x80\x04."}  # fmt: skip
    for name, data in texts.items():
        (folder / name).write_bytes(data)
    Image.new("RGB", (6000, 5000)).save(folder / "large.png")
    Image.new("RGB", (8, 8)).save(folder / "small.png")
    return {path.name: path for path in folder.iterdir()}


def test_files_that_are_none(visitor: Visitor, tmp_path: Path) -> None:
    for name, path in bad_files(tmp_path).items():
        if name != "pickle.npy":
            visitor.drop(path)
            assert "error" in visitor["said"] and visitor.said, name
    visitor.drop(PICTURES / "test-0014.png", PICTURES / "test-0030.png")
    assert "2 pictures" in visitor.said
    visitor.drop(tmp_path / "pickle.npy")
    visitor.edit()
    assert "error" in visitor["said"] and not desk_of(visitor).versions()


@pytest.mark.parametrize(("values", "fields", "words"), [
    ({"words": " "}, {}, "words: got nothing"),
    ({"words": "?!"}, {}, "prompts.text: got '?!'"),
    ({}, {"global-directions-parameters-alpha": "much"}, "alpha: got 'much'; allowed: a number"),
    ({}, {"global-directions-parameters-alpha": "99"}, "parameters.alpha: got 99"),
    ({}, {"global-directions-parameters-channels": "1.5"}, "channels: got '1.5'; allowed: a whole number"),
    ({}, {"global-directions-inversion-refine-steps": "999"}, "recipe.inversion.refine_steps"),
    ({"kind": "words", "source_words": "a cat"}, {}, "words with global-directions"),
    ({"kind": "seed", "seed": 1.5}, {}, "seed: got 1.5"),
    ({"kind": "seed", "seed": None}, {}, "seed: got None"),
    ({"kind": "seed", "seed": -1}, {}, "seed: got -1"),
    ({"points": "[[1, 2]]"}, {}, "points: got 1 points"),
    ({"points": "hello"}, {}, "points"),
    ({"points": POINTS.replace("455", "545")}, {}, "points"),
    ({"finder": "none such"}, {}, "landmark"),
    ({"model": "avatars:nothing"}, {}, "model: got 'avatars:nothing'"),
    ({"scale": 99}, {}, "framing.scale: got 99"),
])  # fmt: skip
def test_a_form_that_cannot_be(visitor: Visitor, values: dict[str, Any], fields: dict[str, str], words: str) -> None:
    example(visitor)
    model(visitor, "global-directions").set(words="a person with a beard").set(**values)
    for place, value in fields.items():
        visitor.field(place, value)
    visitor.edit()
    assert words in visitor.said and "error" in visitor["said"]
    assert not desk_of(visitor).versions() and visitor.shown.get(visitor.parts.edit, {}).get("interactive", True)


def test_a_seed_is_not_the_diffusion_model_s(visitor: Visitor) -> None:
    model(visitor.set(kind="seed"), "sega").set(words="+glasses").edit()
    assert "a seed of StyleGAN2 with sega" in visitor.said


def test_stop(visitor: Visitor) -> None:
    model(visitor, "latent-optimization").set(words="a surprised person")
    visitor.field("latent-optimization-parameters-steps", "300")
    visitor.field("latent-optimization-parameters-patience", "0")

    async def both() -> None:
        async def made() -> None:
            async for one in visitor.page.make.run(visitor.values, visitor.request):  # type: ignore[arg-type]
                visitor.take(one)

        running = asyncio.create_task(made())
        while not any("step 3" in one for one in visitor.history):
            await asyncio.sleep(0.01)
        answer = visitor.page.make.stop(visitor.request)  # type: ignore[arg-type]
        assert answer == gr.skip()  # it comes at any time, and says nothing over what the edit says
        await asyncio.wait_for(running, 10)

    asyncio.run(both())
    assert visitor.said == "Stopped: everything is as it was." and not desk_of(visitor).versions()
    assert visitor.shown[visitor.parts.edit]["interactive"]
    assert "Nothing runs" in visitor.page.make.stop(visitor.request)  # type: ignore[arg-type]


def test_time_that_is_up_and_limits(tmp_path: Path) -> None:
    visitor = Visitor(page_at(tmp_path, Limits(seconds=0.3, steps=40, requests_per_minute=2, megapixels=0.01)))
    model(visitor, "latent-optimization").set(words="a surprised person")
    visitor.field("latent-optimization-parameters-steps", "400")
    visitor.edit()
    assert "at most 40 steps" in visitor.said
    visitor.field("latent-optimization-parameters-steps", "40")
    visitor.edit()
    assert "deadline" in visitor.said
    visitor.edit().edit()
    assert "more than 2 requests a minute" in visitor.said
    assert "more than 2 requests a minute" in visitor.drop(PICTURES / "test-0014.png").said
    visitor.page.make.context.state.rates.a_minute = 1000
    visitor.page.make.context.state.rates._left.clear()
    assert "megapixels" in visitor.drop(PICTURES / "test-0014.png").said
    visitor.set(secret="../../etc").do(visitor.page.begin.arrive, visitor.parts.secret)
    assert len(visitor["secret"]) >= 22


def test_a_failure_says_nothing_of_paths(visitor: Visitor) -> None:
    visitor.edit()
    for path in desk_of(visitor).folder.glob("sources/*/*"):
        path.unlink()
    visitor.edit()
    assert "error" in visitor["said"] and str(desk_of(visitor).folder) not in visitor.said
    assert re.match(r"picture: got 'test-\d+.png', which is gone", visitor.said)


def test_warnings_are_said(visitor: Visitor, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (200, 300, 3), np.uint8)).save(tmp_path / "noise.png")
    model(visitor.drop(tmp_path / "noise.png"), "global-directions").set(words="a person with a zeppelin").edit()
    assert "never saw: 'zeppelin'" in visitor.said and "keep little of the source" in visitor.said


def test_an_edit_of_its_own_library(visitor: Visitor, tmp_path: Path) -> None:
    """Files of the page and of the command line are the same kind."""
    made = Editor(shipped_bundle("stylegan2"), threads=2).edit(
        Recipe.from_dict({"method": "global-directions", "source": {"kind": "seed", "seed": 3},
                          "prompts": [{"text": "a person with a beard"}]}))  # fmt: skip
    write_edit(tmp_path / "seed.png", made)
    visitor.drop(tmp_path / "seed.png")
    assert visitor.said == "Replayed: the same pixels." and visitor["kind"] == "seed" and visitor["seed"] == 3


# --- other bundles ----------------------------------------------------------------------------------------------


def test_two_bundles_of_a_family(tmp_path: Path) -> None:
    shipped = shipped_bundle("stylegan2")
    copy = tmp_path / "copy"
    shutil.copytree(shipped, copy)
    visitor = Visitor(page_at(tmp_path / "work", bundles=(("ours", shipped), ("copy", copy))))
    assert [value for _, value in visitor.parts.model.choices][0::3] == [
        "ours:global-directions",
        "copy:global-directions",
    ]
    visitor.set(model="copy:latent-mapper").do(visitor.page.begin.fitted, visitor.parts.model, visitor.parts.kind)
    visitor.set(mappers=["beard"]).edit()
    assert desk_of(visitor).version(1).model == "copy:latent-mapper"
    assert f"--bundle {copy}" in visitor["command"] and f"Editor({str(copy)!r})" in visitor["python"]
    visitor.set(model="ours:latent-mapper").edit()
    assert "--bundle" not in visitor["command"]


def test_a_diffusion_model_alone(tmp_path: Path) -> None:
    visitor = Visitor(page_at(tmp_path, bundles=(("", shipped_bundle("diffusion")),)))
    assert visitor["kind"] == "words" and visitor["model"].endswith(":prompt-to-prompt")
    visitor.edit()
    assert visitor["tab"].current == 1 and len(visitor.parts.groups) == 2


# --- signed pictures --------------------------------------------------------------------------------------------


def sign(monkeypatch: pytest.MonkeyPatch, by: Issued) -> None:
    monkeypatch.setenv("LIMNER_SIGNING_CERT", str(by.chain))
    monkeypatch.setenv("LIMNER_SIGNING_KEY", str(by.key))


def test_results_are_signed_where_somebody_signs(
    visitor: Visitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = issued(tmp_path / "signer")
    sign(monkeypatch, signer)
    visitor.edit()
    authority = signer.authority.read_text()
    found = read_credentials(desk_of(visitor).picture(1).read_bytes(), authority)
    assert found is not None and found.state == "trusted" and found.actions == ("c2pa.opened", "c2pa.edited")
    move(visitor, 0.5)
    moved = read_credentials(desk_of(visitor).picture(1).read_bytes(), authority)
    assert moved is not None and moved.state == "trusted" and moved.recipe != found.recipe


def test_a_certificate_that_has_expired_meanwhile(
    visitor: Visitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(monkeypatch, issued(tmp_path / "old", first=-30, last=-1))
    visitor.edit()
    assert visitor.said == "the server cannot sign or mark pictures at the moment"  # the log has the file and the day
    assert not desk_of(visitor).versions()
    monkeypatch.delenv("LIMNER_SIGNING_CERT")
    monkeypatch.delenv("LIMNER_SIGNING_KEY")
    visitor.edit()
    assert visitor["tab"].current == 1


def test_a_source_whose_credentials_do_not_hold(
    visitor: Visitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is edited all the same, and said; it stays the parent as it is."""
    signer = issued(tmp_path / "signer")
    sign(monkeypatch, signer)
    held = io.BytesIO()
    Image.open(PICTURES / "test-0093.png").convert("RGB").save(held, "JPEG", quality=95)
    sound = signed(held.getvalue(), ".jpg", "0" * 64, None, load_signing(str(signer.chain), str(signer.key)))
    broken = bytearray(sound)
    broken[-60] ^= 1
    model(visitor, "global-directions").set(words="a person with a beard")
    for number, (name, data) in enumerate((("sound.jpg", sound), ("broken.jpg", bytes(broken))), start=1):
        (tmp_path / name).write_bytes(data)
        visitor.drop(tmp_path / name).edit()
        assert visitor["tab"].current == number and ("do not hold" in visitor.said) == (name == "broken.jpg")
        found = read_credentials(desk_of(visitor).picture(number).read_bytes(), signer.authority.read_text())
        assert found is not None and len(found.parents) == 1
        assert ("do not hold" in found.parents[0]) == (name == "broken.jpg")
