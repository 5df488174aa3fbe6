"""Model cards: data, recipe, figures and licence of a checkpoint, as README.md and figures.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from limner.training.avatars.attributes import StyleSpec
from limner.training.config import to_plain


@dataclass(frozen=True)
class Card:
    """What a card tells; `text` is the README."""

    title: str
    family: str
    what: str  # a paragraph: what it is, what it is for
    run: Any  # the run's config
    style: StyleSpec | None  # of the pictures; None: not drawn by us
    figures: dict[str, Any]
    notes: str = ""

    def text(self) -> str:
        recipe = yaml.safe_dump(to_plain(self.run), sort_keys=False).strip()
        style = self.style
        licence = "Trained with the networks and pictures that the recipe names; their terms apply."
        if style is not None:
            licence = (
                f"Weights: Apache-2.0. Trained on pictures drawn with DiceBear, style `{style.name}`: {style.source}, "
                f"by {style.creator}. Licence of the drawings: {style.licence}."
            )
        parts = [f"# {self.title}", self.what.strip(), self.notes.strip(), "## Figures", table(self.figures),
                 "## Recipe", f"`limner train {self.family}` with:", f"```yaml\n{recipe}\n```",
                 "## Licence", licence]  # fmt: skip
        return "\n\n".join(part for part in parts if part) + "\n"

    def write(self, folder: Path) -> None:
        """README.md and figures.json into the checkpoint folder."""
        (folder / "README.md").write_text(self.text(), encoding="utf-8")
        (folder / "figures.json").write_text(json.dumps(self.figures, indent=2) + "\n", encoding="utf-8")


def table(figures: dict[str, Any]) -> str:
    """Figures as Markdown: plain ones in a list, each mapping as a table of its own."""
    plain = [f"- {name}: {value}" for name, value in figures.items() if not isinstance(value, dict)]
    parts = ["\n".join(plain)] if plain else []
    for name, rows in figures.items():
        if isinstance(rows, dict):
            lines = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
            parts.append(f"| {name} | |\n| --- | --- |\n{lines}")
    return "\n\n".join(parts)
