"""Edits: what the form asks for, a brush over it, a recipe that was dropped, another strength; and the stop."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from limner.runtime.edit import Edit
from limner.runtime.editor import Editor
from limner.runtime.errors import InputError, StoppedError
from limner.runtime.page.asking import Start, recipe_of, stacked, with_drawn
from limner.runtime.page.beginning import KINDS, Beginning, kept_result
from limner.runtime.page.context import Context, Updates
from limner.runtime.page.desk import Desk, Version
from limner.runtime.page.drawing import drawn_over, painted
from limner.runtime.page.layout import RESULT
from limner.runtime.page.looking import picture_url, said, working
from limner.runtime.page.running import Done, Shown
from limner.runtime.page.showing import Tab, at_strength, made, said_of, with_strength
from limner.runtime.page.starting import face_of, find_file, seeded, worded
from limner.runtime.provenance import replay
from limner.runtime.recipe import Recipe
from limner.runtime.schema import require_number
from limner.runtime.server.running import check_recipe
from limner.runtime.timing import Progress

__all__ = ["Making"]

MOST_STRENGTH = 10.0  # of `Edit.at`
Values = dict[Any, Any]  # component -> its value
Make = Callable[[Editor, Progress], Edit]
REPLAYED = {True: ("done", "Replayed: the same pixels."), None: ("done", "Replayed."),
            False: ("warning", "Replayed: other pixels than the picture has.")}  # fmt: skip


class Making:
    """Events that make pictures."""

    def __init__(self, context: Context, beginning: Beginning) -> None:
        self.context, self.beginning = context, beginning

    async def run(self, values: Values, request: gr.Request) -> AsyncIterator[Updates]:
        """Edit was pressed."""
        tab, desk = values[self.context.parts.tab], self.context.desk(values[self.context.parts.secret], request)
        try:
            model = values[self.context.parts.model]
            start, parent = self._start(values, tab, desk)
            asked, shows = await asyncio.to_thread(self._asked, values, model, start, parent, desk)
        except Exception as reason:
            yield self.context.failed(reason)
            return
        edit = self._editing(asked)
        async for one in self._made(desk, tab, model, asked, edit, parent, shows, request):
            yield one

    async def again(self, secret: str, tab: Tab, event: gr.EventData, request: gr.Request) -> AsyncIterator[Updates]:
        """The brush was used: the edit that is shown, with other masks."""
        desk = self.context.desk(secret, request)
        try:
            version = desk.version(tab.current or 0)
            strokes = await asyncio.to_thread(painted, event._data.get("painted"), version.overlays)
            if version.square is not None:
                strokes = version.square.taken(strokes[0]), version.square.taken(strokes[1])
                if not (strokes[0].any() or strokes[1].any()):
                    raise InputError("brush", "strokes beside the face's square", "a stroke inside it")
            asked = desk.asked(version)
            asked = with_drawn(asked, drawn_over(asked.prompts[0].options, *strokes))
        except Exception as reason:
            yield self.context.failed(reason)
            return
        start = Start("file", shows=version.shows or "")
        async for one in self._made(
            desk, tab, version.model, asked, self._editing(asked), version.number, start, request
        ):
            yield one

    async def replayed(self, secret: str, tab: Tab, request: gr.Request) -> AsyncIterator[Updates]:
        """A recipe was dropped: it runs, and the page is filled with what it says."""
        found, desk = self.beginning.taken.pop(request.session_hash or "", None), self.context.desk(secret, request)
        if found is None or found.recipe is None:
            yield self.context.same()
            return
        same: list[bool | None] = []
        try:
            asked = await asyncio.to_thread(find_file, found.recipe, desk)
            model = self.context.model(asked)
            form = self.beginning.filled(asked)
        except Exception as reason:
            yield self.context.failed(reason)
            return

        def make(editor: Editor, progress: Progress) -> Edit:
            check_recipe(asked, editor.bundle, self.context.state.limits)
            if found.picture is None:
                return editor.edit(asked, progress)
            played = replay(found.picture, editor, source=asked.source.path, progress=progress)
            same.append(played.same_pixels)
            return played.edit

        start = Start(KINDS[asked.source.kind], asked.source.path, asked.source, asked.source.prompt or "")
        async for one in self._made(desk, replace(tab, start=start), model, asked, make, None, start, request):
            if self.context.parts.tab in one and same:
                one[self.context.parts.said] = said(*REPLAYED[same[0]])
            yield form | one
            form = {}

    def _start(self, values: Values, tab: Tab, desk: Desk) -> tuple[Start, int | None]:
        """What the form starts from, and the version that this is."""
        parts = self.context.parts
        if tab.current is not None and values[parts.go_on] == RESULT:
            return kept_result(desk, desk.version(tab.current)), tab.current
        kind = values[parts.kind]
        if kind == "seed":
            return Start("seed", source=seeded(values[parts.seed], values[parts.truncation])), None
        if kind == "words":
            return Start("words", source=worded(values[parts.source_words] or "", values[parts.words_seed])), None
        if tab.start is None or tab.start.path is None:
            raise InputError("picture", "nothing", "a picture that is dropped, an example, a seed or words")
        if not Path(tab.start.path).is_file():
            raise InputError("picture", f"{Path(tab.start.path).name!r}, which is gone", "the same one, dropped again")
        return replace(tab.start, shows=values[parts.shows] or ""), None

    def _asked(self, values: Values, model: str, start: Start, parent: int | None, desk: Desk) -> tuple[Recipe, Start]:
        """The recipe of the form, its limits checked; edits that go together become one."""
        parts = self.context.parts
        hosted, method = self.context.edits.hosted(model)
        own = {one: values[one.component] for one in parts.fields if one.method == method.name}
        if start.kind != "file":
            own = {one: value for one, value in own.items() if one.group != "inversion"}
        recipe = recipe_of(
            method, start.source_for(method), values[parts.words] or "", values[parts.mappers] or [], own
        )
        if start.kind == "file" and parent is None and recipe.source.kind == "image" and start.path is not None:
            named = (parts.points, parts.finder, parts.face_index, parts.scale, parts.shift, parts.paste)
            face = face_of(Path(start.path), *(values[one] for one in named))
            recipe = replace(recipe, source=replace(recipe.source, face=face))
        if parent is not None:
            before = desk.version(parent)
            recipe = stacked(with_strength(before, desk.asked(before)), recipe, method) or recipe
        check_recipe(recipe, hosted.editor.bundle, self.context.state.limits)
        return recipe, start

    def _editing(self, asked: Recipe) -> Callable[[Editor, Progress], Edit]:
        def make(editor: Editor, progress: Progress) -> Edit:
            check_recipe(asked, editor.bundle, self.context.state.limits)
            return editor.edit(asked, progress)

        return make

    async def _made(
        self, desk: Desk, tab: Tab, model: str, asked: Recipe, make: Callable[[Editor, Progress], Edit],
        parent: int | None, start: Start, request: gr.Request,
    ) -> AsyncIterator[Updates]:  # fmt: skip
        """Run an edit, show how it goes, keep what comes out."""
        parts, session = self.context.parts, request.session_hash or ""
        busy = {parts.edit: gr.update(interactive=False), parts.stop: gr.update(visible=True)}
        idle = {parts.edit: gr.update(interactive=True), parts.stop: gr.update(visible=False)}
        yield busy | {parts.said: said("note", "It runs ...", done=(0, 1))}
        try:
            self.context.count(request)
            edit: Edit | None = None
            async for one in self.context.edits.watched(session, model, make):
                if isinstance(one, Done):
                    edit = one.result
                elif isinstance(one, Shown):
                    yield {parts.stage: working(picture_url(Image.fromarray(one.image)))}
                else:
                    yield {parts.said: said("note", f"step {one.step} of {one.steps}", done=(one.step, one.steps))}
            assert edit is not None
            version = await asyncio.to_thread(made, desk, model, asked, edit, parent, start)
            self.context.state.metrics.done(model, edit.timing)
            self.context.edits.remember(desk.name, version.number, model, edit)
        except StoppedError as reason:
            words = "Stopped: everything is as it was." if reason.reason == "cancelled" else f"{reason}."
            yield idle | self.context.view(desk, tab) | {parts.said: said("note", words)}
            return
        except Exception as reason:
            yield idle | self.context.view(desk, tab) | self.context.failed(reason)
            return
        tab = replace(tab, current=version.number)
        yield idle | self.context.view(desk, tab) | {parts.said: said_of(version)}

    def stop(self, request: gr.Request) -> Any:
        """Stop was pressed: what runs says itself that it ended, maybe before this answer is there."""
        stopped = self.context.edits.stop(request.session_hash or "")
        return gr.skip() if stopped else said("note", "Nothing runs.")

    async def strength(self, value: float, secret: str, tab: Tab, request: gr.Request) -> AsyncIterator[Updates]:
        """The strength of the result was moved."""
        desk, parts = self.context.desk(secret, request), self.context.parts
        if tab.current is None:
            yield self.context.same()
            return
        version: Version | None = None
        try:
            version = desk.version(tab.current)
            amount = require_number("strength", value, 0.0, MOST_STRENGTH)
            edit = self.context.edits.live(desk.name, version.number)
            if edit is None:
                yield {parts.said: said("note", "It runs again: the server has it no more at hand.")}
                asked = desk.asked(version)
                edit = await self.context.edits.alone(version.model, lambda editor: editor.edit(asked))
                self.context.edits.remember(desk.name, version.number, version.model, edit)
            change = partial(at_strength, desk, version, edit, amount)
            version = await self.context.edits.alone(version.model, lambda _: change())
        except Exception as reason:
            back = {} if version is None else {parts.strength: gr.update(value=version.strength)}
            yield self.context.failed(reason) | back
            return
        view = self.context.view(desk, tab)
        del view[parts.strength]  # the hand is on it
        yield view | {parts.said: said_of(version, [f"strength {value:g}"])}
