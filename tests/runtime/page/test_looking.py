"""What lies over a picture is what the methods' own pictures show; words of people stay words in the HTML."""

import base64
import html.parser
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limner.runtime.attention.maps import shaded
from limner.runtime.attention_maps import AttentionMaps
from limner.runtime.page.desk import Overlay
from limner.runtime.page.drawing import brush, mask_of, painted
from limner.runtime.page.looking import (
    TINT,
    TINTED,
    VERSIONS,
    file_url,
    overlays_of,
    photo_html,
    picture_url,
    said,
    save_link,
    stage,
    thumb_url,
    thumbs,
    working,
)
from limner.runtime.recipe import PromptEdit, Recipe, Source

HOSTILE = "\"><script>alert(1)</script><img src=x onerror='alert(2)'>&amp;"


class Read(html.parser.HTMLParser):
    """Elements and texts of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def decoded(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


class Found:
    """An edit's maps and masks."""

    def __init__(self, maps: tuple[AttentionMaps, ...], pictures: dict[str, np.ndarray]) -> None:
        self.maps, self.pictures = maps, pictures
        self.recipe = Recipe("sega", Source.from_prompt("a cat", 1), (PromptEdit("hat"),))


def test_a_word_s_map_is_the_method_s() -> None:
    rng = np.random.default_rng(0)
    steps = rng.random((3, 2, 32, 32)).astype(np.float32)
    found = overlays_of(Found((AttentionMaps("x", ("red", "hat"), steps, (3, 2, 1)),), {}))  # type: ignore[arg-type]
    picture = rng.integers(0, 256, (32, 32, 3), np.uint8)
    for overlay, attention in zip(found, steps.mean(axis=0), strict=True):
        over = Image.alpha_composite(Image.fromarray(picture).convert("RGBA"), decoded(overlay.image).convert("RGBA"))
        wanted = shaded(picture, attention)
        assert np.abs(np.asarray(over)[..., :3].astype(int) - wanted).max() <= 2
    assert [one.name for one in found] == ["red", "hat"] and {one.kind for one in found} == {"word"}


def test_a_mask_is_tinted_inside() -> None:
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[:32] = 255
    found = overlays_of(Found((), {"mask-red-hat": mask, "mask": mask, "maps-words": mask}))  # type: ignore[arg-type]
    assert [one.name for one in found] == ["mask: red-hat", "mask"]
    seen = np.asarray(decoded(found[0].image))
    assert (seen[:32] == (*TINT, round(255 * TINTED))).all() and (seen[32:, :, 3] == 0).all()
    np.testing.assert_array_equal(mask_of(found, (128, 128)), np.repeat(np.repeat(mask[..., 0] > 0, 2, 0), 2, 1))


def test_the_brush_begins_with_the_mask(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGB", (300, 200), "red").save(path)
    mask = np.zeros((200, 300, 3), np.uint8)
    mask[50:100, 30:200] = 255
    overlays = overlays_of(Found((), {"mask": mask}))  # type: ignore[arg-type]
    canvas = next(attributes for tag, attributes in Read(brush(path, overlays)).elements if tag == "canvas")
    assert (canvas["width"], canvas["height"], canvas["tabindex"]) == ("384", "256", "0")
    url = str(canvas["data-mask"])
    assert decoded(url).size == (384, 256)
    with pytest.raises(Exception, match="the mask as it was"):
        painted(url, overlays)


@pytest.mark.parametrize("text", [
    stage("data:,a", "data:,b", (Overlay(HOSTILE, "word", "data:,c"),), (HOSTILE, HOSTILE)),
    thumbs(VERSIONS, [("version-1", HOSTILE, "data:,a", HOSTILE)], HOSTILE), said("error", HOSTILE),
    said("note", HOSTILE), working("data:,a", HOSTILE), save_link(HOSTILE, HOSTILE), photo_html("data:,a"),
])  # fmt: skip
def test_words_stay_words(text: str) -> None:
    read = Read(text)
    assert "script" not in {tag for tag, _ in read.elements}
    assert not any(name.startswith("on") for _, attributes in read.elements for name in attributes)
    images = [attributes for tag, attributes in read.elements if tag == "img"]
    assert all(str(attributes["src"]).startswith("data:") for attributes in images)


def test_pictures_as_addresses(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    small, large = (Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)) for side in (64, 700))
    np.testing.assert_array_equal(np.asarray(decoded(picture_url(small))), np.asarray(small))
    assert picture_url(large).startswith("data:image/jpeg") and decoded(thumb_url(large)).size == (160, 160)
    large.resize((2400, 1800)).save(tmp_path / "photo.png")
    assert decoded(file_url(tmp_path / "photo.png")).size == (1600, 1200)
    assert said("done") == "" and "<progress" in said("note", done=(1, 2)) and photo_html(None) == ""
    assert "href" not in save_link(None)
