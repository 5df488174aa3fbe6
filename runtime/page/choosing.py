"""The versions: one of them chosen, undone, compared, drawn on, all of them forgotten."""

from dataclasses import replace

import gradio as gr

from limner.runtime.page.beginning import Beginning, start_of
from limner.runtime.page.context import Context, Updates, answers
from limner.runtime.page.desk import Desk
from limner.runtime.page.drawing import brush
from limner.runtime.page.layout import RESULT, SOURCE
from limner.runtime.page.looking import said
from limner.runtime.page.showing import Tab, other_pictures, said_of
from limner.runtime.recipe import Recipe
from limner.runtime.schema import require_int

__all__ = ["Choosing"]


class Choosing:
    """Events of the strip and what is beside it."""

    def __init__(self, context: Context, beginning: Beginning) -> None:
        self.context, self.beginning = context, beginning

    @answers
    def choose(self, secret: str, tab: Tab, event: gr.EventData, request: gr.Request) -> Updates:
        """A version of the strip was chosen: it is shown, and the form says what made it."""
        desk = self.context.desk(secret, request)
        choice = str(event._data.get("choice"))
        if choice not in {str(one.number) for one in desk.versions()}:  # forgotten in another tab
            return self.context.view(desk, tab)
        return self._to(desk, tab, int(choice))

    def _to(self, desk: Desk, tab: Tab, number: int) -> Updates:
        version = desk.version(number)
        tab = replace(tab, start=start_of(desk, version), current=number)
        form = self.beginning.filled(Recipe.from_dict(version.asked))
        return form | self.context.view(desk, tab) | {self.context.parts.said: said_of(version)}

    @answers
    def undo(self, secret: str, tab: Tab, request: gr.Request) -> Updates:
        """Back to what the version was made from: a version, or its source with the form as it is."""
        desk, parts = self.context.desk(secret, request), self.context.parts
        version = desk.version(tab.current or 0)
        if version.parent is not None:
            return self._to(desk, tab, version.parent) | {parts.go_on: gr.update(visible=True, value=RESULT)}
        tab = replace(tab, start=start_of(desk, version), current=None)
        return self.context.view(desk, tab) | {parts.said: "", parts.go_on: gr.update(visible=False, value=SOURCE)}

    @answers
    def compare(self, first: int | None, second: int | None, secret: str, tab: Tab, request: gr.Request) -> Updates:
        """Two versions were chosen."""
        if first is None or second is None:
            return {self.context.parts.stage: gr.skip()}
        desk = self.context.desk(secret, request)
        for one in (first, second):
            if one != 0:
                desk.version(require_int("version", one, 1, 10**9))
        return {self.context.parts.stage: other_pictures(desk, tab, first, second)}

    @answers
    def draw(self, secret: str, tab: Tab, request: gr.Request) -> Updates:
        """The brush was asked for."""
        desk, parts = self.context.desk(secret, request), self.context.parts
        version = desk.version(tab.current or 0)
        return {parts.brush: gr.update(visible=True, value=brush(desk.picture(version.number), version.overlays))}

    def close(self) -> Updates:
        """The brush is put away."""
        return {self.context.parts.brush: gr.update(visible=False)}

    @answers
    def forget(self, secret: str, request: gr.Request) -> Updates:
        """Everything of this browser is deleted."""
        desk, parts = self.context.desk(secret, request), self.context.parts
        desk.forget()
        note = "Everything that lay here is deleted."
        begun = self.beginning.first(desk)
        return self.context.view(desk, Tab()) | begun | {parts.said: said("note", note), parts.drop: None}
