"""The page as a part of a server: built for its bundles, wired, behind its keys."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.responses import FileResponse, RedirectResponse, Response

from limner.runtime.bundle.shipped import demo_file
from limner.runtime.errors import InputError
from limner.runtime.page.beginning import Beginning
from limner.runtime.page.choosing import Choosing
from limner.runtime.page.context import Context, Files
from limner.runtime.page.desk import forget_old_desks
from limner.runtime.page.fields import usual_values
from limner.runtime.page.layout import Parts, build
from limner.runtime.page.looking import asset
from limner.runtime.page.making import Making
from limner.runtime.page.running import Edits
from limner.runtime.recipe import Recipe
from limner.runtime.server.errors import Refusal
from limner.runtime.server.running import Runner
from limner.runtime.server.state import State
from limner.runtime.wording.demo_list import read_demo

__all__ = ["PATH", "Page", "page_of", "with_page"]

PATH = "/ui"
TO_RESULT = "() => { if (innerWidth < 700) document.getElementById('said').scrollIntoView({behavior: 'smooth'}); }"
TEMPORARY = "GRADIO_TEMP_DIR"  # where Gradio keeps what is sent to it


@dataclass(eq=False)
class Page:
    """The page of a server, and what answers its events."""

    blocks: gr.Blocks
    parts: Parts
    begin: Beginning
    make: Making
    choose: Choosing


def with_page(app: FastAPI) -> FastAPI:
    """The application of `make_app` with the page at /ui, and / leading there.

    Raises InputError where edits do not run in this process, since the page changes their strength.
    """
    state: State = app.state.limner
    pages = state.settings.work / "pages"
    forget_old_desks(pages)
    page = page_of(state)
    os.environ[TEMPORARY] = str(page.begin.context.sent)
    app.get("/", include_in_schema=False)(to_page)
    app.get("/favicon.ico", include_in_schema=False)(favicon)
    app.get("/ui-files/{token}/{name}", include_in_schema=False)(partial(saved, page.begin.context.files))
    mounted: FastAPI = gr.mount_gradio_app(
        app, page.blocks, PATH, footer_links=[], run_history=False, ssr_mode=False, mcp_server=False, pwa=False,
        max_file_size=int(state.limits.upload_mb * 1e6), show_error=False,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=asset("page.css"), js=asset("page.js"), enable_monitoring=False,
        auth=None if state.settings.keys is None else _knows(state), auth_message="The name of your key, and the key.",
    )  # fmt: skip
    return mounted


def page_of(state: State) -> Page:
    """The page for the bundles of a server, wired."""
    if not isinstance(state.engine, Runner):
        raise InputError("ui", "a server whose edits run elsewhere", "--engine threads")
    starts = edits_to_begin_with(state)
    models = {name: (hosted, method) for name, (hosted, method) in state.hosts.models().items() if method is not None}
    usual = {method.name: usual_values(method, hosted.editor.bundle) for hosted, method in models.values()}
    methods = {name: method for name, (_, method) in models.items()}
    blocks, parts = build(methods, mappers_of(state), list(starts), usual)
    context = Context(parts, state, Edits(state, state.engine), starts)
    begin = Beginning(context)
    page = Page(blocks, parts, begin, Making(context, begin), Choosing(context, begin))
    with blocks:
        wire(page)
    blocks.queue(default_concurrency_limit=None, api_open=False)
    return page


async def to_page() -> RedirectResponse:
    """From / to the page."""
    return RedirectResponse(f"{PATH}/")


async def saved(files: Files, token: str) -> Response:
    """A file that a page offers to save."""
    path = files.find(token)
    if path is None:
        raise Refusal(404, "this picture is not offered any more; load the page anew", None, "not_found")
    headers = {"Cache-Control": "no-store", "Content-Disposition": f'attachment; filename="{path.name}"'}
    return FileResponse(path, media_type="image/png", headers=headers)


async def favicon() -> Response:
    """The sign in a browser's tab."""
    return Response(asset("favicon.svg"), media_type="image/svg+xml")


def _knows(state: State) -> Any:
    def knows(name: str, key: str) -> bool:
        try:
            found = state.keys.find(f"Bearer {key}")
            found.require("edit")
        except Refusal:
            return False
        return found.name == name

    return knows


