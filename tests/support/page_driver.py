"""The page in a browser, as tests and the benchmark use it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from support.browser import until

__all__ = ["DESKTOP", "PHONE", "SHOWS", "Driver"]

SHOWS = ("a neutral person with brown skin, short brown hair, no beard and no glasses, wearing a blue t-shirt, "
         "pink background")  # fmt: skip
DESKTOP, PHONE = {"width": 1280, "height": 1000}, {"width": 390, "height": 844}


class Driver:
    """One page, and what it asked for and said meanwhile."""

    def __init__(self, context: Any, url: str, opened: bool = True) -> None:
        self.page, self.url = context.new_page(), url
        self.asked: list[str] = []
        self.wrong: list[str] = []
        self.page.on("request", lambda one: self.asked.append(one.url))
        self.page.on("pageerror", lambda one: self.wrong.append(str(one)))
        self.page.on("console", lambda one: self.wrong.append(one.text) if one.type == "error" else None)
        self.page.goto(f"{url}/")
        if opened:
            self.arrived()

    def arrived(self) -> None:
        self.page.wait_for_selector("#edit", timeout=60_000)
        until(self.page, "() => document.querySelector('#stage img') !== null")
        until(self.page, "() => document.querySelector('#about em') !== null")

    @property
    def said(self) -> str:
        return str(self.page.inner_text("#said"))

    @property
    def versions(self) -> int:
        return len(self.page.query_selector_all("#strip .thumb"))

    def wait(self, right: Callable[[], Any], seconds: float = 90.0) -> None:
        end = time.monotonic() + seconds
        while not right():
            assert time.monotonic() < end, self.said
            time.sleep(0.05)

    def method(self, name: str) -> None:
        self.page.click(f"#method label:has-text('{name}')")
        until(self.page, "(name) => document.querySelector(`#settings-${name}`)?.offsetParent != null", name)

    def fill(self, place: str, text: str) -> None:
        self.page.fill(f"#{place} :is(input, textarea)", text)

    def edit(self, button: str = "#edit") -> None:
        """Press it and wait for one version more."""
        before = self.versions
        self.page.click(button)
        self.wait(lambda: self.versions > before and self.page.is_enabled("#edit"))
        assert not self.page.query_selector("#said .error"), self.said

    def drop(self, *paths: Path) -> None:
        self.page.set_input_files("#drop input[type=file]", [str(path) for path in paths])

    def undo_drop(self) -> None:
        self.page.click("#drop button[aria-label='Clear']")

    def cut(self) -> str:
        found: str = self.page.evaluate("getComputedStyle(document.getElementById('pair')).getPropertyValue('--cut')")
        return found

    def nothing_else(self) -> None:
        """Nobody outside was asked, nothing failed on the way, nothing sticks out."""
        hosts = {urlsplit(one).netloc for one in self.asked if not one.startswith(("data:", "blob:"))}
        assert hosts == {urlsplit(self.url).netloc}
        assert not self.wrong
        assert self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
