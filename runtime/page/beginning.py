"""The left side: what an edit starts from, its method, and the form filled with what a recipe says."""

import json
import re
import secrets
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import gradio as gr
from PIL import Image, ImageDraw

from limner.runtime.errors import InputError
from limner.runtime.page.asking import Start, words_of
from limner.runtime.page.context import Context, Updates, answers
from limner.runtime.page.desk import Desk, Version, new_secret
from limner.runtime.page.fields import shown_value
from limner.runtime.page.layout import SOURCE
from limner.runtime.page.looking import SHOWN_SIDE, TINT, photo_html, picture_url, said
from limner.runtime.page.showing import Tab, start_picture
from limner.runtime.page.starting import Taken, example_pictures, take
from limner.runtime.pictures.images import read_photo
from limner.runtime.recipe import MAX_SEED, Recipe
from limner.runtime.schema import require_number

__all__ = ["KINDS", "Beginning", "kept_result", "start_of"]

POINT = re.compile(r"\[\s*(-?\d+\.?\d*)\s*,\s*(-?\d+\.?\d*)\s*\]")
FACE_POINTS = 5
KINDS = {"image": "file", "w_plus": "file", "seed": "seed", "prompt": "words"}
WORDING = {
    "text": ("What the picture should show", "a text a line, as in: a person with a beard"),
    "concept": ("Concepts", "one a line, as in: +glasses, -beard, +sunglasses:scale=7"),
    "prompt": ("What the picture should show instead", "the whole text, with some words changed"),
    "mapper": ("Words", ""),
}


