"""The right side of the page for a desk and the version that is shown, and how a result becomes a version."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from limner.runtime.bundle.shipped import shipped_bundle
from limner.runtime.edit import Edit
from limner.runtime.marking.marks import environment_marks
from limner.runtime.methods.registry import find_method
from limner.runtime.page.asking import Start
from limner.runtime.page.desk import Desk, Version
from limner.runtime.page.layout import Parts
from limner.runtime.page.looking import (
    SHOWN_SIDE,
    VERSIONS,
    empty_stage,
    file_url,
    overlays_of,
    picture_url,
    said,
    save_link,
    stage,
    thumb_url,
    thumbs,
    working,
)
from limner.runtime.page.placing import square_of
from limner.runtime.photograph import whole_picture
from limner.runtime.pictures.images import png_bytes, read_photo
from limner.runtime.provenance import encode_edit, warnings_of
from limner.runtime.recipe import Recipe
from limner.runtime.server.bundles import Hosted
from limner.runtime.wording.spelled import as_command, as_python

__all__ = [
    "Tab",
    "at_strength",
    "made",
    "other_pictures",
    "said_of",
    "shown",
    "start_picture",
    "text_of_result",
    "with_strength",
]

SAID = 60  # characters of a title


@dataclass(frozen=True)
class Tab:
    """What one tab of a browser shows."""

    start: Start | None = None
    current: int | None = None  # the version


def made(desk: Desk, model: str, asked: Recipe, edit: Edit, parent: int | None, start: Start) -> Version:
    """Keep a result as a version."""
    marks, whole = environment_marks(), whole_picture(edit)
    named = _named(asked)
    data, notes = encode_edit(edit, ".png", whole, recipe=_named(edit.recipe), marks=marks)
    before = edit.source
    if edit.recipe.source.face is not None and asked.source.path is not None:
        before = read_photo(asked.source.path, "source").on_white()
    square = square_of(edit, (before.shape[1], before.shape[0]))
    version = Version(
        number=0, parent=parent, title=title_of(asked), model=model, asked=named.to_dict(),
        recipe=_named(edit.recipe).to_dict(), digest=edit.recipe.source.sha256 or "",
        shows=text_of_result(asked, start.shows), overlays=overlays_of(edit, square), square=square,
        warnings=tuple(warnings_of(edit, notes, marks)), scores=edit.scores,
        milliseconds=edit.timing.get("total", 0.0), thumb=thumb_url(Image.fromarray(whole)),
    )  # fmt: skip
    return desk.add(version, data, png_bytes(before))


def at_strength(desk: Desk, version: Version, edit: Edit, strength: float) -> Version:
    """Another strength in the place of a version's own."""
    other = edit.at(strength)
    whole = whole_picture(other)
    data, _ = encode_edit(other, ".png", whole, recipe=_named(other.recipe), marks=environment_marks())
    thumb = thumb_url(Image.fromarray(whole))
    version = replace(version, strength=strength, recipe=_named(other.recipe).to_dict(), thumb=thumb)
    desk.change(version, data)
    return version


def _named(recipe: Recipe) -> Recipe:
    """The recipe with its file's name in place of where it lies here."""
    source = recipe.source
    return recipe if source.path is None else replace(recipe, source=replace(source, path=Path(source.path).name))


def title_of(asked: Recipe) -> str:
    """A few words of an edit."""
    text = ", ".join(prompt.text for prompt in asked.prompts)
    return text if len(text) <= SAID else f"{text[: SAID - 1]}\u2026"


def text_of_result(asked: Recipe, shows: str) -> str | None:
    """What a result shows, where words say it: Prompt-to-Prompt's are those of the whole picture."""
    if find_method(asked.method).texts == "prompt":
        return asked.prompts[0].text
    return asked.source.prompt or shows or None


# --- the right side -------------------------------------------------------------------------------------------


