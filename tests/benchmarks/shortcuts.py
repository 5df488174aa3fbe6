"""`make bench-shortcuts`: what a diffusion edit loses where not every step computes everything, and what it gains.

Each setting edits the same samples by Prompt-to-Prompt and SEGA, made pictures and given ones, and is judged as a study
is (`limner study run`, whose folders are kept in --work and gone on with). Its rivals are fewer steps. Beside success
stand the distance to the exact pictures and the CPU seconds of an edit, all settings taking turns.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, median
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from limner.runtime.bundle.shipped import checkpoints_folder
from limner.runtime.editor import Editor
from limner.runtime.recipe import PromptEdit, Recipe, Source
from limner.runtime.study.rows import Run, read_run
from limner.runtime.study.scores import score
from limner.runtime.study.tables import share_text

METHODS = ("prompt-to-prompt", "sega")
PARTS = ("generated", "real")
SETTINGS: dict[str, dict[str, Any]] = {
    "exact": {},
    "cache_interval=2": {"cache_interval": 2},
    "cache_interval=3": {"cache_interval": 3},
    "cache_interval=5": {"cache_interval": 5},
    "guidance_until=0.7": {"guidance_until": 0.7},
    "guidance_until=0.5": {"guidance_until": 0.5},
    "cache_interval=2, guidance_until=0.7": {"cache_interval": 2, "guidance_until": 0.7},
    "half the steps": {"steps": 0.5},
    "a third of the steps": {"steps": 1 / 3},
}
ROUNDS = 5
PROMPT, EDITED = "a portrait of a woman with long brown hair", "a portrait of a woman with long red hair"


def recipes(editor: Editor, setting: dict[str, Any]) -> list[Recipe]:
    """One edit by each method; "steps" of a setting is a share of the method's own."""
    source = Source.from_prompt(PROMPT, 1)
    return [
        Recipe(name, source, (PromptEdit(text),), settings_of(editor, name, setting))
        for name, text in zip(METHODS, (EDITED, "glasses"), strict=True)
    ]


def settings_of(editor: Editor, method: str, setting: dict[str, Any]) -> dict[str, Any]:
    """The setting with a number of steps in place of a share."""
    own = int(editor.bundle.manifest.defaults.get(method, {}).get("steps", 50))
    return {name: round(own * value) if name == "steps" else value for name, value in setting.items()}


def seconds(editor: Editor) -> dict[str, dict[str, float]]:
    """CPU seconds of an edit, medians: setting -> method."""
    found: dict[str, dict[str, list[float]]] = {name: {m: [] for m in METHODS} for name in SETTINGS}
    for turn in range(ROUNDS + 1):
        for name, setting in SETTINGS.items():
            for recipe in recipes(editor, setting):
                start = time.process_time()
                editor.edit(recipe, compare=False)
                if turn:
                    found[name][recipe.method].append(time.process_time() - start)
    return {name: {method: median(own) for method, own in times.items()} for name, times in found.items()}


def study(editor: Editor, folder: Path, samples: Path, count: int, setting: dict[str, Any]) -> Run:
    """The judged run of one setting."""
    sets = [f"--set={method}.{name}={value}" for method in METHODS
            for name, value in settings_of(editor, method, setting).items()]  # fmt: skip
    asked = [f"--method={method}" for method in METHODS] + [f"--part={part}" for part in PARTS]
    place = ["--out", folder, "--bundle", editor.bundle.root, "--count", str(count)]
    command = [sys.executable, "-m", "limner.runtime", "study", "run", samples, *place, *asked, *sets]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    return read_run(folder)


def distance(folder: Path, exact: Path, part: str, method: str) -> float:
    """Mean PSNR of a run's pictures to those of the exact run, dB; 99 for the same pictures."""
    found = []
    for path in sorted(exact.glob(f"pictures/{part}-{method}-*/*.png")):
        other = folder / path.relative_to(exact)
        if "-source" in path.name or "-local-" in path.parent.name or not other.is_file():
            continue
        a, b = (np.asarray(Image.open(one).convert("RGB"), np.float64) for one in (path, other))
        found.append(10 * np.log10(255**2 / max(float(((a - b) ** 2).mean()), 1e-5)))
    return min(99.0, mean(found))


def as_markdown(found: dict[str, Any]) -> str:
    """A table for each method."""
    lines = [
        "# Diffusion edits that do not compute everything", "",
        "`make bench-shortcuts`: `cache_interval` keeps the UNet's deep features for some steps (DeepCache),",
        "`guidance_until` guides a part of the steps alone; off by default. Success as in a study, of edits of made",
        "and of given pictures; dB of the edited pictures to those without; CPU seconds of an edit of the avatars",
        f"without its plain picture, settings in turns. {found['count']} samples an edit, {found['edits']} edits.", "",
    ]  # fmt: skip
    titles = ("setting", "CPU s", "of exact", *(f"{part}: {what}" for part in PARTS for what in ("success", "dB")))
    for method in METHODS:
        lines += [f"## {method}", "", f"| {' | '.join(titles)} |", "|---|" + "---|" * (len(titles) - 1)]
        base = found["settings"]["exact"][method]["seconds"]
        for name, one in found["settings"].items():
            own = one[method]
            parts = [text for part in PARTS for text in (share_text(*own[part]["success"]), f"{own[part]['dB']:.1f}")]
            cells = [name, f"{own['seconds']:.2f}", f"{own['seconds'] / base:.2f}", *parts]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main(
    samples: Annotated[Path, typer.Argument(help="Folder of samples.")],
    out: Annotated[Path, typer.Option(help="Folder of the table.")] = Path("out"),
    work: Annotated[Path, typer.Option(help="Folder of the judged runs.")] = Path("out/shortcuts"),
    count: Annotated[int, typer.Option(help="Samples an edit.")] = 6,
    threads: Annotated[int, typer.Option(help="CPU threads of the timed edits.")] = 1,
) -> None:
    """Judge and time every setting; write benchmarks-shortcuts.md and .json."""
    editor = Editor(checkpoints_folder() / "avatars" / "diffusion", threads=threads)
    took = seconds(editor)
    found: dict[str, Any] = {"count": count, "settings": {}}
    for number, (name, setting) in enumerate(SETTINGS.items()):
        folder = work / f"{number}"
        run = study(editor, folder, samples, count, setting)
        row: dict[str, Any] = {}
        for method in METHODS:
            row[method] = {"seconds": took[name][method]}
            for part in PARTS:
                scores = [score(run, part, method, edit) for edit in run.header.methods[method]["edits"]]
                total = [sum(one.success for one in scores), sum(one.tried for one in scores)]
                row[method][part] = {"success": total, "dB": distance(folder, work / "0", part, method)}
        found["settings"][name] = row
        found["edits"] = len(run.header.methods[METHODS[0]]["edits"])
        print(json.dumps({name: row}), flush=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "benchmarks-shortcuts.json").write_text(json.dumps(found, indent=1) + "\n")
    (out / "benchmarks-shortcuts.md").write_text(as_markdown(found))


if __name__ == "__main__":
    typer.run(main)
