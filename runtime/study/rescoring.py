"""The pictures of a run read again, by the same judge or another one: no edit runs."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from limner.runtime.errors import InputError
from limner.runtime.pictures.images import read_picture
from limner.runtime.storage.folders import folder_beside, open_to_readers, put_in_place
from limner.runtime.study.header import Header
from limner.runtime.study.judge import JudgeGraph
from limner.runtime.study.rows import HEADER, PICTURES, ROWS, SHORT, Row, Run, as_line, header_text, read_run

__all__ = ["rescore"]

AT_ONCE = 100  # pictures


def rescore(folder: Path, judge: JudgeGraph, out: Path | None = None) -> Run:
    """Read every picture of a run again and write the run with that judge's header, all of it or nothing.

    It takes the place of the run, or goes to `out`. Raises InputError for pictures that are not there, or a judge of
    other attributes.
    """
    run = read_run(folder)
    names = tuple(name for name, _ in judge.attributes)
    if names != run.header.attributes:
        raise InputError("judge", f"one that reads {', '.join(names)}", f"{', '.join(run.header.attributes)}")
    if out is not None and out.exists():
        raise InputError("out", f"{str(out)!r}, which is there already", "a new folder")
    header = replace(run.header, judge=judge.digest)
    every = sorted(run.rows.values(), key=lambda row: row.key)
    rows = [row for first in range(0, len(every), AT_ONCE) for row in _read(run, every[first : first + AT_ONCE], judge)]
    target = (out or folder).absolute()
    with folder_beside(target) as beside:
        (beside / HEADER).write_bytes(header_text(header))
        _write_rows(beside, header, rows)
        if (folder / PICTURES).is_dir():
            shutil.copytree(folder / PICTURES, beside / PICTURES, copy_function=_link)
        open_to_readers(beside)
        put_in_place(beside, target)
    return read_run(target)


def _link(source: str, target: str) -> None:
    """The same file under another name; a copy where the file system does not do that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _write_rows(folder: Path, header: Header, rows: Sequence[Row]) -> None:
    short = header.digest[:SHORT]
    (folder / ROWS).write_text("".join(as_line(replace(row, run=short)) for row in rows), encoding="utf-8")


def _read(run: Run, rows: Sequence[Row], judge: JudgeGraph) -> list[Row]:
    """Rows with what the judge reads now; those without a picture as they are."""
    places = [place for row in rows for place in (row.picture, row.source) if place is not None]
    found = dict(zip(places, _words(run, places, judge), strict=True)) if places else {}
    lacking = next((row for row in rows if row.picture is None and row.error is None), None)
    if lacking is not None:
        raise InputError("run", f"a row of {lacking.edit!r} without a picture", "a run that kept its pictures")
    return [
        replace(row, after=found[row.picture], before=found[row.source] if row.source else row.before)
        if row.picture
        else row
        for row in rows
    ]


def _words(run: Run, places: Sequence[str], judge: JudgeGraph) -> list[tuple[str, ...]]:
    pictures = [_picture(run, place, judge.size) for place in places]
    return [tuple(words[name] for name in run.header.attributes) for words in judge.words(np.stack(pictures))]


def _picture(run: Run, place: str, size: int) -> np.ndarray:
    path = Path(place)
    if run.folder is None or path.is_absolute() or ".." in path.parts:
        raise InputError("run", f"a picture at {place!r}", "a file in the folder of the run")
    if not (run.folder / path).is_file():
        raise InputError("run", f"no picture {place!r}", "a run that kept its pictures")
    return read_picture(run.folder / path, size).image_u8
