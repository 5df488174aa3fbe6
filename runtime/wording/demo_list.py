"""The list of edits that `limner demo` shows: checkpoints/avatars/demo.json, paths relative to that file.

    {"title": "...",
     "rows": [{"picture": "pictures/0001.png", "label": "global directions", "method": "global-directions",
               "edits": [{"text": "a person with a beard", "caption": "beard", "neutral": "a person",
                          "strength": 6.0, "beta": 0.1, "parameters": {}}]}]}

Of a row, method, edits and a picture are needed, or for a method on a diffusion bundle a prompt (and a seed)
instead; beside a picture the prompt says what it shows, and the seed is that of its noise. Of an edit, text is needed;
for sega it is a concept, `strength` its signed scale, `more` further ones. The bundle's defaults fill in the rest.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limner.runtime.errors import InputError
from limner.runtime.methods.registry import find_method
from limner.runtime.recipe import PromptEdit, Recipe, Source
from limner.runtime.schema import from_dict, read_json

__all__ = ["Demo", "DemoEdit", "DemoRow", "read_demo"]


@dataclass(frozen=True)
class DemoEdit:
    """One edit of a row's picture; `caption` is `text` if empty."""

    text: str
    caption: str = ""
    neutral: str | None = None
    strength: float | None = None
    beta: float | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    more: tuple[PromptEdit, ...] = ()

    @property
    def prompts(self) -> tuple[PromptEdit, ...]:
        """All texts of the edit."""
        own = {"neutral": self.neutral, "beta": self.beta}
        options = self.options | {name: value for name, value in own.items() if value is not None}
        return (PromptEdit(self.text, self.strength, options), *self.more)


@dataclass(frozen=True)
class DemoRow:
    """One picture and its edits by one method."""

    method: str
    edits: tuple[DemoEdit, ...]
    picture: str = ""
    prompt: str | None = None
    seed: int = 0
    label: str = ""
    inversion: dict[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """Of the bundle that the row's method runs on."""
        return find_method(self.method).family

    def source(self, folder: Path) -> Source:
        """The picture in `folder`, or the prompt and its seed."""
        if self.picture:
            return Source.from_image(folder / self.picture, self.prompt)
        if self.prompt is None:
            raise InputError("rows.picture", "neither a picture nor a prompt", "one of them")
        return Source.from_prompt(self.prompt, self.seed)


@dataclass(frozen=True)
class Demo:
    """The whole list."""

    rows: tuple[DemoRow, ...]
    title: str = ""

    def recipes(self, folder: Path) -> list[Recipe]:
        """Return one recipe per edit, row by row; InputError names what one of them does not allow."""
        return [
            Recipe(
                row.method,
                row.source(folder),
                edit.prompts,
                edit.parameters,
                row.inversion,
                row.seed if row.picture else 0,
            )
            for row in self.rows
            for edit in row.edits
        ]


def read_demo(path: Path) -> Demo:
    """Read a list of edits; InputError names an unknown key or a wrong type."""
    found = from_dict(Demo, read_json(path, "edits"), "")
    if not found.rows or not all(row.edits for row in found.rows):
        raise InputError("rows", "a list or a row without edits", "rows of one edit or more")
    return found
