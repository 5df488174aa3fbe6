"""What is kept of each edit: one JSON line, written as soon as the edit is judged.

A run goes on where another one stopped: rows that are there are not made again. The settings lie beside them, and rows
of other settings are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limner.runtime.errors import InputError
from limner.runtime.schema import from_dict
from limner.runtime.storage.files import write_atomically

ROWS, SETTINGS = "rows.jsonl", "settings.json"


@dataclass(frozen=True)
class Row:
    """One edit of one picture, or (part "prompts") one attribute of one picture."""

    part: str  # prompts, generated or real
    method: str
    edit: str
    index: int  # of the avatar
    success: bool
    seen: bool = False  # the asked attribute
    kept: float = 1.0  # share of the other attributes
    counts: bool = True  # False where the source turned out to have the attribute already
    changed: tuple[str, ...] = ()  # the other attributes that did not stay
    psnr: float | None = None  # of the reconstruction, dB
    outside: float | None = None  # mean change outside the mask of a local edit, of 255
    masked: float | None = None  # part of the picture inside the mask

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What there is one row of."""
        return self.part, self.method, self.edit, self.index


class Rows:
    """The rows of a run, in memory and, where there is a folder, in its file."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.found: dict[tuple[str, str, str, int], Row] = {}
        if folder is not None and (folder / ROWS).is_file():
            text = (folder / ROWS).read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]  # a run that was killed may have left half a line
            if whole != text:
                write_atomically(folder / ROWS, whole.encode(), field="out")
            for number, line in enumerate(whole.splitlines(), 1):
                row = _read(line, number)
                self.found[row.key] = row

    def add(self, rows: Iterable[Row]) -> None:
        """Keep rows, and write them."""
        fresh = list(rows)
        self.found |= {row.key: row for row in fresh}
        if self.folder is not None and fresh:
            with (self.folder / ROWS).open("a", encoding="utf-8") as stream:
                stream.write("".join(json.dumps(asdict(row)) + "\n" for row in fresh))

    def of(self, part: str, method: str, edit: str) -> list[Row]:
        """The rows that count of one edit, in the order of their pictures."""
        rows = [row for key, row in self.found.items() if key[:3] == (part, method, edit) and row.counts]
        return sorted(rows, key=lambda row: row.index)


def open_rows(folder: Path | None, settings: dict[str, Any]) -> Rows:
    """The rows in `folder`, which is made; InputError for a folder with rows of other settings.

    `settings["methods"]` maps methods to their settings: a method that the folder does not know yet is added.
    """
    if folder is None:
        return Rows()
    path = folder / SETTINGS
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        methods = before["methods"] | settings["methods"]
        same = {**before, "methods": methods} == {**settings, "methods": {**settings["methods"], **before["methods"]}}
        if not same:
            raise InputError(
                "out", f"{str(folder)!r}, whose rows have other settings", "a new folder, or those settings"
            )
        settings = {**settings, "methods": methods}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(settings, indent=1) + "\n").encode(), field="out")
    return Rows(folder)


def _read(line: str, number: int) -> Row:
    try:
        return from_dict(Row, json.loads(line), f"{ROWS}:{number}")
    except ValueError as reason:
        raise InputError(f"{ROWS}:{number}", repr(line[:60]), "one JSON object a line", "delete that line") from reason
