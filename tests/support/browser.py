"""Debian's Chromium by Playwright, where both are there; nothing is downloaded."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

__all__ = ["chromium", "until"]


@contextmanager
def chromium(**context: Any) -> Iterator[Any]:
    """A browser context; the test is skipped where there is no Chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no chromium: apt install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser.new_context(**context)
        finally:
            browser.close()


def until(page: Any, function: str, argument: Any = None, seconds: float = 20.0) -> None:
    """Wait for a JavaScript function to say yes; a page whose policy forbids eval takes no `wait_for_function`."""
    end = time.monotonic() + seconds
    while not page.evaluate(function, argument):
        assert time.monotonic() < end, f"never: {function}"
        time.sleep(0.03)