class Beginning:
    """Events of the left side."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.open: defaultdict[str, set[str]] = defaultdict(set)  # desk -> tabs
        self.taken: dict[str, Taken] = {}  # tab -> a recipe that is to be replayed

    # --- who comes and goes -------------------------------------------------------------------------------

    @answers
    def arrive(self, secret: str, request: gr.Request) -> Updates:
        """A page was opened: the desk as it was left, or an example."""
        parts = self.context.parts
        try:
            desk = self.context.desk(secret, request)
        except InputError:  # the browser is new here, or what it kept was changed
            secret = new_secret()
            desk = self.context.desk(secret, request)
        desk.touch()
        self.open[desk.name].add(request.session_hash or "")
        versions = desk.versions()
        if versions:
            tab = Tab(start_of(desk, versions[-1]), versions[-1].number)
            found = self.context.view(desk, tab) | self.filled(Recipe.from_dict(versions[-1].asked))
        else:
            found = self.context.view(desk, Tab()) | self.first(desk)
        note = said("note", "This page is open in another tab as well: both show the same versions.")
        return found | {parts.secret: secret, parts.said: note if len(self.open[desk.name]) > 1 else ""}

    def leave(self, request: gr.Request) -> None:
        """A page was closed."""
        tab = request.session_hash or ""
        self.context.edits.stop(tab)
        self.taken.pop(tab, None)
        for tabs in self.open.values():
            tabs.discard(tab)

    def first(self, desk: Desk) -> Updates:
        """The form with the first of the edits to begin with, or with the first example."""
        if self.context.starts:
            return self._begun(desk, next(iter(self.context.starts.values())))
        for path in example_pictures():
            return self._starts_with(Start("file", str(desk.keep(path.name, path.read_bytes()))))
        return {}

    # --- a source -----------------------------------------------------------------------------------------

    @answers
    def drop(self, files: list[str] | None, secret: str, request: gr.Request) -> Updates:
        """Files were dropped."""
        parts = self.context.parts
        if not files:
            return {parts.said: ""}
        try:
            self.context.count(request)
            found = take(files, self.context.desk(secret, request).keep, self.context.state.limits)
        except Exception as reason:
            return self.context.failed(reason) | {parts.drop: None}
        finally:
            self.context.discard(files)
        if found.recipe is not None:
            self.taken[request.session_hash or ""] = found
            return {parts.said: said("note", "A recipe: it is replayed."), parts.drop: None}
        return self._starts_with(Start("file", str(found.path))) | {parts.drop: None}

    @answers
    def example(self, secret: str, event: gr.EventData, request: gr.Request) -> Updates:
        """An example was chosen."""
        choice = event._data.get("choice")
        path = next((one for one in example_pictures() if one.name == choice), None)
        if path is None:
            raise InputError("example", repr(choice), ", ".join(one.name for one in example_pictures()))
        kept = self.context.desk(secret, request).keep(path.name, path.read_bytes())
        return self._starts_with(Start("file", str(kept), shows=self._caption(path)))

    def _caption(self, path: Path) -> str:
        """What an example shows, as the edits to begin with say it."""
        sources = (one.source for one in self.context.starts.values())
        return next((one.prompt for one in sources if one.prompt and Path(one.path or "").name == path.name), "")

    def _starts_with(self, start: Start) -> Updates:
        parts = self.context.parts
        return {
            parts.tab: Tab(start), parts.stage: start_picture(start), parts.said: "", parts.shows: start.shows,
            parts.photo: photo_with(start, []), parts.points: "", parts.go_on: gr.update(visible=False, value=SOURCE),
            parts.kind: start.kind,
        }  # fmt: skip

    @answers
    def point(self, points: str, tab: Tab, event: gr.EventData) -> Updates:
        """A place of the photograph was clicked: one point more."""
        if tab.start is None or tab.start.path is None:
            return self.context.same()
        height, width = read_photo(tab.start.path, "source").image_u8.shape[:2]
        place = [require_number(f"photo.{name}", event._data.get(name), 0.0, 1.0) for name in ("x", "y")]
        before = [(float(x), float(y)) for x, y in POINT.findall(points)]
        found = [*(() if len(before) >= FACE_POINTS else before), (place[0] * width - 0.5, place[1] * height - 0.5)]
        text = ", ".join(f"[{x:.0f}, {y:.0f}]" for x, y in found)
        return {self.context.parts.points: f"[{text}]", self.context.parts.photo: photo_with(tab.start, found)}

    @answers
    def no_points(self, tab: Tab) -> Updates:
        """The points are taken away."""
        return {self.context.parts.points: "", self.context.parts.photo: photo_with(tab.start, [])}

    def another(self) -> int:
        """Another seed."""
        return secrets.randbelow(min(MAX_SEED, 100_000))

    # --- the form -----------------------------------------------------------------------------------------

    @answers
    def fitted(self, model: str, kind: str) -> Updates:
        """A method or a kind of source was chosen: what belongs to it alone is shown."""
        parts = self.context.parts
        _, method = self.context.edits.hosted(model)
        label, info = WORDING[method.texts]
        found: Updates = {
            parts.about: f"*{method.summary}*",
            parts.shows: gr.update(visible=method.family == "diffusion" and kind == "file"),
            parts.words: gr.update(label=label, info=info, visible=method.texts != "mapper"),
            parts.mappers: gr.update(visible=method.texts == "mapper"),
        }
        rows = {"file": parts.of_file, "seed": parts.of_seed, "words": parts.of_words}
        found |= {row: gr.update(visible=name == kind) for name, row in rows.items()}
        for name, groups in parts.groups.items():
            found |= {group: gr.update(visible=name == method.name) for group in groups}
        return found

    @answers
    def begin(self, name: str, secret: str, request: gr.Request) -> Updates:
        """An edit to begin with was chosen."""
        return self._begun(self.context.desk(secret, request), self.context.starts[name])

    def _begun(self, desk: Desk, recipe: Recipe) -> Updates:
        start = Start(KINDS[recipe.source.kind], source=recipe.source)
        if recipe.source.path is not None:
            path = Path(recipe.source.path)
            kept = str(desk.keep(path.name, path.read_bytes()))
            start = Start("file", kept, shows=recipe.source.prompt or self._caption(path))
        return self._starts_with(start) | self.filled(recipe) | {self.context.parts.shows: start.shows}

    def filled(self, recipe: Recipe) -> Updates:
        """The form with what a recipe says."""
        parts, source = self.context.parts, recipe.source
        model = self.context.model(recipe)
        _, method = self.context.edits.hosted(model)
        mapper = method.texts == "mapper"
        found: Updates = {
            parts.model: model, parts.kind: KINDS[source.kind], parts.words: "" if mapper else words_of(recipe, method),
            parts.mappers: [prompt.text for prompt in recipe.prompts] if mapper else [],
        }  # fmt: skip
        if source.kind == "seed":
            found |= {parts.seed: source.seed, parts.truncation: source.truncation}
        elif source.kind == "prompt":
            found |= {parts.source_words: source.prompt, parts.words_seed: source.seed}
        elif source.prompt:
            found[parts.shows] = source.prompt
        if source.face is not None:
            face = source.face
            found |= {parts.points: json.dumps(face.landmarks), parts.scale: face.framing.scale,
                      parts.shift: face.framing.shift, parts.paste: face.paste}  # fmt: skip
        data = recipe.to_dict()
        said_in = {"parameters": data["parameters"], "inversion": data["inversion"],
                   "options": {} if method.texts == "concept" else data["prompts"][0]["options"]}  # fmt: skip
        own = (one for one in parts.fields if one.method == method.name)
        return found | {one.component: shown_value(said_in[one.group].get(one.name)) for one in own}


def start_of(desk: Desk, version: Version) -> Start:
    """What a version was made from."""
    asked = Recipe.from_dict(version.asked)
    if asked.source.path is None:
        return Start(KINDS[asked.source.kind], source=asked.source)
    path = desk.place(asked.source, version.digest)
    return Start("file", None if path is None else str(path), shows=asked.source.prompt or "")


def photo_with(start: Start | None, points: Sequence[tuple[float, float]]) -> str:
    """The photograph that points are clicked in, with those that are there; nothing of what is none."""
    if start is None or start.path is None or start.latents:
        return photo_html(None)
    image = Image.fromarray(read_photo(start.path, "source").on_white())
    factor = max(1.0, max(image.size) / SHOWN_SIDE)
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    pen, radius = ImageDraw.Draw(image), max(2.0, max(image.size) / 150)
    for x, y in points:
        pen.circle((x / factor, y / factor), radius, fill=TINT, outline="white", width=max(1, int(radius / 3)))
    return photo_html(picture_url(image))


def kept_result(desk: Desk, version: Version) -> Start:
    """A result as a source: a copy, since its strength may still be moved."""
    path = desk.picture(version.number)
    kept = desk.keep(path.name, path.read_bytes())
    return Start("file", str(kept), shows=version.shows or "")
