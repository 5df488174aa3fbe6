"""The components of the page, from top to bottom, each with an id of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from PIL import Image

from limner.runtime.faces.face import PASTE_MODES
from limner.runtime.faces.finders import finder_names
from limner.runtime.methods.registry import Method
from limner.runtime.page.fields import FRONT, GROUPS, Field, field_of, names_of
from limner.runtime.page.looking import VERSIONS, asset, empty_stage, save_link, thumb_url, thumbs
from limner.runtime.page.starting import example_pictures
from limner.runtime.recipe import MAX_SEED, TRUNCATION

__all__ = ["RESULT", "SOURCE", "Parts", "build"]

START_FROM = [("A picture", "file"), ("A seed", "seed"), ("Words", "words")]
SOURCE, RESULT = "source", "result"


@dataclass(eq=False)
class Parts:
    """Every component by name; `fields` are those of all methods."""

    named: dict[str, Any] = field(default_factory=dict)
    fields: list[Field] = field(default_factory=list)
    groups: dict[str, list[Any]] = field(default_factory=dict)  # method -> what is shown for it alone

    def __getattr__(self, name: str) -> Any:
        try:
            return self.named[name]
        except KeyError as reason:
            raise AttributeError(name) from reason

    def add(self, name: str, component: Any) -> Any:
        """Keep a component under its name, which is its id as well."""
        self.named[name] = component
        return component


def build(
    models: dict[str, Method],  # of a server, BUNDLE:METHOD
    mappers: list[tuple[str, str]],  # of its bundles: as they are shown, names
    edits: list[str],  # to begin with
    usual: Mapping[str, Mapping[tuple[str, str], str]],  # method -> what acts where a field is left empty
) -> tuple[gr.Blocks, Parts]:
    """The page."""
    parts = Parts()
    with gr.Blocks(title="Limner", analytics_enabled=False, delete_cache=(3600, 86_400)) as blocks:
        parts.add("secret", gr.BrowserState("", storage_key="limner-desk", secret="limner"))
        parts.add("tab", gr.State(None))
        gr.HTML("<h1>Limner</h1><p>Edits images by words.</p>", elem_id="title", js_on_load=None)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                asking(parts, models, mappers, edits, usual)
            with gr.Column(scale=3, min_width=320):
                looking(parts)
    return blocks, parts


# --- the left side: what is asked for -------------------------------------------------------------------------


def asking(
    parts: Parts, models: dict[str, Method], mappers: list[tuple[str, str]], edits: list[str],
    usual: Mapping[str, Mapping[tuple[str, str], str]],
) -> None:  # fmt: skip
    """Source, method, words, settings."""
    parts.add("starts", gr.Dropdown(edits, value=None, label="Begin with an example", elem_id="starts"))
    parts.add("kind", gr.Radio(START_FROM, value="file", label="Start from", elem_id="kind"))
    of_files(parts)
    with gr.Row(visible=False, elem_id="of-seed") as row:
        parts.add("seed", gr.Number(7, precision=0, minimum=0, maximum=MAX_SEED, label="seed", elem_id="seed"))
        parts.add("truncation", gr.Slider(0, 1, TRUNCATION, step=0.05, label="truncation", elem_id="truncation"))
        parts.add("another", gr.Button("Another seed", size="sm", elem_id="another"))
    parts.add("of_seed", row)
    with gr.Row(visible=False, elem_id="of-words") as row:
        parts.add("source_words", gr.Textbox(label="What the picture is of", lines=2, elem_id="source-words", scale=3))
        parts.add(
            "words_seed", gr.Number(7, precision=0, minimum=0, maximum=MAX_SEED, label="seed", elem_id="words-seed")
        )
    parts.add("of_words", row)
    distinct = list({method.name: method for method in models.values()}.values())
    several = len({method.name for method in models.values()}) < len(models)
    choices = [(name if several else method.name, name) for name, method in models.items()]
    parts.add("model", gr.Radio(choices, value=choices[0][1], label="Method", elem_id="method"))
    parts.add("about", gr.Markdown(elem_id="about"))
    parts.add("shows", gr.Textbox(label="What the picture shows", lines=2, visible=False, elem_id="shows"))
    parts.add("words", gr.Textbox(label="Words", lines=2, max_lines=8, elem_id="words"))
    parts.add("mappers", gr.Dropdown(mappers, multiselect=True, label="Mappers", visible=False, elem_id="mappers"))
    for method in distinct:
        front_of(parts, method, usual[method.name])
    next_from = [("the source", SOURCE), ("the result", RESULT)]
    parts.add("go_on", gr.Radio(next_from, value=SOURCE, label="Edit", visible=False, elem_id="go-on"))
    with gr.Row():
        parts.add("edit", gr.Button("Edit", variant="primary", elem_id="edit"))
        parts.add("stop", gr.Button("Stop", variant="stop", visible=False, elem_id="stop"))
    for method in distinct:
        settings_of(parts, method, usual[method.name])


def of_files(parts: Parts) -> None:
    """A picture that is dropped, the examples, a face in a photograph."""
    with gr.Column(elem_id="of-file") as group:
        label = "Drop a picture, a result of Limner, or a recipe"
        parts.add("drop", gr.File(label=label, file_count="multiple", height=140, elem_id="drop"))
        parts.add("examples", gr.HTML(example_thumbs(), elem_id="examples", js_on_load=asset("choose.js")))
        with gr.Accordion("A face in a photograph", open=False, elem_id="face"):
            of_face(parts)
    parts.add("of_file", group)


def example_thumbs() -> str:
    """The shipped pictures."""
    choices = []
    for path in example_pictures():
        with Image.open(path) as opened:
            choices.append((f"example-{path.stem}", path.name, thumb_url(opened), path.stem))
    return thumbs("Examples", choices) if choices else ""


def of_face(parts: Parts) -> None:
    """Where the face is, how the model frames it, how it goes back."""
    gr.Markdown(
        "The face is cut out, edited and pasted back. Click, in this order: left eye, right eye, nose, left and right "
        "corner of the mouth, as they are in the picture.", elem_id="face-help",
    )  # fmt: skip
    parts.add("photo", gr.HTML("", elem_id="photo", js_on_load=asset("photo.js")))
    info = "pixels, [[x, y], ...], 5 or 68 of them; empty: the centred square"
    parts.add("points", gr.Textbox(label="Points of the face", info=info, elem_id="points"))
    with gr.Row():
        finders = [("none", ""), *((name, name) for name in finder_names())]
        parts.add("finder", gr.Dropdown(finders, value="", label="or a finder", elem_id="finder"))
        parts.add("face_index", gr.Textbox("", label="which face, from 0", elem_id="face-index"))
        parts.add("paste", gr.Dropdown(list(PASTE_MODES), value="replace", label="goes back as", elem_id="paste"))
    with gr.Row():
        parts.add("scale", gr.Number(1.0, label="square, of FFHQ's side", elem_id="framing-scale"))
        parts.add("shift", gr.Number(0.0, label="further down, of FFHQ's side", elem_id="framing-shift"))
        parts.add("clear_points", gr.Button("Take the points away", size="sm", elem_id="clear-points"))


Usual = Mapping[tuple[str, str], str]


def front_of(parts: Parts, method: Method, usual: Usual) -> None:
    """The fields of a method that stand beside the words."""
    names = [name for name in names_of(method, "options") if name in FRONT]
    with gr.Row(visible=False, elem_id=f"front-{method.name}") as row:
        parts.fields += [field_of(method, "options", name, usual["options", name]) for name in names]
    parts.groups[method.name] = [row] if names else []


def settings_of(parts: Parts, method: Method, usual: Usual) -> None:
    """All other fields of a method, folded away."""
    with gr.Accordion("Settings", open=False, visible=False, elem_id=f"settings-{method.name}") as folded:
        for group in GROUPS:
            rest = [name for name in names_of(method, group) if not (group == "options" and name in FRONT)]
            if rest and group == "inversion":
                gr.Markdown("**of a picture's inversion**", elem_id=f"inversion-{method.name}")
            with gr.Row():
                parts.fields += [field_of(method, group, name, usual[group, name]) for name in rest]
    parts.groups[method.name].append(folded)


# --- the right side: what is looked at ------------------------------------------------------------------------


def looking(parts: Parts) -> None:
    """What is said, the stage, strength, versions, the brush, copies."""
    parts.add("said", gr.HTML(elem_id="said", js_on_load=None))
    parts.add("stage", gr.HTML(empty_stage(), elem_id="stage", js_on_load=asset("stage.js")))
    parts.add("strength", gr.Slider(
        0, 2, 1, step=0.05, label="Strength", interactive=False, elem_id="strength", info="of the result shown",
    ))  # fmt: skip
    parts.add("strip", gr.HTML(thumbs(VERSIONS, []), elem_id="strip", js_on_load=asset("choose.js")))
    with gr.Row():
        parts.add("undo", gr.Button("Undo", size="sm", interactive=False, elem_id="undo"))
        parts.add("first", gr.Dropdown([], label="Compare", elem_id="compare-first"))
        parts.add("second", gr.Dropdown([], label="with", elem_id="compare-second"))
    with gr.Row():
        parts.add("draw", gr.Button("Draw on the mask", size="sm", visible=False, elem_id="draw"))
        parts.add("download", gr.HTML(save_link(None), elem_id="download", js_on_load=None))
        parts.add("forget", gr.Button("Forget everything", size="sm", elem_id="forget"))
    parts.add("brush", gr.HTML("", visible=False, elem_id="brush", js_on_load=asset("brush.js")))
    with gr.Accordion("Copy this edit", open=False, elem_id="copies"), gr.Tabs(elem_id="copy-tabs"):
        for name, title, language in (
            ("command", "as command", "shell"), ("python", "as Python", "python"), ("recipe", "as recipe", "json"),
        ):  # fmt: skip
            with gr.Tab(title, elem_id=f"tab-{name}"):
                parts.add(name, gr.Code(
                    language=language, interactive=False, show_label=False, buttons=["copy", "download"],  # type: ignore[arg-type]
                    max_lines=16, wrap_lines=True, elem_id=f"copy-{name}",
                ))  # fmt: skip