def shown(
    parts: Parts, desk: Desk, tab: Tab, hosted: Hosted | None, saved: Callable[[Path], tuple[str, str]]
) -> dict[Any, Any]:
    """Every component of the right side, as the desk is now; `saved` gives the address and name of a file to save."""
    versions = desk.versions()
    now = next((one for one in versions if one.number == tab.current), None)
    names = [("source", 0), *((f"{one.number}: {one.title}", one.number) for one in versions)]
    choices = [(f"version-{one.number}", str(one.number), one.thumb, f"{one.number}: {one.title}") for one in versions]
    found: dict[Any, Any] = {
        parts.tab: replace(tab, current=None if now is None else now.number),
        parts.strip: thumbs(VERSIONS, choices, "" if now is None else str(now.number)),
        parts.undo: gr.update(interactive=now is not None),
        parts.go_on: gr.update(visible=now is not None),
        parts.first: gr.update(choices=names, value=0 if now is not None else None),
        parts.second: gr.update(choices=names, value=None if now is None else now.number),
        parts.brush: gr.update(visible=False),
        parts.draw: gr.update(visible=now is not None and _drawable(now)),
        parts.strength: gr.update(interactive=now is not None, value=1.0 if now is None else now.strength),
        parts.download: save_link(None) if now is None else save_link(*saved(desk.picture(now.number))),
    }
    if now is None:
        return found | {parts.stage: start_picture(tab.start)} | dict.fromkeys(_copies(parts), "")
    pair = file_url(desk.before(now.number)), file_url(desk.picture(now.number))
    return found | {parts.stage: stage(*pair, now.overlays)} | copies(parts, now, hosted)


def other_pictures(desk: Desk, tab: Tab, first: int, second: int) -> str:
    """The stage with any two versions; 0 is the source of the one that is shown."""
    if tab.current is None:
        return start_picture(tab.start)
    paths = [desk.before(tab.current) if one == 0 else desk.picture(one) for one in (first, second)]
    overlays = desk.version(second).overlays if second else ()
    names = ["source" if one == 0 else str(one) for one in (first, second)]
    return stage(file_url(paths[0]), file_url(paths[1]), overlays, (names[0], names[1]))


def start_picture(start: Start | None) -> str:
    """The stage before the first edit."""
    if start is None or start.path is None or start.latents:
        return empty_stage()
    image = Image.fromarray(read_photo(start.path, "source").on_white())
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return working(picture_url(image), "source")


def _drawable(version: Version) -> bool:
    recipe = Recipe.from_dict(version.recipe)
    return find_method(recipe.method).has("mask_add")


def _copies(parts: Parts) -> tuple[Any, ...]:
    return parts.command, parts.python, parts.recipe


def with_strength(version: Version, asked: Recipe) -> Recipe:
    """What a version was asked for, at the strength that it was moved to since."""
    return asked if version.strength == 1.0 else replace(asked, prompts=Recipe.from_dict(version.recipe).prompts)


def copies(parts: Parts, version: Version, hosted: Hosted | None) -> dict[Any, Any]:
    """The edit as command, Python and recipe."""
    asked, whole = Recipe.from_dict(version.asked), Recipe.from_dict(version.recipe)
    asked = replace(with_strength(version, asked), bundle=None)
    family = find_method(asked.method).family
    ours = hosted is None or hosted.folder.resolve() == shipped_bundle(family).resolve()
    bundle = None if ours or hosted is None else str(hosted.folder)
    command = as_command(asked, bundle)
    if command.startswith("limner replay"):  # texts of which only some have options: all are said
        command = as_command(replace(asked, prompts=whole.prompts), bundle)
    return {
        parts.command: command, parts.python: as_python(asked, bundle),
        parts.recipe: whole.to_json(indent=1),
    }  # fmt: skip


def said_of(version: Version, more: Sequence[str] = ()) -> str:
    """What is said of a version: its warnings, or how long it took."""
    took = f"{version.number}: {version.title}, {version.milliseconds / 1000:.2g} s"
    if version.warnings:
        return said("warning", *more, *version.warnings)
    return said("done", *(more or (took,)))
