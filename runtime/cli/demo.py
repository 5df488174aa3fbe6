"""The verb that shows what Limner does: `limner demo` edits shipped held-out pictures and writes one sheet.

What it edits is listed in checkpoints/avatars/demo.json; the format is in `demo_list`.
"""

import time
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
)
from limner.runtime.errors import InputError

if TYPE_CHECKING:
    from limner.runtime.bundle.loading import Bundle
    from limner.runtime.edit import Edit
    from limner.runtime.wording.demo_list import Demo

__all__ = ["demo"]

OUTPUT = Path("out/demo.png")


def demo(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", "--out", help=f"PNG, JPEG or WebP file; {OUTPUT} if not given.")
    ] = None,
    edits: Annotated[Path | None, typer.Option("--edits", help="Another list of edits (.json).")] = None,
    bundle: BundleOption = None,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Edit portraits by all five methods and write one sheet.

    Methods whose bundle is not there are left out.
    """
    from limner.runtime.bundle.shipped import demo_file
    from limner.runtime.editor import Editor
    from limner.runtime.methods.registry import find_method
    from limner.runtime.pictures.naming import free_name
    from limner.runtime.pictures.writing import write_picture
    from limner.runtime.pictures.xmp import COMPOSITE
    from limner.runtime.wording.demo_list import read_demo

    begin = time.perf_counter()
    path = demo_file() if edits is None else edits
    plan = read_demo(path)
    if edits is None:
        plan = _with_bundles(plan, bundle)
    recipes = plan.recipes(path.parent)
    if dry_run:
        from limner.runtime.cli.recipes import plan as check_plan

        loaded = _bundles(plan, bundle)
        checked = [check_plan(recipe, loaded[find_method(recipe.method).family], provider) for recipe in recipes]
        print_json(
            {"edits": [entry["recipe"] for entry in checked], "output": str(OUTPUT if output is None else output)}
        )
        return
    if output is None:
        OUTPUT.parent.mkdir(exist_ok=True)
        output = free_name(OUTPUT)
    check_output(output, "output")
    loaded = _bundles(plan, bundle)
    note(f"{len(recipes)} edits of {len({row.source(path.parent) for row in plan.rows})} pictures")
    results: dict[int, Edit] = {}
    for family, loaded_bundle in loaded.items():
        note(f"bundle {loaded_bundle.manifest.name} {loaded_bundle.digest[:12]}, provider {provider}")
        rows = [row for row, recipe in enumerate(recipes) if find_method(recipe.method).family == family]
        with steps("demo") as progress:
            found = Editor(loaded_bundle, provider, threads).edit_batch([recipes[row] for row in rows], progress)
        results |= dict(zip(rows, found, strict=True))
    done = [results[row] for row in range(len(recipes))]
    write_picture(output, _sheet(plan, done), mark=COMPOSITE)
    seconds = time.perf_counter() - begin
    note(f"{len(done)} edits in {seconds:.1f} s")
    if as_json:
        print_json({"output": str(output), "seconds": seconds, "edits": [_entry(one) for one in done]})
    else:
        print(output)


def _with_bundles(plan: "Demo", path: Path | None) -> "Demo":
    """The shipped list without the rows of a family whose bundle does not ship, which is said."""
    from dataclasses import replace

    from limner.runtime.bundle.shipped import is_shipped, shipped_bundle

    given = None if path is None else open_bundle(path).manifest.family
    missing = [
        name for name in dict.fromkeys(row.family for row in plan.rows) if name != given and not is_shipped(name)
    ]
    rows = tuple(row for row in plan.rows if row.family not in missing)
    if not rows:
        raise InputError("bundle", f"no bundle at {str(shipped_bundle(missing[0]))!r}", "a bundle", "see `make export`")
    for family in missing:
        methods = ", ".join(dict.fromkeys(row.method for row in plan.rows if row.family == family))
        note(f"without {methods}: no bundle of the family {family} is shipped")
    return replace(plan, rows=rows)


def _bundles(plan: "Demo", path: Path | None) -> "dict[str, Bundle]":
    """Return a bundle for each family of the list: the one at `path` for its own family, else the shipped ones."""
    given = None if path is None else open_bundle(path)
    families = dict.fromkeys(row.family for row in plan.rows)
    return {
        family: given if given is not None and given.manifest.family == family else open_bundle(None, family)
        for family in families
    }


def _sheet(plan: "Demo", results: list["Edit"]) -> Any:
    from limner.runtime.pictures.sheets import Cell, SheetRow, make_sheet

    remaining = iter(results)
    rows = []
    for row in plan.rows:
        done = [next(remaining) for _ in row.edits]
        cells = [Cell(done[0].reconstruction, "inverted")] if row.picture else []
        cells += [Cell(one.image, edit.caption or edit.text) for one, edit in zip(done, row.edits, strict=True)]
        first = Cell(done[0].source, "held-out picture" if row.picture else row.prompt or "")
        rows.append(SheetRow(first, tuple(cells), row.label or row.method))
    return make_sheet(rows, plan.title)


def _entry(edit: "Edit") -> dict[str, Any]:
    return {"recipe": edit.recipe.to_dict(), "scores": edit.scores, "timing_ms": edit.timing}