def mappers_of(state: State) -> list[tuple[str, str]]:
    """The latent mappers of all bundles: as they are shown, and their names."""
    bundles = [hosted.editor.bundle.manifest for hosted in state.hosts.all]
    found = {name: one.prompt for bundle in bundles for name, one in bundle.mappers.items()}
    return [(f"{name}: {prompt}", name) for name, prompt in found.items()]


def edits_to_begin_with(state: State) -> dict[str, Recipe]:
    """The edits of `limner demo` by a name, as far as their methods are served."""
    path = demo_file()
    served = {method.name for _, method in state.hosts.models().values() if method is not None}
    found: dict[str, Recipe] = {}
    if not path.is_file():
        return found
    recipes = read_demo(path).recipes(path.parent)
    for recipe in sorted(recipes, key=lambda one: one.method):  # global directions, which is quick, comes first
        if recipe.method in served:
            source = recipe.source
            start = "words" if source.path is None else Path(source.path).stem
            words = ", ".join(prompt.text for prompt in recipe.prompts)
            found[f"{recipe.method}, {start}: {words}"] = recipe
    return found


def wire(page: Page) -> None:
    """What answers which event."""
    blocks, parts, begin, make, choose = page.blocks, page.parts, page.begin, page.make, page.choose
    every = list(parts.named.values()) + [one.component for one in parts.fields]
    groups = [group for shown in parts.groups.values() for group in shown]
    outputs = [*every, *groups]
    result = [
        parts.tab, parts.said, parts.stage, parts.strip, parts.undo, parts.go_on, parts.first, parts.second,
        parts.brush, parts.draw, parts.strength, parts.download, parts.command, parts.python, parts.recipe,
        parts.edit, parts.stop,
    ]  # fmt: skip
    own: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    who: list[Any] = [parts.secret, parts.tab]
    form: set[Any] = {
        *(one.component for one in parts.fields), *who, parts.model, parts.go_on, parts.kind, parts.seed,
        parts.truncation, parts.source_words, parts.words_seed, parts.shows, parts.words, parts.mappers, parts.points,
        parts.finder, parts.face_index, parts.scale, parts.shift, parts.paste,
    }  # fmt: skip
    blocks.load(begin.arrive, parts.secret, outputs, **own).then(
        begin.fitted, [parts.model, parts.kind], outputs, **own
    )
    blocks.unload(begin.leave)
    parts.drop.upload(begin.drop, [parts.drop, parts.secret], outputs, **own).then(make.replayed, who, outputs, **own)
    parts.examples.select(begin.example, parts.secret, outputs, **own)
    parts.photo.select(begin.point, [parts.points, parts.tab], [parts.points, parts.photo, parts.said], **own)
    parts.clear_points.click(begin.no_points, parts.tab, [parts.points, parts.photo, parts.said], **own)
    parts.kind.change(begin.fitted, [parts.model, parts.kind], outputs, **own)
    parts.another.click(begin.another, None, parts.seed, **own)
    parts.model.change(begin.fitted, [parts.model, parts.kind], outputs, **own)
    parts.starts.input(begin.begin, [parts.starts, parts.secret], outputs, **own)
    for trigger in (parts.edit.click, parts.words.submit):
        trigger(make.run, form, result, **own)
    for pressed in (parts.edit.click, parts.brush.submit):
        pressed(None, js=TO_RESULT)
    parts.brush.submit(make.again, who, result, **own)
    parts.brush.clear(choose.close, None, parts.brush, **own)
    parts.stop.click(make.stop, None, parts.said, queue=False, **own)
    parts.strength.input(make.strength, [parts.strength, *who], result, trigger_mode="always_last", **own)
    parts.strip.select(choose.choose, who, outputs, **own)
    parts.undo.click(choose.undo, who, outputs, **own)
    for one in (parts.first, parts.second):
        one.input(choose.compare, [parts.first, parts.second, *who], outputs, **own)
    parts.draw.click(choose.draw, who, [parts.brush, parts.said], **own)
    parts.forget.click(choose.forget, parts.secret, outputs, **own)
