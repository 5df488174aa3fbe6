"""What all events of a page share: its server, its components, whose desk it is, and how a failure is said."""

import functools
import inspect
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from limner.runtime.errors import InputError
from limner.runtime.page.desk import Desk
from limner.runtime.page.layout import Parts
from limner.runtime.page.looking import said
from limner.runtime.page.running import Edits
from limner.runtime.page.showing import Tab, shown
from limner.runtime.recipe import Recipe
from limner.runtime.server.errors import as_refusal
from limner.runtime.server.state import State

__all__ = ["Context", "Files", "Updates", "answers"]

MOST_FILES = 10_000
Updates = dict[Any, Any]  # component -> its new value, or gr.update


class Files:
    """Files that a page offers to save, each under an address that only its page knows and that says nothing else."""

    def __init__(self) -> None:
        self._paths: OrderedDict[str, Path] = OrderedDict()
        self._tokens: dict[Path, str] = {}

    def offered(self, path: Path) -> tuple[str, str]:
        """The address of a file below the page, and its name."""
        if path not in self._tokens:
            self._tokens[path] = secrets.token_urlsafe(24)
        token = self._tokens[path]
        self._paths[token] = path
        self._paths.move_to_end(token)
        while len(self._paths) > MOST_FILES:
            self._tokens.pop(self._paths.popitem(last=False)[1], None)
        return f"../ui-files/{token}/{path.name}", path.name

    def find(self, token: str) -> Path | None:
        """The file of an address; None where it is not offered, or gone."""
        path = self._paths.get(token)
        return path if path is not None and path.is_file() else None


class Context:
    """The page of one server."""

    def __init__(self, parts: Parts, state: State, edits: Edits, starts: dict[str, Recipe]) -> None:
        self.parts, self.state, self.edits, self.starts = parts, state, edits, starts
        self.pages = state.settings.work / "pages"
        self.sent = self.pages / "sent"  # where Gradio keeps what is sent to it
        self.files = Files()

    def desk(self, secret: str, request: gr.Request) -> Desk:
        """The desk of a browser."""
        return Desk(self.pages, secret, request.username or "")

    def view(self, desk: Desk, tab: Tab) -> Updates:
        """The right side, as the desk is now."""
        hosted = None
        if tab.current is not None:
            try:
                hosted = self.edits.hosted(desk.version(tab.current).model)[0]
            except Exception:  # it is served no more; its picture is still there
                hosted = None
        return shown(self.parts, desk, tab, hosted, self.files.offered)

    def count(self, request: gr.Request) -> None:
        """Count what costs the server something; Refusal 429 where it is too often."""
        self.state.rates.count(request.username or "page")

    def discard(self, sent: Sequence[str]) -> None:
        """Delete files that came, where they came to: what is kept of them lies on a desk."""
        for path in map(Path, sent):
            if path.resolve().is_relative_to(self.sent.resolve()):
                path.unlink(missing_ok=True)

    def model(self, recipe: Recipe) -> str:
        """The model of a recipe: on the bundle that it names, else the first that has the method."""
        fitting = {name: hosted for name, (hosted, method) in self.state.hosts.models().items()
                   if method is not None and method.name == recipe.method}  # fmt: skip
        if not fitting:
            raise InputError("method", repr(recipe.method), ", ".join(self.state.hosts.models()))
        same = [name for name, hosted in fitting.items() if hosted.editor.bundle.digest == recipe.bundle]
        return (same or list(fitting))[0]

    def same(self) -> Updates:
        """Nothing changes; an empty answer would empty every component."""
        return {self.parts.said: gr.skip()}

    def failed(self, reason: Exception) -> Updates:
        """The sentence of a failure, without a word of where files lie; nothing else changes."""
        message = as_refusal(reason, f"page-{secrets.token_hex(4)}").message
        message = re.sub(rf"{re.escape(str(self.pages))}(?:/[\w.-]+)*/", "", message)
        return {self.parts.said: said("error", message)}


def answers(event: Callable[..., Updates]) -> Callable[..., Updates]:
    """An event of a Context whose failures are said on the page."""

    @functools.wraps(event)
    def answered(self: Any, *given: Any, **named: Any) -> Updates:
        try:
            return event(self, *given, **named)
        except Exception as reason:
            context: Context = self.context
            return context.failed(reason)

    answered.__signature__ = inspect.signature(event)  # type: ignore[attr-defined]  # Gradio reads what it asks for
    return answered
