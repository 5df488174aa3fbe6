"""Choose a method's settings on validation pictures: the battery for each setting of a small table, best first.

    python -m limner.export.tuning --count 4 --try space=w --try space=p_n --try space=s,learning_rate=0.3

Every `--try` is one row: key=value of the method's parameters, numbers or words, separated by commas. Without
any, GRID is tried. What wins goes into the edits/presets.json of the checkpoints; then measure on test pictures.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limner.export.battery import EDITS, METHODS, BatteryEdit, Judging, Pictures, Score, run_battery
from limner.runtime.bundle.loading import load_bundle
from limner.runtime.bundle.presets import presets, resolved
from limner.runtime.errors import InputError, nearest
from limner.runtime.settings import InversionParameters, typed
from limner.runtime.storage.files import write_atomically
from limner.runtime.stylegan2.networks import Models

log = logging.getLogger("limner")
DIRECTION = {"objective": "direction", "start": 0.0, "relevance": 0.0, "steps": 30, "identity_weight": 0.05}
WARM = {"objective": "direction", "space": "s", "moments": "element", "direction_scale": 3.0, "steps": 12,
        "learning_rate": 0.3, "l2_weight": 0.00002, "identity_weight": 0.02}  # fmt: skip
GRID: dict[str, tuple[dict[str, Any], ...]] = {
    "latent-optimization": (
        {},
        {**DIRECTION, "space": "w", "learning_rate": 0.02, "l2_weight": 0.0005},
        {**DIRECTION, "space": "p_n", "learning_rate": 0.05, "l2_weight": 0.0005, "moments": "row"},
        {**DIRECTION, "space": "s", "learning_rate": 0.15, "l2_weight": 0.00002, "moments": "row"},
        {**WARM, "start": 6.0, "start_beta": 0.22, "relevance": 0.12},
        {**WARM, "start": 6.0, "start_beta": 0.3, "relevance": 0.12},
        {**WARM, "start": 6.0, "start_beta": 0.22, "relevance": 0.12, "learning_rate": 0.5},
        {**WARM, "start": 8.0, "start_beta": 0.22, "relevance": 0.12},
    ),
    "global-directions": tuple({"alpha": a, "beta": b} for a in (4.0, 7.0) for b in (0.25, 0.35)),
}


def parse_row(text: str) -> dict[str, Any]:
    """key=value,key=value; a value is JSON or else a word. InputError naming what does not read."""
    found: dict[str, Any] = {}
    for item in text.split(","):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not key or not value:
            raise InputError("try", repr(item), "key=value")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def choose_edits(names: Sequence[str] | None) -> list[BatteryEdit]:
    """The edits of those names, all if none is given."""
    known = {edit.name: edit for edit in EDITS}
    for name in names or ():
        if name not in known:
            raise InputError("edit", repr(name), ", ".join(known), nearest(name, known))
    return [known[name] for name in names] if names else list(EDITS)


def summary(scores: Sequence[Score]) -> dict[str, Any]:
    """Success and what was seen, over all edits; the weakest edit; means."""
    count = sum(s.count for s in scores)
    weakest = min(scores, key=lambda s: s.success / s.count)
    return {
        "success": sum(s.success for s in scores) / count,
        "seen": sum(s.seen for s in scores) / count,
        "weakest": f"{weakest.name} {weakest.success}/{weakest.count}",
        "kept": sum(s.kept * s.count for s in scores) / count,
        "identity": sum(s.identity * s.count for s in scores) / count,
    }


def tune(method: str, rows: Sequence[Mapping[str, Any]], pictures: Pictures, judge: Judging, count: int,
         edits: Sequence[BatteryEdit]) -> list[dict[str, Any]]:  # fmt: skip
    """Each row's summary, the most successful first; all settings are checked before the first one runs."""
    models = pictures.models
    parameters_class, make = METHODS[method]
    settings = [resolved(models.bundle, typed(parameters_class, row, "parameters"), method) for row in rows]
    found = []
    for row, parameters in zip(rows, settings, strict=True):
        log.info("%s %s", method, dict(row))
        found.append({"settings": dict(row), **summary(run_battery(make(models, parameters), pictures, judge, count,
                                                                   edits))})  # fmt: skip
    return sorted(found, key=lambda one: (-one["success"], -one["kept"]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one JSON line a row, best first; --out keeps them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="checkpoints/avatars/bundle")
    parser.add_argument("--judge", default="checkpoints/avatars/judge")
    parser.add_argument("--method", default="latent-optimization", choices=list(GRID))
    parser.add_argument("--count", type=int, default=4, help="validation pictures an edit")
    parser.add_argument("--edit", action="append")
    parser.add_argument("--try", action="append", dest="rows", help="key=value,key=value")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rows = [parse_row(text) for text in given.rows or ()] or GRID[given.method]
    edits = choose_edits(given.edit)
    models = Models(load_bundle(given.bundle), threads=given.threads)
    inversion = presets(models.bundle, InversionParameters, "inversion")
    pictures = Pictures(models, "validation", inversion)
    found = tune(given.method, rows, pictures, Judging(given.judge), given.count, edits)
    lines = "".join(json.dumps(one) + "\n" for one in found)
    print(lines, end="")
    if given.out:
        write_atomically(Path(given.out), lines.encode())


if __name__ == "__main__":
    main()
