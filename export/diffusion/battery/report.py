"""From rows to figures: shares with Wilson's 95 % intervals, as JSON and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limner.export.battery import Score, table, wilson
from limner.export.diffusion.battery.methods import METHODS
from limner.export.diffusion.battery.rows import Row, Rows
from limner.export.diffusion.battery.words import DESCRIBED

AIMS = {"prompts": 0.90, "generated": 0.85, "real": 0.70, "psnr": 27.0, "outside": 2.0}


def share(rows: Sequence[Row]) -> dict[str, Any]:
    """Count, successes, share and interval."""
    success, count = sum(row.success for row in rows), len(rows)
    low, high = wilson(success, count)
    return {"count": count, "success": success, "share": success / count, "interval": [low, high]}


def figures(rows: Rows) -> dict[str, Any]:
    """Everything that the rows say; parts without rows are left out."""
    found: dict[str, Any] = {"aims": AIMS}
    prompted = {name: rows.of("prompts", "", name) for name in DESCRIBED}
    every = [row for one in prompted.values() for row in one]
    if every:
        found["prompts"] = {"all": share(every)} | {name: share(one) for name, one in prompted.items() if one}
    for part in ("generated", "real"):
        methods = {name: edits for name in METHODS if (edits := _edits(rows, part, name))}
        if methods:
            found[part] = {name: _method(edits) for name, edits in methods.items()}
    return found


def markdown(rows: Rows, settings: dict[str, Any]) -> str:
    """The tables."""
    found = figures(rows)
    texts = [f"# Battery of diffusion edits\n\nBundle {settings['bundle'][:12]}, split {settings['split']}."]
    texts += [f"Settings beyond the bundle's: {settings['methods']}."] if any(settings["methods"].values()) else []
    if "prompts" in found:
        lines = ["## Described attributes seen", "", "| attribute | correct |", "|---|---|"]
        lines += [f"| {name} | {_shown(one)} |" for name, one in found["prompts"].items()]
        texts.append("\n".join([*lines, "", f"Aim: {100 * AIMS['prompts']:.0f} % of all."]))
    for part, title in (("generated", "Generated pictures"), ("real", "Held-out pictures")):
        if part in found:
            scores = {name: _scores(_edits(rows, part, name)) for name in found[part]}
            lines = [line for line in table(scores).splitlines() if "identity" not in line]
            lines += _more(found[part])
            texts.append("\n".join([f"## {title}", "", *lines, "", f"Aim: {100 * AIMS[part]:.0f} % of all."]))
    return "\n\n".join(texts) + "\n"


def summary(rows: Rows, part: str, method: str) -> dict[str, Any]:
    """A method's figures in one line; {} without rows."""
    edits = _edits(rows, part, method)
    return {key: value for key, value in _method(edits).items() if key != "edits"} if edits else {}


def _edits(rows: Rows, part: str, method: str) -> dict[str, list[Row]]:
    names = dict.fromkeys(key[2] for key in rows.found if key[:2] == (part, method))
    return {name: found for name in names if (found := rows.of(part, method, name))}


def _method(edits: dict[str, list[Row]]) -> dict[str, Any]:
    every = [row for rows in edits.values() for row in rows]
    weakest = min(edits, key=lambda name: share(edits[name])["share"])
    found = share(every) | {"seen": _mean([float(row.seen) for row in every]), "kept": _mean([r.kept for r in every])}
    found |= {"weakest": f"{weakest} {100 * share(edits[weakest])['share']:.0f} %"}
    for name in ("psnr", "outside", "masked"):
        values = [value for row in every if (value := getattr(row, name)) is not None]
        found |= {name: _mean(values)} if values else {}
    return found | {"edits": {name: share(rows) for name, rows in edits.items()}}


def _scores(edits: dict[str, list[Row]]) -> list[Score]:
    return [
        Score(name, len(rows), sum(row.success for row in rows), sum(row.seen for row in rows),
              _mean([row.kept for row in rows]), float("nan"))
        for name, rows in edits.items()
    ]  # fmt: skip


def _more(methods: dict[str, dict[str, Any]]) -> list[str]:
    """Further lines of a table."""
    lines = []
    for name, title in (("psnr", "reconstruction, dB"), ("outside", "change outside the mask, of 255"),
                        ("masked", "part inside the mask")):  # fmt: skip
        if any(name in one for one in methods.values()):
            cells = (f"{one[name]:.2f}" if name in one else "-" for one in methods.values())
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def _shown(one: dict[str, Any]) -> str:
    low, high = one["interval"]
    return f"{100 * one['share']:.0f} % ({100 * low:.0f}-{100 * high:.0f}) of {one['count']}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
