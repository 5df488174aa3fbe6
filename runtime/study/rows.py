"""A run's folder: run.json (the header), rows.jsonl (one line a sample, when it was judged) and the pictures.

A run goes on where it stopped. Every row carries the beginning of its header's digest: rows of another header are
refused, wherever they come from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from limner.runtime.errors import InputError
from limner.runtime.schema import from_dict, parse_json, read_json, to_dict
from limner.runtime.storage.files import read_plain, write_atomically
from limner.runtime.study.header import Header

__all__ = ["HEADER", "PICTURES", "ROWS", "SHORT", "Row", "Run", "as_line", "header_text", "open_run", "read_run"]

HEADER, ROWS, PICTURES = "run.json", "rows.jsonl", "pictures"
MAX_BYTES = 1 << 28
SHORT = 12  # digits of a digest in a row

Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class Row:
    """One edit of one sample, or (part "prompts", no edit) one picture of a description."""

    run: str  # the header
    part: str
    method: str
    edit: str
    index: int  # of the sample
    picture: str | None = None  # in the run's folder
    source: str | None = None  # the picture that was generated before the edit, likewise
    plain: str | None = None  # what the model makes of the picture without the edit (part "real"), likewise
    before: tuple[str, ...] = ()  # values: what is known of a sample, what the judge reads in a source
    after: tuple[str, ...] = ()  # what the judge reads in the edit
    identity: float | None = None  # cosine of the edit with the reconstruction, where the bundle has the network
    psnr: float | None = None  # dB, of the reconstruction of a picture
    outside: float | None = None  # mean change outside the mask of a local edit, of 255
    masked: float | None = None  # part of the picture inside that mask
    distance: float | None = None  # to the nearest drawing, 0 to 1
    distance_before: float | None = None  # the same of the picture without the edit
    error: str | None = None  # why there is no picture

    @property
    def key(self) -> Key:
        """What there is one row of."""
        return self.part, self.method, self.edit, self.index


class Run:
    """Header and rows, in memory and, where there is a folder, in its files."""

    def __init__(self, header: Header, folder: Path | None = None, rows: Iterable[Row] = ()) -> None:
        self.header, self.folder = header, folder
        self.short = header.digest[:SHORT]
        self.rows: dict[Key, Row] = {}
        self._of: dict[tuple[str, str, str], dict[int, Row]] = {}
        for row in rows:
            self._keep(row)

    def add(self, rows: Iterable[Row]) -> None:
        """Keep rows, and write them; their pictures lie there already."""
        fresh = list(rows)
        for row in fresh:
            self._keep(row)
        if self.folder is not None and fresh:
            with (self.folder / ROWS).open("a", encoding="utf-8") as stream:
                stream.write("".join(map(as_line, fresh)))

    def of(self, part: str, method: str, edit: str = "") -> list[Row]:
        """The rows of one edit, in the order of their samples."""
        return [row for _, row in sorted(self._of.get((part, method, edit), {}).items())]

    def _keep(self, row: Row) -> None:
        self.rows[row.key] = row
        self._of.setdefault(row.key[:3], {})[row.index] = row


def as_line(row: Row) -> str:
    """A row as a line of JSON, without what has nothing to say."""
    said = {one.name: getattr(row, one.name) for one in fields(row)}
    return json.dumps({k: v for k, v in said.items() if v not in (None, ())}, separators=(",", ":")) + "\n"


def open_run(folder: Path | None, header: Header) -> Run:
    """The run in `folder`, which is made; InputError naming what differs for a folder with another run."""
    if folder is None:
        return Run(header)
    if (folder / HEADER).is_file():
        before = _read_header(folder)
        if before != to_dict(header):
            raise InputError("out", f"{str(folder)!r}, whose run has {_difference(before, header)}",
                             "a new folder, or that run's own settings")  # fmt: skip
        return Run(header, folder, _read_rows(folder, header, mend=True))
    if (folder / ROWS).exists():
        raise InputError("out", f"{str(folder)!r}, which has rows without a {HEADER}", "a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / HEADER, header_text(header), field="out")
    return Run(header, folder)


def read_run(folder: Path) -> Run:
    """A run as it lies there; InputError for what is none, or holds rows of another header."""
    header = from_dict(Header, _read_header(folder), HEADER)
    return Run(header, folder, _read_rows(folder, header))


def header_text(header: Header) -> bytes:
    """run.json."""
    return (json.dumps(to_dict(header), indent=1) + "\n").encode()


def _read_header(folder: Path) -> dict[str, object]:
    if not (folder / HEADER).is_file():
        raise InputError("run", f"{str(folder)!r}, which has no {HEADER}", "the folder of a run of `limner study run`")
    found: dict[str, object] = read_json(folder / HEADER, HEADER)
    if not isinstance(found, dict):
        raise InputError(HEADER, "no object", "the header of a run")
    return found


def _difference(before: dict[str, object], header: Header) -> str:
    now = to_dict(header)
    names = [name for name in now if before.get(name) != now[name]]
    return f"another {' and another '.join(names)}" if names else "keys that this version does not write"


def _read_rows(folder: Path, header: Header, mend: bool = False) -> Iterator[Row]:
    """Every whole line; half a line, which a kill leaves, is cut off where the run goes on."""
    if not (folder / ROWS).is_file():
        return
    text = read_plain(folder / ROWS, ROWS, MAX_BYTES).decode("utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    if mend and whole != text:
        write_atomically(folder / ROWS, whole.encode(), field="out")
    short = header.digest[:SHORT]
    for number, line in enumerate(whole.splitlines(), 1):
        where = f"{ROWS}:{number}"
        row = from_dict(Row, parse_json(line, where), where)
        if row.run != short:
            raise InputError(where, f"a row of the run {row.run!r}", f"rows of {short!r}, the run of {HEADER}")
        if any(len(values) not in (0, len(header.attributes)) for values in (row.before, row.after)):
            raise InputError(where, "values of other attributes", f"one each for {', '.join(header.attributes)}")
        yield row
