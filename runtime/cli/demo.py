"""The verb that shows what Limner does: `limner demo` edits shipped held-out pictures and writes one sheet.

The edits are listed in checkpoints/avatars/demo.json, paths relative to that file:

    {"title": "...",
     "rows": [{"picture": "pictures/0001.png", "label": "global directions", "method": "global-directions",
               "edits": [{"text": "a person with a beard", "caption": "beard", "neutral": "a person",
                          "strength": 6.0, "beta": 0.1, "parameters": {}}]}]}

Of a row, picture, method and edits are needed; of an edit, text. The bundle's defaults fill in the rest.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limner.runtime.cli.console import note, print_json, steps
from limner.runtime.cli.options import (
    BundleOption,
    DryRunOption,
    JsonOption,
    ProviderOption,
    ThreadsOption,
    check_output,
    open_bundle,
    open_editor,
)
from limner.runtime.errors import InputError

if TYPE_CHECKING:
    from limner.runtime.edit import Edit
    from limner.runtime.recipe import Recipe

__all__ = ["Demo", "DemoEdit", "DemoRow", "demo", "read_demo"]

OUTPUT = Path("out/demo.png")


@dataclass(frozen=True)
class DemoEdit:
    """One edit of a row's picture; `caption` is `text` if empty."""

    text: str
    caption: str = ""
    neutral: str | None = None
    strength: float | None = None
    beta: float | None = None
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DemoRow:
    """One picture and its edits by one method."""

    picture: str
    method: str
    edits: tuple[DemoEdit, ...]
    label: str = ""
    inversion: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Demo:
    """The whole list."""

    rows: tuple[DemoRow, ...]
    title: str = ""

    def recipes(self, folder: Path) -> list["Recipe"]:
        """Return one recipe per edit, row by row; InputError names what one of them does not allow."""
        from limner.runtime.recipe import PromptEdit, Recipe, Source

        return [
            Recipe(
                row.method,
                Source.from_image(folder / row.picture),
                (PromptEdit(edit.text, edit.neutral, edit.strength, edit.beta),),
                edit.parameters,
                row.inversion,
            )
            for row in self.rows
            for edit in row.edits
        ]


def read_demo(path: Path) -> Demo:
    """Read a list of edits; InputError names an unknown key or a wrong type."""
    from limner.runtime.schema import from_dict, read_json

    found = from_dict(Demo, read_json(path, "edits"), "")
    if not found.rows or not all(row.edits for row in found.rows):
        raise InputError("rows", "a list or a row without edits", "rows of one edit or more")
    return found


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG file to write.")] = OUTPUT,
    edits: Annotated[Path | None, typer.Option("--edits", help="Another list of edits (.json).")] = None,
    bundle: BundleOption = None,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Edit held-out portraits and write one sheet."""
    from limner.runtime.images import write_png_atomically
    from limner.runtime.shipped import demo_file

    begin = time.perf_counter()
    path = demo_file() if edits is None else edits
    plan = read_demo(path)
    recipes = plan.recipes(path.parent)
    if dry_run:
        from limner.runtime.cli.recipes import plan as check_plan

        loaded = open_bundle(bundle)
        checked = [check_plan(recipe, loaded, provider) for recipe in recipes]
        print_json({"edits": [entry["recipe"] for entry in checked], "output": str(output)})
        return
    if output == OUTPUT:
        OUTPUT.parent.mkdir(exist_ok=True)
    check_output(output, "output")
    editor = open_editor(bundle, provider, threads)
    note(f"{len(recipes)} edits of {len({row.picture for row in plan.rows})} pictures")
    with steps("demo") as progress:
        results = editor.edit_batch(recipes, progress)
    write_png_atomically(output, _sheet(plan, results))
    seconds = time.perf_counter() - begin
    note(f"{len(results)} edits in {seconds:.1f} s")
    if as_json:
        print_json({"output": str(output), "seconds": seconds, "edits": [_entry(one) for one in results]})
    else:
        print(output)


def _sheet(plan: Demo, results: list["Edit"]) -> Any:
    from limner.runtime.sheets import Cell, SheetRow, make_sheet

    remaining = iter(results)
    rows = []
    for row in plan.rows:
        done = [next(remaining) for _ in row.edits]
        cells = [Cell(done[0].reconstruction, "inverted")]
        cells += [Cell(one.image, edit.caption or edit.text) for one, edit in zip(done, row.edits, strict=True)]
        rows.append(SheetRow(Cell(done[0].source, "held-out picture"), tuple(cells), row.label or row.method))
    return make_sheet(rows, plan.title)


def _entry(edit: "Edit") -> dict[str, Any]:
    return {"recipe": edit.recipe.to_dict(), "scores": edit.scores, "timing_ms": edit.timing}
