"""What all events of a page share: its server, its components, whose desk it is, and how a failure is said."""

import functools
import inspect
import re
from collections.abc import Callable
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

__all__ = ["Context", "Updates", "answers"]

Updates = dict[Any, Any]  # component -> its new value, or gr.update


class Context:
    """The page of one server."""

    def __init__(self, parts: Parts, state: State, edits: Edits, starts: dict[str, Recipe]) -> None:
        self.parts, self.state, self.edits, self.starts = parts, state, edits, starts
        self.pages = state.settings.work / "pages"

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
        return shown(self.parts, desk, tab, hosted)

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
        message = re.sub(rf"{re.escape(str(self.pages))}(?:/[\w.-]+)*/", "", as_refusal(reason, "page").message)
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
