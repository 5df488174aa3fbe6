"""How long it takes from the start of `limner ui` to a first edit on the page, and pictures of every step.

PYTHONPATH=tests python -m benchmarks.page [--runs 3] [--shots FOLDER] [--docs docs/pictures]

Needs Debian's Chromium. Shots are those of a desktop's and of a phone's width; the documentation's are made of them.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from support.browser import chromium
from support.page_driver import DESKTOP, PHONE, SHOWS, Driver

WIDE, NARROW = 900, 300  # pixels of a shot in the documentation


@contextmanager
def page_of(work: Path) -> Iterator[tuple[str, float]]:
    """`limner ui` as its documentation prints it: its address, and when it was started."""
    command = [sys.executable, "-m", "limner.runtime", "ui", "--no-open", "--port", "0", "--work", str(work)]
    began = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                found = re.search(r"the page is at (http://\S+)/ui/", line)
                if found:
                    yield found[1], began
                    break
        finally:
            process.terminate()
            process.stderr.read()


def seconds() -> dict[str, float]:
    """Of one start: until it listens, until the page is there, until the first edit is shown."""
    with tempfile.TemporaryDirectory() as folder, page_of(Path(folder)) as (url, began), chromium() as context:
        listens = time.perf_counter() - began
        it = Driver(context, url)
        there = time.perf_counter() - began
        it.edit()
        return {"listens": listens, "page": there, "first edit": time.perf_counter() - began}


def shots(folder: Path, narrow: bool) -> list[Path]:
    """Every step, as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    more: dict[str, Any] = (
        {"viewport": PHONE, "has_touch": True, "is_mobile": True} if narrow else {"viewport": DESKTOP}
    )

    def take(it: Driver, name: str, place: str | None = None) -> None:
        path = folder / f"{len(made):02d}-{name}.png"
        if place is not None:
            it.page.query_selector(place).scroll_into_view_if_needed()
            time.sleep(0.3)
        it.page.screenshot(path=str(path), full_page=place is None)
        made.append(path)

    with tempfile.TemporaryDirectory() as work, page_of(Path(work)) as (url, _), chromium(**more) as context:
        it = Driver(context, url)
        take(it, "arrived")
        it.edit()
        take(it, "first-edit")
        it.page.focus("#slider")
        for _ in range(25):
            it.page.keyboard.press("ArrowLeft")
        it.page.focus("#strength input[type=range]")
        for _ in range(6):
            it.page.keyboard.press("ArrowLeft")
        it.wait(lambda: "strength 0.7" in it.said)
        take(it, "strength", "#strength")
        it.page.click("#go-on label:has-text('the result')")
        it.fill("words", "a person with a beard")
        it.edit()
        it.page.click("#go-on label:has-text('the source')")
        it.method("prompt-to-prompt")
        it.fill("shows", SHOWS)
        it.fill("words", SHOWS.replace("brown hair", "red hair"))
        it.fill("prompt-to-prompt-options-blend", "hair")
        it.edit()
        words = [one.inner_text() for one in it.page.query_selector_all(".chip")]
        it.page.focus(f"#chip-{words.index('hair')}")
        take(it, "where-a-word-looks", "#stage")
        it.page.focus("#slider")
        it.page.click("#chip-0")
        take(it, "mask", "#stage")
        it.page.click("#draw")
        it.page.wait_for_selector("#brush-canvas")
        it.page.query_selector("#brush-again").scroll_into_view_if_needed()
        time.sleep(0.3)
        box = it.page.query_selector("#brush-canvas").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.7
        it.page.mouse.move(x - 40, y)
        it.page.mouse.down()
        it.page.mouse.move(x + 40, y, steps=10)
        it.page.mouse.up()
        time.sleep(0.5)
        take(it, "brush", "#brush-again")
        it.edit("#brush-again")
        it.page.click("#copies button >> nth=0")
        take(it, "versions-and-copies", "#copies")
        it.method("latent-optimization")
        it.fill("words", "a surprised person")
        it.page.click("#settings-latent-optimization button >> nth=0")
        it.fill("latent-optimization-parameters-steps", "400")
        it.page.click("#settings-latent-optimization button >> nth=0")
        it.page.click("#edit")
        it.wait(lambda: it.page.query_selector("#picture-now[alt='on the way']") is not None)
        take(it, "on-the-way", "#said")
        it.page.click("#stop")
        it.wait(lambda: "Stopped" in it.said)
        it.fill("words", "")
        it.page.click("#edit")
        it.wait(lambda: "words: got nothing" in it.said)
        take(it, "a-sentence", "#said")
    return made


def joined(paths: list[Path], width: int, columns: int) -> Image.Image:
    """Shots side by side, on white."""
    images = []
    for path in paths:
        with Image.open(path) as opened:
            images.append(opened.convert("RGB").resize((width, round(opened.height * width / opened.width))))
    rows = [images[first : first + columns] for first in range(0, len(images), columns)]
    heights = [max(one.height for one in row) for row in rows]
    whole = Image.new("RGB", (columns * (width + 8) - 8, sum(heights) + 8 * (len(rows) - 1)), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, one in enumerate(row):
            whole.paste(one, (column * (width + 8), top))
        top += height + 8
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--shots", type=Path, default=None)
    parser.add_argument("--docs", type=Path, default=None)
    given = parser.parse_args()
    for _ in range(given.runs):
        print(json.dumps({name: round(value, 2) for name, value in seconds().items()}), flush=True)
    if given.shots is None:
        return
    wide, narrow = (shots(given.shots / name, name == "phone") for name in ("desktop", "phone"))
    if given.docs is not None:
        joined(wide[1:2], WIDE, 1).save(given.docs / "page.jpg", quality=85)
        joined([wide[3], wide[5]], WIDE // 2, 2).save(given.docs / "page-masks.jpg", quality=85)
        joined([narrow[2], narrow[3], narrow[7]], NARROW, 3).save(given.docs / "page-phone.jpg", quality=85)


if __name__ == "__main__":
    main()
