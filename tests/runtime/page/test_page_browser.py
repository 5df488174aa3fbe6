"""The page in Debian's Chromium: each method, slider, maps, brush, undo, stop, replay, phone, keyboard, failures."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from support.browser import chromium, until
from support.page_driver import DESKTOP, PHONE, SHOWS, Driver
from support.server import Server, served, start_server

from limner.runtime.bundle.shipped import demo_file
from limner.runtime.provenance import read_recipe
from limner.runtime.server.keys import add_key

PICTURES = demo_file().parent / "pictures"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("page"), ["--ui"]) as found:
        yield found


def test_each_method(server: Server) -> None:
    with chromium(viewport=DESKTOP) as context:
        it = Driver(context, server.url)
        it.edit()  # as it comes: global directions
        it.method("latent-mapper")
        it.page.click("#mappers input")
        it.page.keyboard.type("beard")
        it.page.keyboard.press("Enter")
        it.page.keyboard.press("Escape")
        it.edit()
        it.method("latent-optimization")
        it.fill("words", "a surprised person")
        it.edit()
        it.method("prompt-to-prompt")
        it.fill("shows", SHOWS)
        it.fill("words", SHOWS.replace("brown hair", "red hair"))
        it.edit()
        it.method("sega")
        it.fill("words", "+sunglasses")
        it.edit()
        assert it.versions == 5
        it.page.click("#kind label:has-text('Words')")
        it.fill("source-words", SHOWS)
        it.edit()
        it.page.click("#kind label:has-text('A seed')")
        it.method("global-directions")
        it.fill("words", "a person with a beard")
        it.page.click("#another")
        it.edit()
        it.nothing_else()


def test_slider_strength_and_where_words_look(server: Server) -> None:
    with chromium(viewport=DESKTOP) as context:
        it = Driver(context, server.url)
        it.edit()
        page = it.page
        page.focus("#slider")
        for _ in range(10):
            page.keyboard.press("ArrowRight")
        assert it.cut() == "60%"
        box = page.query_selector("#pair").bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
        assert float(it.cut().rstrip("%")) == pytest.approx(25, abs=2)
        before = page.get_attribute("#picture-after", "src")
        page.focus("#strength input[type=range]")
        for _ in range(4):
            page.keyboard.press("ArrowLeft")
        it.wait(lambda: "strength 0.8" in it.said)
        assert page.get_attribute("#picture-after", "src") != before and it.versions == 1
        assert float(it.cut().rstrip("%")) == pytest.approx(25, abs=2)  # where it was left
        it.method("prompt-to-prompt")
        it.fill("shows", SHOWS)
        it.fill("words", SHOWS.replace("brown hair", "red hair"))
        it.fill("prompt-to-prompt-options-blend", "hair")
        it.edit()
        words = [one.inner_text() for one in page.query_selector_all(".chip")]
        assert words[:3] == ["mask", "a", "neutral"] and "red" in words
        number = words.index("red")
        overlay = f"document.getElementById('overlay-{number}').hidden"
        page.hover(f"#chip-{number}")
        assert page.evaluate(overlay) is False
        page.mouse.move(3, 3)
        assert page.evaluate(overlay) is True
        page.focus(f"#chip-{number}")
        assert page.evaluate(overlay) is False
        page.keyboard.press("Space")
        page.focus("#slider")
        assert page.evaluate(overlay) is False and page.get_attribute(f"#chip-{number}", "aria-pressed") == "true"
        it.nothing_else()


def test_the_brush(server: Server) -> None:
    with chromium(viewport=DESKTOP) as context:
        it = Driver(context, server.url)
        it.method("prompt-to-prompt")
        it.fill("shows", SHOWS)
        it.fill("words", SHOWS.replace("brown hair", "red hair").replace("blue", "green"))
        it.fill("prompt-to-prompt-options-blend", "hair")
        it.edit()
        page = it.page
        page.click("#draw")
        page.wait_for_selector("#brush-canvas")
        page.query_selector("#brush-again").scroll_into_view_if_needed()
        box = page.query_selector("#brush-canvas").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.75
        page.mouse.move(x - 60, y)
        page.mouse.down()
        page.mouse.move(x + 60, y, steps=12)
        page.mouse.up()
        it.edit("#brush-again")
        assert not page.is_visible("#brush-canvas")
        page.click("#copies button >> nth=0")
        page.click("#tab-recipe-button")
        assert '"mask_add": "iVBOR' in page.inner_text("#copy-recipe .cm-content")
        page.click("#undo")
        it.wait(lambda: page.query_selector("#strip [aria-pressed=true]") is not None)
        it.nothing_else()


def test_undo_compare_save_and_replay(server: Server, tmp_path: Path) -> None:
    with chromium(viewport=DESKTOP, accept_downloads=True) as context:
        it = Driver(context, server.url)
        page = it.page
        it.edit()
        page.click("#go-on label:has-text('the result')")
        it.fill("words", "a person with a beard")
        it.edit()
        page.click("#compare-first input")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        it.wait(lambda: "source" not in page.inner_text(".names"))
        page.click("#undo")
        it.wait(lambda: page.inner_text("#said").startswith("1:"))
        page.click("#undo")
        page.wait_for_selector("#picture-now")
        page.click("#version-2")
        it.wait(lambda: page.query_selector("#picture-after") is not None)
        page.click("#copies button >> nth=0")
        command = page.inner_text("#copy-command .cm-content")
        assert re.match(r"limner edit test-\d+\.png 'a person with sunglasses' 'a person with a beard'", command)
        with page.expect_download() as saved:
            page.click("#save")
        saved.value.save_as(tmp_path / "saved.png")
        assert len(read_recipe(tmp_path / "saved.png").prompts) == 2
    with chromium(viewport=DESKTOP) as context:  # another person's browser
        it = Driver(context, server.url)
        it.drop(tmp_path / "saved.png")
        it.wait(lambda: it.said == "Replayed: the same pixels.")
        assert it.page.input_value("#words textarea") == "a person with sunglasses\na person with a beard"
        it.nothing_else()


def test_stop_stops(server: Server) -> None:
    with chromium(viewport=DESKTOP) as context:
        it = Driver(context, server.url)
        it.method("latent-optimization")
        it.fill("words", "a surprised person")
        it.page.click("#settings-latent-optimization button >> nth=0")
        it.fill("latent-optimization-parameters-steps", "400")
        it.fill("latent-optimization-parameters-patience", "0")
        it.page.click("#edit")
        it.wait(lambda: it.page.query_selector("#progress") is not None and "step" in it.said)
        it.wait(lambda: it.page.query_selector("#picture-now[alt='on the way']") is not None)
        it.page.click("#stop")
        it.wait(lambda: it.said == "Stopped: everything is as it was.", 10)
        assert it.versions == 0 and it.page.is_enabled("#edit")
        it.nothing_else()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(server: Server, scheme: str) -> None:
    with chromium(viewport=PHONE, has_touch=True, is_mobile=True, color_scheme=scheme) as context:
        it = Driver(context, server.url)
        it.method("prompt-to-prompt")
        it.fill("shows", SHOWS)
        it.fill("words", SHOWS.replace("brown hair", "red hair"))
        it.page.tap("#edit")
        it.wait(lambda: it.versions == 1 and it.page.is_enabled("#edit"))
        until(it.page, "() => document.getElementById('said').getBoundingClientRect().top < innerHeight")
        it.page.tap("#chip-3")
        assert it.page.evaluate("document.getElementById('overlay-3').hidden") is False
        shade = it.page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert (sum(shade[:3]) < 200) == (scheme == "dark")
        it.nothing_else()


def test_by_the_keyboard_alone(server: Server) -> None:
    with chromium(viewport=DESKTOP) as context:
        it = Driver(context, server.url)
        page = it.page
        seen: list[str] = []
        for _ in range(60):  # from field to field, as far as the button
            page.keyboard.press("Tab")
            place = page.evaluate("document.activeElement.closest('[id]:not([id*=component])')?.id || ''")
            seen.append(place)
            if place == "edit":
                break
        assert seen[-1] == "edit" and {"starts", "words"} <= {*seen}
        page.keyboard.press("Enter")
        it.wait(lambda: it.versions == 1)


def test_every_component_has_an_id(server: Server) -> None:
    with chromium(viewport=DESKTOP) as context:
        it = Driver(context, server.url)
        config = it.page.evaluate("window.gradio_config.components.map((one) => [one.type, one.props.elem_id])")
        inside = {"row", "column", "form", "state", "browserstate"}
        nameless = [kind for kind, name in config if not name and kind not in inside]
        assert not nameless, nameless
        names = [name for _, name in config if name]
        assert len(names) == len({*names})


def test_bad_input_is_one_sentence(server: Server, tmp_path: Path) -> None:
    (tmp_path / "hello.png").write_bytes(b"hello" * 100)
    with chromium(viewport=DESKTOP) as context:
        it = Driver(context, server.url)
        it.drop(tmp_path / "hello.png")
        it.wait(lambda: it.said.startswith("file: got 'hello.png', which does not open as a picture"))
        it.fill("words", "  ")
        it.page.click("#edit")
        it.wait(lambda: it.said.startswith("words: got nothing"))
        assert it.page.is_enabled("#edit") and it.page.get_attribute("#said .error", "role") == "alert"
        other = Driver(context, server.url)
        other.wait(lambda: "another tab" in other.said)
        it.nothing_else()


def test_a_picture_that_is_too_large(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (400, 400, 3), np.uint8)).save(tmp_path / "large.png")
    limits = ["--limit", "upload_mb=0.1"]
    with served(tmp_path / "work", ["--ui", *limits]) as server, chromium(viewport=DESKTOP) as context:
        it = Driver(context, server.url)
        it.drop(tmp_path / "large.png")
        it.wait(lambda: "exceed the maximum allowed size" in it.page.inner_text("body"))
        it.edit()  # the page goes on


def test_a_server_that_went_away(tmp_path: Path) -> None:
    server = start_server(tmp_path, "--ui")
    port = str(urlsplit(server.url).port)
    try:
        with chromium(viewport=DESKTOP) as context:
            it = Driver(context, server.url)
            it.edit()
            server.kill()
            it.page.wait_for_selector("#gone", timeout=20_000)
            assert "Your versions are kept" in it.page.inner_text("#gone")
            server = start_server(tmp_path, "--ui", "--port", port)
            until(it.page, "() => document.getElementById('gone') === null", seconds=30)
            it.page.goto(f"{server.url}/")  # or it loads itself anew
            it.arrived()
            it.wait(lambda: it.versions == 1)
            it.edit()
            assert it.versions == 2
    finally:
        server.kill()


def test_keys(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    key, other = add_key(keys, "anna"), add_key(keys, "metrics alone", ("metrics",))
    arguments = ["--ui", "--key-file", str(keys)]
    with served(tmp_path / "work", arguments) as server, chromium(viewport=DESKTOP) as context:
        it = Driver(context, server.url, opened=False)
        page = it.page
        for name, given in (("anna", "lk-wrong"), ("bert", key), ("metrics alone", other)):
            page.fill("input >> nth=0", name)
            page.fill("input[type=password]", given)
            page.click("button:has-text('Login')")
            page.wait_for_selector("text=Incorrect")
            assert page.query_selector("#edit") is None
        page.fill("input >> nth=0", "anna")
        page.fill("input[type=password]", key)
        page.click("button:has-text('Login')")
        it.arrived()
        it.edit()
        address = urlsplit(page.evaluate("document.getElementById('save').href"))
        with server.client() as client:  # an address that nobody can guess
            assert client.get(address.path).headers["content-type"] == "image/png"
            assert client.get(f"/ui-files/{'A' * 32}/limner-0001.png").status_code == 404
            assert client.get("/ui/gradio_api/queue/data?session_hash=x").status_code in (401, 403)
        assert not [one for one in it.asked if str(tmp_path) in one]  # nor a word of where anything lies
