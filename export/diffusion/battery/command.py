"""The command line of the battery."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from limner.export.battery import EDITS, Judging
from limner.export.diffusion.battery.methods import METHODS, parse_names, parse_settings
from limner.export.diffusion.battery.report import figures, markdown
from limner.export.diffusion.battery.rows import open_rows
from limner.export.diffusion.battery.runs import FIRST_SEED, PARTS, Battery
from limner.runtime.bundle.loading import load_bundle
from limner.runtime.bundle.shipped import checkpoints_folder, shipped_bundle
from limner.runtime.editor import Editor
from limner.runtime.errors import InputError
from limner.runtime.storage.files import write_atomically
from limner.runtime.storage.stopping import stoppable

NAME = "battery-diffusion"
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    bundle: Annotated[Path | None, typer.Option(help="Folder of the diffusion bundle.")] = None,
    judge: Annotated[Path | None, typer.Option(help="Folder of the judge.")] = None,
    split: Annotated[str, typer.Option(help="validation or test.")] = "test",
    parts: Annotated[str, typer.Option(help=f"Some of {', '.join(PARTS)}, commas between.")] = "",
    methods: Annotated[str, typer.Option(help=f"Some of {', '.join(METHODS)}, commas between.")] = "",
    edits: Annotated[str, typer.Option(help="Names of edits, commas between; all if not given.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Generated pictures an edit.")] = 50,
    count: Annotated[int, typer.Option(min=1, help="Held-out pictures an edit.")] = 50,
    prompts: Annotated[int, typer.Option(min=1, help="Pictures of the part prompts.")] = 100,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="METHOD.NAME=VALUE, as in sega.steps=30 or sega.inversion.skip=0.2."),
    ] = None,
    sheets: Annotated[int, typer.Option(min=0, help="With --out: draw the edits of the first pictures.")] = 0,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for rows and tables; a stopped run goes on there.")] = None,
) -> None:
    """Run the battery and print its tables."""
    if split not in FIRST_SEED:
        raise InputError("split", repr(split), ", ".join(FIRST_SEED))
    chosen = parse_names("parts", parts, PARTS)
    names = parse_names("methods", methods, METHODS)
    known = parse_names("edits", edits, [edit.name for edit in EDITS])
    given = parse_settings(setting or ())
    loaded = load_bundle(bundle or shipped_bundle("diffusion"))
    found = Judging(judge or checkpoints_folder() / "avatars" / "judge")
    settings: dict[str, Any] = {"bundle": loaded.digest, "split": split}
    settings["methods"] = {name: given.get(name, {}) for name in names}
    rows = open_rows(out, settings)
    battery = Battery(
        Editor(loaded, threads=threads), found, split, rows, tuple(e for e in EDITS if e.name in known), given,
        (out, sheets),
    )  # fmt: skip
    try:
        with stoppable():
            if "prompts" in chosen:
                battery.prompts(prompts)
            for part, number in (("generated", seeds), ("real", count)):
                if part in chosen:
                    battery.edit_pictures(part, names, number)
    finally:  # a stopped run leaves the tables of what it has
        if out is not None and rows.found:
            report = settings | figures(rows)
            write_atomically(out / f"{NAME}.json", (json.dumps(report, indent=1) + "\n").encode(), field="out")
            write_atomically(out / f"{NAME}.md", markdown(rows, settings).encode(), field="out")
    print(markdown(rows, settings))


if __name__ == "__main__":
    app()
