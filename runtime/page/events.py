"""What the components do: each function here answers one event with what the page then shows."""

import asyncio
import re
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from limner.runtime.edit import Edit
from limner.runtime.editor import Editor
from limner.runtime.errors import InputError, LimnerError, StoppedError
from limner.runtime.page.asking import Start, recipe_of, stacked, with_drawn, words_of
from limner.runtime.page.desk import Desk, Version, new_secret
from limner.runtime.page.drawing import canvas, drawn_over, painted
from limner.runtime.page.fields import shown_value
from limner.runtime.page.layout import RESULT, SOURCE, Parts
from limner.runtime.page.looking import picture_url, said, working
from limner.runtime.page.running import Done, Edits, Shown
from limner.runtime.page.showing import (
    SHOWN_SIDE,
    Tab,
    at_strength,
    made,
    other_pictures,
    said_of,
    shown,
    start_picture,
    with_strength,
)
from limner.runtime.page.starting import Taken, example_pictures, face_of, find_file, seeded, take, worded
from limner.runtime.pictures.images import read_photo
from limner.runtime.provenance import replay
from limner.runtime.recipe import MAX_SEED, Recipe
from limner.runtime.server.errors import Refusal, as_refusal
from limner.runtime.server.running import check_recipe
from limner.runtime.server.state import State
from limner.runtime.timing import Progress

__all__ = ["Events"]

Updates = dict[Any, Any]
Values = dict[Any, Any]
FAILURES = (LimnerError, Refusal, OSError, gr.Error)
WORDING = {
    "text": ("What the picture should show", "a text a line, as in: a person with a beard"),
    "concept": ("Concepts", "one a line, as in: +glasses, -beard, +sunglasses:scale=7"),
    "prompt": ("What the picture should show instead", "the whole text, with some words changed"),
    "mapper": ("Words", ""),
}


