"""Settings of a method chosen on validation pictures, whose avatars and noise the figures never see.

    python -m limner.export.diffusion.battery.tuning --method sega --axis scale=4,7 --axis threshold=0.7,0.9 --out DIR

Axes are walked one after the other: the best value of each is kept for the next. Better is more success, then more of
the other attributes kept. Every trial's rows stay in DIR, so that a stopped run goes on; DIR/presets.json has the
winner as a bundle's presets, for the presets.json of the model's folder.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from limner.export.battery import EDITS, BatteryEdit, Judging
from limner.export.diffusion.battery.methods import INVERSION, METHODS, PROMPT_TO_PROMPT, SEGA, parse_names, parse_value
from limner.export.diffusion.battery.report import summary
from limner.export.diffusion.battery.rows import open_rows
from limner.export.diffusion.battery.runs import Battery
from limner.runtime.bundle.loading import load_bundle
from limner.runtime.bundle.shipped import checkpoints_folder, shipped_bundle
from limner.runtime.editor import Editor
from limner.runtime.errors import InputError
from limner.runtime.storage.files import write_atomically

Axes = Mapping[str, Sequence[Any]]
SPLIT = "validation"
PARTS = ("generated", "real")
AXES: dict[str, Axes] = {
    PROMPT_TO_PROMPT: {"guidance_scale": (3.0, 5.0, 7.5), "self_replace": (0.2, 0.4, 0.7), "cross_replace": (0.3, 0.8)},
    f"{PROMPT_TO_PROMPT}-local": {"blend_threshold": (0.2, 0.3, 0.5), "blend_start": (0.1, 0.2, 0.4)},
    SEGA: {"scale": (4.0, 7.0, 10.0), "threshold": (0.6, 0.8, 0.9), "warmup": (1, 3, 6), "guidance_scale": (3.0, 5.0)},
}
REAL_AXES: dict[str, Axes] = {SEGA: {"scale": (4.0, 7.0, 10.0), "threshold": (0.6, 0.8, 0.9),
                                     "inversion.skip": (0.1, 0.2, 0.35)}}  # fmt: skip
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class Trials:
    """The battery of one method at many settings."""

    def __init__(
        self,
        editor: Editor,
        judge: Judging,
        method: str,
        part: str,
        edits: tuple[BatteryEdit, ...],
        count: int,
        out: Path | None,
    ) -> None:
        self.editor, self.judge, self.out = editor, judge, out
        self.method, self.part, self.edits, self.count = method, part, edits, count
        self.found: dict[str, dict[str, Any]] = {}  # settings as JSON -> figures

    def __call__(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The figures at these settings, measured once."""
        key = json.dumps(settings, sort_keys=True)
        if key not in self.found:
            kept = {"bundle": self.editor.bundle.digest, "split": SPLIT, "methods": {self.method: dict(settings)}}
            place = f"{self.part}-{self.method}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
            rows = open_rows(None if self.out is None else self.out / place, kept)
            battery = Battery(self.editor, self.judge, SPLIT, rows, self.edits, {self.method: settings})
            battery.edit_pictures(self.part, [self.method], self.count)
            self.found[key] = {"settings": dict(settings), **summary(rows, self.part, self.method)}
            print(json.dumps(self.found[key]), file=sys.stderr, flush=True)
        return self.found[key]

    def walk(self, start: Mapping[str, Any], axes: Axes) -> dict[str, Any]:
        """The best settings along the axes."""
        best = self(dict(start))
        for name, values in axes.items():
            tried = [best, *(self({**best["settings"], name: value}) for value in values)]
            best = max(tried, key=lambda one: (one["success"], one["kept"]))
        return best

    @property
    def ranked(self) -> list[dict[str, Any]]:
        """All trials, the best first."""
        return sorted(self.found.values(), key=lambda one: (-one["success"], -one["kept"]))


def presets(method: str, part: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as the presets of a bundle."""
    name = SEGA if method == SEGA else PROMPT_TO_PROMPT
    section = f"{name}.pictures" if part == "real" else name
    parameters = {key: value for key, value in settings.items() if not key.startswith(INVERSION)}
    inversion = {key[len(INVERSION) :]: value for key, value in settings.items() if key.startswith(INVERSION)}
    found = {section: parameters, f"{name}.inversion": inversion}
    return {"defaults": {key: values for key, values in found.items() if values}}


def parse_axes(given: Sequence[str]) -> dict[str, list[Any]]:
    """["scale=4,7"] -> {"scale": [4, 7]}."""
    found: dict[str, list[Any]] = {}
    for item in given:
        name, sign, values = (part.strip() for part in item.partition("="))
        if not sign or not name or not all(value.strip() for value in values.split(",")):
            raise InputError("axis", repr(item), "NAME=VALUE,VALUE, as in scale=4,7")
        found[name] = [parse_value(value.strip()) for value in values.split(",")]
    return found


@app.command()
def main(
    method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")] = PROMPT_TO_PROMPT,
    axis: Annotated[list[str] | None, typer.Option(help="NAME=VALUE,VALUE; may be repeated.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE that every trial has.")] = None,
    part: Annotated[str, typer.Option(help="generated or real.")] = "generated",
    edits: Annotated[str, typer.Option(help="Names of edits, commas between; all if not given.")] = "",
    count: Annotated[int, typer.Option(min=1, help="Pictures an edit.")] = 6,
    bundle: Annotated[Path | None, typer.Option(help="Folder of the diffusion bundle.")] = None,
    judge: Annotated[Path | None, typer.Option(help="Folder of the judge.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the trials and the presets.")] = None,
) -> None:
    """Walk the axes; print one JSON line a trial, best first."""
    (name,), (chosen,) = parse_names("method", method, METHODS)[:1], parse_names("part", part, PARTS)[:1]
    names = parse_names("edits", edits, [edit.name for edit in EDITS])
    usual = REAL_AXES.get(name, AXES[name]) if chosen == "real" else AXES[name]
    axes = parse_axes(axis) if axis else usual
    start = {key: values[0] for key, values in parse_axes(setting or ()).items()}
    editor = Editor(load_bundle(bundle or shipped_bundle("diffusion")), threads=threads)
    found = Judging(judge or checkpoints_folder() / "avatars" / "judge")
    trials = Trials(editor, found, name, chosen, tuple(e for e in EDITS if e.name in names), count, out)
    best = trials.walk(start, axes)
    for one in trials.ranked:
        print(json.dumps(one))
    if out is not None:
        text = json.dumps(presets(name, chosen, best["settings"]), indent=1) + "\n"
        write_atomically(out / "presets.json", text.encode(), field="out")


if __name__ == "__main__":
    app()
