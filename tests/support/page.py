"""A visitor of the page without a browser: components' values, and events that change them as Gradio would."""

import asyncio
import inspect
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from limner.runtime.page.mounting import Page, page_of
from limner.runtime.server.app import make_app
from limner.runtime.server.given import shipped_bundles
from limner.runtime.server.settings import Limits, ServerSettings

__all__ = ["Visitor", "page_at"]


Bundles = tuple[tuple[str, Path], ...]


def page_at(work: Path, limits: Limits | None = None, bundles: Bundles = ()) -> Page:
    """The page of a server on bundles, or both shipped ones, which listens nowhere."""
    bundles = bundles or shipped_bundles()
    settings = ServerSettings(bundles, work, lanes=1, threads=2, join=False, limits=limits or Limits())

    async def built() -> Page:  # Gradio takes the loop that runs, else it leaves one open
        return page_of(make_app(settings).state.limner)

    return asyncio.run(built())


class Visitor:
    """One tab of a browser."""

    def __init__(self, page: Page, session: str = "tab", secret: str = "") -> None:
        self.page, self.parts = page, page.parts
        self.request = SimpleNamespace(session_hash=session, username=None)
        components = [*self.parts.named.values(), *(one.component for one in self.parts.fields)]
        self.values: dict[Any, Any] = {one: getattr(one, "value", None) for one in components}
        self.shown: dict[Any, dict[str, Any]] = {}
        self.history: list[str] = []  # what was said
        self.values[self.parts.secret] = secret
        self.do(page.begin.arrive, self.parts.secret)

    def __getitem__(self, name: str) -> Any:
        return self.values[getattr(self.parts, name)]

    def set(self, **values: Any) -> "Visitor":
        """Fill components by name."""
        for name, value in values.items():
            self.values[getattr(self.parts, name)] = value
        return self

    def field(self, place: str, value: Any) -> None:
        """Fill a setting by its id."""
        found = [one.component for one in self.parts.fields if one.component.elem_id == place]
        assert len(found) == 1, place
        self.values[found[0]] = value

    def do(self, answer: Callable[..., Any], /, *inputs: Any, **more: Any) -> "Visitor":
        """Answer one event with the values of its inputs."""
        asyncio.run(self.answered(answer, *inputs, **more))
        return self

    async def answered(self, answer: Callable[..., Any], /, *inputs: Any, **more: Any) -> None:
        given = [self.values[one] for one in inputs]
        if "request" in inspect.signature(answer).parameters:
            more["request"] = self.request
        found: Any = answer(*given, **more)
        assert found is not None
        if inspect.isasyncgen(found):
            updates: Any
            async for updates in found:
                self.take(updates)
        else:
            self.take(found)

    def take(self, updates: dict[Any, Any]) -> None:
        assert isinstance(updates, dict) and updates, "an empty answer empties every component"
        for component, value in updates.items():
            if isinstance(value, dict) and value.get("__type__") == "update":
                self.shown[component] = {**self.shown.get(component, {}), **value}
                if "value" in value:
                    self.values[component] = value["value"]
            else:
                self.values[component] = value
        if self.parts.said in updates and isinstance(updates[self.parts.said], str):
            self.history.append(plain(updates[self.parts.said]))

    @property
    def said(self) -> str:
        """What is said, without its HTML."""
        return plain(self["said"])

    def edit(self, event: Callable[..., Any] | None = None) -> "Visitor":
        """Press Edit."""
        return self.do_values(event or self.page.make.run)

    def do_values(self, event: Callable[..., Any]) -> "Visitor":
        async def made() -> None:
            async for one in event(self.values, self.request):
                self.take(one)

        asyncio.run(made())
        return self

    def drop(self, *paths: Path) -> "Visitor":
        """Drop files, and replay if there is a recipe."""
        self.set(drop=[str(path) for path in paths])
        self.do(self.page.begin.drop, self.parts.drop, self.parts.secret)
        return self.do(self.page.make.replayed, self.parts.secret, self.parts.tab)


def plain(html: str | None) -> str:
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html or "")).strip())