class Events:
    """The page of one server."""

    def __init__(self, parts: Parts, state: State, edits: Edits, starts: dict[str, Recipe]) -> None:
        self.parts, self.state, self.edits, self.starts = parts, state, edits, starts
        self.pages = state.settings.work / "pages"
        self.open: defaultdict[str, set[str]] = defaultdict(set)  # desk -> tabs
        self.taken: dict[str, Taken] = {}  # tab -> a recipe that is to be replayed

    # --- who it is ----------------------------------------------------------------------------------------

    def desk(self, secret: str, request: gr.Request) -> Desk:
        """The desk of a browser."""
        return Desk(self.pages, secret, request.username or "")

    def arrive(self, secret: str, request: gr.Request) -> Updates:
        """A page was opened: the desk as it was left."""
        secret = secret if isinstance(secret, str) and secret else new_secret()
        try:
            desk = self.desk(secret, request)
        except InputError:
            secret = new_secret()
            desk = self.desk(secret, request)
        desk.touch()
        self.open[desk.name].add(request.session_hash or "")
        versions = desk.versions()
        tab = Tab(self._first_start(desk), versions[-1].number if versions else None)
        note = said("note", "This page is open in another tab as well: both show the same versions.")
        found = self.view(desk, tab)
        if not versions and self.starts:
            found |= self._filled_start(desk, tab, next(iter(self.starts.values())))
        return found | {self.parts.secret: secret, self.parts.said: note if len(self.open[desk.name]) > 1 else ""}

    def leave(self, request: gr.Request) -> None:
        """A page was closed."""
        tab = request.session_hash or ""
        self.edits.stop(tab)
        self.taken.pop(tab, None)
        for tabs in self.open.values():
            tabs.discard(tab)

    def _first_start(self, desk: Desk) -> Start | None:
        pictures = example_pictures()
        if not pictures:
            return None
        return Start(
            "file", str(desk.keep(pictures[-1].name, pictures[-1].read_bytes())), shows=self._caption(pictures[-1])
        )

    def _caption(self, path: Path) -> str:
        """What an example shows, as the edits to begin with say it."""
        same = (one.source for one in self.starts.values() if Path(one.source.path or "").name == path.name)
        return next((source.prompt for source in same if source.prompt), "")

    # --- what an edit starts from -------------------------------------------------------------------------

    def drop(self, files: list[str] | None, secret: str, tab: Tab, request: gr.Request) -> Updates:
        """Files were dropped."""
        parts, desk = self.parts, self.desk(secret, request)
        if not files:
            return {parts.said: ""}
        try:
            found = take(files, desk.keep, self.state.limits)
        except FAILURES as reason:
            return self.failed(desk, reason) | {parts.drop: None}
        if found.recipe is not None:
            self.taken[request.session_hash or ""] = found
            return {parts.said: said("note", "A recipe: it is replayed.")}
        return self._starts_with(tab, Start("file", str(found.path)))

    def example(self, secret: str, tab: Tab, event: gr.SelectData, request: gr.Request) -> Updates:
        """An example was chosen."""
        path = example_pictures()[int(event.index)]
        kept = self.desk(secret, request).keep(path.name, path.read_bytes())
        return self._starts_with(tab, Start("file", str(kept), shows=self._caption(path)))

    def _starts_with(self, tab: Tab, start: Start) -> Updates:
        parts = self.parts
        photo = None
        if start.path is not None and not start.path.endswith(".npy"):
            image = Image.fromarray(read_photo(start.path, "source").on_white())
            image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
            photo = np.asarray(image)
        return {
            parts.tab: replace(tab, start=start, current=None), parts.stage: start_picture(start), parts.said: "",
            parts.shows: start.shows, parts.photo: photo, parts.points: "",
            parts.go_on: gr.update(visible=False, value=SOURCE),
        }  # fmt: skip

    def point(self, points: str, tab: Tab, event: gr.SelectData) -> str:
        """A place of the photograph was clicked: one point more."""
        if tab.start is None or tab.start.path is None:
            return points
        height, width = read_photo(tab.start.path, "source").image_u8.shape[:2]
        factor = max(1.0, max(height, width) / SHOWN_SIDE)
        found = re.findall(r"\[[^][]*\]", points)
        found = [] if len(found) >= 5 else found
        return f"[{', '.join([*found, f'[{event.index[0] * factor:.0f}, {event.index[1] * factor:.0f}]'])}]"

    def kind(self, model: str, kind: str) -> Updates:
        """Where to start from was chosen."""
        parts = self.parts
        shows = self.edits.hosted(model)[1].family == "diffusion" and kind == "file"
        rows = {"file": parts.of_file, "seed": parts.of_seed, "words": parts.of_words}
        found: Updates = {row: gr.update(visible=name == kind) for name, row in rows.items()}
        return found | {parts.shows: gr.update(visible=shows)}

    def another(self) -> int:
        """Another seed."""
        return secrets.randbelow(min(MAX_SEED, 100_000))

    def method(self, model: str, kind: str) -> Updates:
        """A method was chosen: its fields alone."""
        parts = self.parts
        _, method = self.edits.hosted(model)
        label, info = WORDING[method.texts]
        found: Updates = {
            parts.about: f"*{method.summary}*",
            parts.shows: gr.update(visible=method.family == "diffusion" and kind == "file"),
            parts.words: gr.update(label=label, info=info, visible=method.texts != "mapper"),
            parts.mappers: gr.update(visible=method.texts == "mapper"),
        }  # fmt: skip
        for name, groups in parts.groups.items():
            found |= {group: gr.update(visible=name == method.name) for group in groups}
        return found

    def begin(self, name: str, secret: str, tab: Tab, request: gr.Request) -> Updates:
        """An edit to begin with was chosen: the form is filled with it."""
        return self._filled_start(self.desk(secret, request), tab, self.starts[name])

    def _filled_start(self, desk: Desk, tab: Tab, recipe: Recipe) -> Updates:
        start = Start("words", source=recipe.source)
        if recipe.source.path is not None:
            path = Path(recipe.source.path)
            start = Start(
                "file", str(desk.keep(path.name, path.read_bytes())), shows=recipe.source.prompt or self._caption(path)
            )
        return self._starts_with(tab, start) | self.filled(recipe)

    def filled(self, recipe: Recipe) -> Updates:
        """The left side with what a recipe says."""
        parts, source = self.parts, recipe.source
        model = self._model(recipe)
        _, method = self.edits.hosted(model)
        kind = {"image": "file", "w_plus": "file", "seed": "seed", "prompt": "words"}[source.kind]
        mapper = method.texts == "mapper"
        texts = [prompt.text for prompt in recipe.prompts]
        found: Updates = {
            parts.model: model, parts.kind: kind, parts.words: "" if mapper else words_of(recipe, method),
            parts.mappers: texts if mapper else [],
        }  # fmt: skip
        if kind == "seed":
            found |= {parts.seed: source.seed, parts.truncation: source.truncation}
        elif kind == "words":
            found |= {parts.source_words: source.prompt, parts.words_seed: source.seed}
        else:
            found[parts.shows] = source.prompt or ""
        data = recipe.to_dict()
        given = {
            "parameters": data["parameters"],
            "inversion": data["inversion"],
            "options": data["prompts"][0]["options"],
        }
        for one in parts.fields:
            if one.method == method.name:
                value = None if one.group == "options" and method.texts == "concept" else given[one.group].get(one.name)
                found[one.component] = shown_value(one, value)
        return found

    def _model(self, recipe: Recipe) -> str:
        """The model of a recipe: on the bundle that it names, else the first that has the method."""
        fitting = {name: hosted for name, (hosted, method) in self.state.hosts.models().items()
                   if method is not None and method.name == recipe.method}  # fmt: skip
        if not fitting:
            raise InputError("method", repr(recipe.method), ", ".join(self.state.hosts.models()))
        same = [name for name, hosted in fitting.items() if hosted.editor.bundle.digest == recipe.bundle]
        return (same or list(fitting))[0]

    # --- edits --------------------------------------------------------------------------------------------

    async def run(self, values: Values, request: gr.Request) -> AsyncIterator[Updates]:
        """Edit was pressed."""
        tab, desk = values[self.parts.tab], self.desk(values[self.parts.secret], request)
        try:
            model = values[self.parts.model]
            start, parent = self._start(values, tab, desk)
            asked, shows = await asyncio.to_thread(self._asked, values, model, start, parent, desk)
        except FAILURES as reason:
            yield self.failed(desk, reason)
            return
        edit = self._editing(asked)
        async for one in self._made(desk, tab, model, asked, edit, parent, shows, request):
            yield one

    async def again(self, values: Values, request: gr.Request) -> AsyncIterator[Updates]:
        """The brush was used: the edit that is shown, with other masks."""
        tab, desk = values[self.parts.tab], self.desk(values[self.parts.secret], request)
        try:
            version = desk.version(tab.current or 0)
            strokes = await asyncio.to_thread(painted, values[self.parts.brush], version.overlays)
            asked = desk.asked(version)
            asked = with_drawn(asked, drawn_over(asked.prompts[0].options, *strokes))
        except FAILURES as reason:
            yield self.failed(desk, reason)
            return
        start = Start("file", shows=version.shows or "")
        async for one in self._made(
            desk, tab, version.model, asked, self._editing(asked), version.number, start, request
        ):
            yield one

    async def replayed(self, secret: str, tab: Tab, request: gr.Request) -> AsyncIterator[Updates]:
        """A recipe was dropped: it runs, and the page is filled with what it says."""
        found, desk = self.taken.pop(request.session_hash or "", None), self.desk(secret, request)
        if found is None or found.recipe is None:
            yield self.same()
            return
        same: list[bool | None] = []
        try:
            asked = await asyncio.to_thread(find_file, found.recipe, desk)
            model = self._model(asked)
            form = self.filled(asked)
        except FAILURES as reason:
            yield self.failed(desk, reason)
            return

        def make(editor: Editor, progress: Progress) -> Edit:
            check_recipe(asked, editor.bundle, self.state.limits)
            if found.picture is None:
                return editor.edit(asked, progress)
            played = replay(found.picture, editor, source=asked.source.path, progress=progress)
            same.append(played.same_pixels)
            return played.edit

        start = Start("file", asked.source.path, shows=asked.source.prompt or "")
        if asked.source.path is None:
            start = Start("words" if asked.source.kind == "prompt" else "seed", source=asked.source)
        async for one in self._made(desk, replace(tab, start=start), model, asked, make, None, start, request):
            words = {True: "Replayed: the same pixels.", False: "Replayed: other pixels than the picture has."}
            if self.parts.tab in one and same:
                one[self.parts.said] = said("done" if same[0] else "warning", words.get(bool(same[0]), "Replayed."))
            yield form | one
            form = {}

    def _start(self, values: Values, tab: Tab, desk: Desk) -> tuple[Start, int | None]:
        """What the form starts from, and the version that this is."""
        parts = self.parts
        if tab.current is not None and values[parts.go_on] == RESULT:
            version = desk.version(tab.current)
            return Start("file", str(desk.picture(version.number)), shows=version.shows or ""), version.number
        kind = values[parts.kind]
        if kind == "seed":
            return Start("seed", source=seeded(values[parts.seed], values[parts.truncation])), None
        if kind == "words":
            return Start("words", source=worded(values[parts.source_words] or "", values[parts.words_seed])), None
        if tab.start is None or tab.start.path is None:
            raise InputError("picture", "nothing", "a picture that is dropped, an example, a seed or words")
        return replace(tab.start, shows=values[parts.shows] or ""), None

    def _asked(self, values: Values, model: str, start: Start, parent: int | None, desk: Desk) -> tuple[Recipe, Start]:
        """The recipe of the form, its limits checked; edits that go together become one."""
        parts = self.parts
        hosted, method = self.edits.hosted(model)
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
        check_recipe(recipe, hosted.editor.bundle, self.state.limits)
        return recipe, start

    def _editing(self, asked: Recipe) -> Callable[[Editor, Progress], Edit]:
        def make(editor: Editor, progress: Progress) -> Edit:
            check_recipe(asked, editor.bundle, self.state.limits)
            return editor.edit(asked, progress)

        return make

    async def _made(
        self, desk: Desk, tab: Tab, model: str, asked: Recipe, make: Callable[[Editor, Progress], Edit],
        parent: int | None, start: Start, request: gr.Request,
    ) -> AsyncIterator[Updates]:  # fmt: skip
        """Run an edit, show how it goes, keep what comes out."""
        parts, session = self.parts, request.session_hash or ""
        busy = {parts.edit: gr.update(interactive=False), parts.stop: gr.update(visible=True)}
        idle = {parts.edit: gr.update(interactive=True), parts.stop: gr.update(visible=False)}
        yield busy | {parts.said: said("note", "It runs ...", done=(0, 1))}
        try:
            self.state.rates.count(request.username or "page")
            edit: Edit | None = None
            async for one in self.edits.watched(session, model, make):
                if isinstance(one, Done):
                    edit = one.result
                elif isinstance(one, Shown):
                    yield {parts.stage: working(picture_url(Image.fromarray(one.image)))}
                else:
                    yield {parts.said: said("note", f"step {one.step} of {one.steps}", done=(one.step, one.steps))}
            assert edit is not None
            version = await asyncio.to_thread(made, desk, model, asked, edit, parent, start)
            self.state.metrics.done(model, edit.timing)
            self.edits.remember(desk.name, version.number, model, edit)
        except StoppedError as reason:
            words = "Stopped: everything is as it was." if reason.reason == "cancelled" else f"{reason}."
            yield idle | self.view(desk, tab) | {parts.said: said("note", words)}
            return
        except FAILURES as reason:
            yield idle | self.view(desk, tab) | self.failed(desk, reason)
            return
        tab = replace(tab, current=version.number)
        yield idle | self.view(desk, tab) | {parts.said: said_of(version)}

    def stop(self, request: gr.Request) -> str:
        """Stop was pressed."""
        stopped = self.edits.stop(request.session_hash or "")
        return said("note", "It stops ..." if stopped else "Nothing runs.")

    async def strength(self, value: float, secret: str, tab: Tab, request: gr.Request) -> AsyncIterator[Updates]:
        """The strength of the result was moved."""
        desk, parts = self.desk(secret, request), self.parts
        if tab.current is None:
            yield self.same()
            return
        try:
            version = desk.version(tab.current)
            edit = self.edits.live(desk.name, version.number)
            if edit is None:
                yield {parts.said: said("note", "It runs again: the server has it no more at hand.")}
                asked = desk.asked(version)
                edit = await self.edits.alone(version.model, lambda editor: editor.edit(asked))
                self.edits.remember(desk.name, version.number, version.model, edit)
            known: Edit = edit
            change: Callable[[Editor], Version] = lambda _: at_strength(desk, version, known, float(value))  # noqa: E731
            version = await self.edits.alone(version.model, change)
        except FAILURES as reason:
            yield self.failed(desk, reason)
            return
        view = self.view(desk, tab)
        del view[parts.strength]  # the hand is on it
        yield view | {parts.said: said_of(version, [f"strength {value:g}"])}

    # --- versions -----------------------------------------------------------------------------------------

    def view(self, desk: Desk, tab: Tab) -> Updates:
        """The right side."""
        hosted = None
        if tab.current is not None:
            try:
                hosted = self.edits.hosted(desk.version(tab.current).model)[0]
            except FAILURES:
                hosted = None  # it is served no more; its picture is still there
        return shown(self.parts, desk, tab, hosted)

    def choose(self, secret: str, tab: Tab, event: gr.SelectData, request: gr.Request) -> Updates:
        """A version of the strip was chosen."""
        desk = self.desk(secret, request)
        versions = desk.versions()
        if int(event.index) >= len(versions):
            return self.view(desk, tab)
        version = versions[int(event.index)]
        return self.view(desk, replace(tab, current=version.number)) | {self.parts.said: said_of(version)}

    def undo(self, secret: str, tab: Tab, request: gr.Request) -> Updates:
        """Back to what the version was made from."""
        desk = self.desk(secret, request)
        try:
            parent = desk.version(tab.current or 0).parent
        except InputError as reason:
            return self.failed(desk, reason)
        return self.view(desk, replace(tab, current=parent)) | {self.parts.said: "", self.parts.go_on: gr.update(
            visible=parent is not None, value=SOURCE if parent is None else RESULT)}  # fmt: skip

    def compare(self, first: int | None, second: int | None, secret: str, tab: Tab, request: gr.Request) -> Updates:
        """Two versions were chosen."""
        if first is None or second is None:
            return self.same()
        desk = self.desk(secret, request)
        try:
            return {self.parts.stage: other_pictures(desk, tab, int(first), int(second))}
        except FAILURES as reason:
            return self.failed(desk, reason)

    def draw(self, secret: str, tab: Tab, request: gr.Request) -> Updates:
        """The brush was asked for."""
        desk, parts = self.desk(secret, request), self.parts
        try:
            version = desk.version(tab.current or 0)
            with Image.open(desk.picture(version.number)) as opened:
                return {parts.brush_box: gr.update(visible=True), parts.brush: canvas(opened, version.overlays)}
        except FAILURES as reason:
            return self.failed(desk, reason)

    def forget(self, secret: str, tab: Tab, request: gr.Request) -> Updates:
        """Everything of this browser is deleted."""
        desk = self.desk(secret, request)
        desk.forget()
        tab = Tab(self._first_start(desk))
        return self.view(desk, tab) | {self.parts.said: said("note", "Everything is deleted."), self.parts.drop: None}

    def same(self) -> Updates:
        """Nothing changes; an empty answer would empty every component."""
        return {self.parts.said: gr.skip()}

    def failed(self, desk: Desk, reason: BaseException) -> Updates:
        """The sentence of a failure; nothing else changes."""
        message = as_refusal(reason, f"page {desk.name[:8]}").message
        message = re.sub(rf"{re.escape(str(desk.folder))}(?:/[\w.-]+)*/", "", message)
        return {self.parts.said: said("error", message)}
