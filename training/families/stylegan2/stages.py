"""StyleGAN2's stages in one run: each goes on from the folder of the last, and a finished one is not run again.

OUT/<stage>/         checkpoint, logs, grids of a stage, as `limner train stylegan2` writes them
OUT/<stage>/model/   the stage's generator; it appears when the stage has ended
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner.runtime.errors import InputError, nearest

log = logging.getLogger("limner")
RunStage = Callable[[Any, Path, Path, bool], dict[str, Any]]  # run, folder, model's folder, resume -> figures


@dataclass(frozen=True)
class Stage:
    """One stage, and what it sets over the family's YAML."""

    name: str
    settings: tuple[str, ...] = ()


def read_stages(values: Mapping[str, Any], wanted: Sequence[str] | None = None) -> list[Stage]:
    """The stages of a YAML's mapping, in its order; only the `wanted` ones. InputError for a name that it lacks."""
    stages = [Stage(name, tuple(str(text) for text in settings or ())) for name, settings in values.items()]
    known = [stage.name for stage in stages]
    for name in wanted or ():
        if name not in known:
            raise InputError("stages", repr(name), ", ".join(known), nearest(name, known))
    return [stage for stage in stages if not wanted or stage.name in wanted]


def is_finished(folder: Path) -> bool:
    """Whether a stage's model is there, whole: its weights are the last file that a stage writes."""
    return (folder / "model" / "model.safetensors").is_file() and (
        folder / "model" / "code_embedding.safetensors"
    ).is_file()


def plan(stages: Sequence[Stage], resolve: Callable[[list[str]], Any], out: Path, save: Path, settings: Sequence[str],
         start: str = "") -> list[tuple[Stage, Any, Path, Path]]:  # fmt: skip
    """Each stage with its resolved run, its folder and its model's folder; every config is checked before any runs.

    The figures of the card are measured once, of the last stage's model.
    """
    found = []
    for place, stage in enumerate(stages):
        last, folder = place == len(stages) - 1, out / stage.name
        own = [f"stage={stage.name}", *stage.settings, *settings, *([] if last else ["judge="])]
        run = resolve([*own, *([f"start={start}"] if start else [])])
        model = save if last else folder / "model"
        found.append((stage, run, folder, model))
        start = str(folder / "model") if not last else start
    return found


def run_stages(stages: Sequence[tuple[Stage, Any, Path, Path]], run_stage: RunStage, resume: bool) -> dict[str, Any]:
    """Run what is planned; with `resume`, finished stages are passed over and a begun one goes on. Returns the last
    stage's figures."""
    figures: dict[str, Any] = {}
    for place, (stage, run, folder, model) in enumerate(stages):
        if resume and place < len(stages) - 1 and is_finished(folder):
            log.info("stage %s: finished before", stage.name)
            continue
        begun = resume and (folder / "last.ckpt").is_file()
        log.info("stage %s: %s", stage.name, "goes on" if begun else "begins")
        figures = run_stage(run, folder, model, begun)
    return figures
