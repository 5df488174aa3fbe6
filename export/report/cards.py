"""What model cards say about licences: the section "## Licence" of a checkpoint's README.md.

Weights: Apache-2.0. Trained on pictures drawn with DiceBear, style `avataaars`: SOURCE, by CREATOR.
Licence of the drawings: Free for personal and commercial use.
"""

from __future__ import annotations

import re
from pathlib import Path

from limner.runtime.bundle.manifest import LicenceMeta

CARD = "README.md"
NOT_STATED = "not stated"
WEIGHTS = re.compile(r"Weights: (?P<licence>.+?)\.(?:\s|$)")
DRAWINGS = re.compile(
    r"style `(?P<style>[^`]+)`: (?P<source>.+), by (?P<creator>[^.]+)\. Licence of the drawings: (?P<licence>.+?)\.?$"
)


def read_licences(folder: Path, part: str) -> tuple[LicenceMeta, ...]:
    """The licence of a checkpoint's weights, and that of the drawings it learnt from if its card names them."""
    text = _section(folder / CARD)
    weights, drawings = WEIGHTS.search(text), DRAWINGS.search(text)
    licence = weights["licence"] if weights else text or NOT_STATED
    found = [LicenceMeta(part, licence, "Limner" if weights else NOT_STATED, f"{part}/{CARD}")]
    if drawings:
        style = f"drawings of the style {drawings['style']}"
        found.append(LicenceMeta(style, drawings["licence"], drawings["creator"], drawings["source"]))
    return tuple(found)


def _section(path: Path) -> str:
    """The text under "## Licence" on one line; empty if there is none."""
    if not path.is_file():
        return ""
    lines: list[str] = []
    inside = False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            inside = line.lstrip("#").strip().lower() in ("licence", "license")
        elif inside:
            lines.append(line.strip())
    return " ".join(line for line in lines if line)
