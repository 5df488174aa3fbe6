"""A contact sheet of a run: edits that a seed picks, none chosen by hand, each beside the picture before it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from limner.runtime.errors import InputError
from limner.runtime.pictures.images import read_picture
from limner.runtime.pictures.sheets import Cell, SheetRow, make_sheet
from limner.runtime.study.rows import Row, Run
from limner.runtime.study.scores import counted

__all__ = ["contact_sheet", "picked"]

ImageU8 = NDArray[np.uint8]
PAIRS = 4  # in a row
SIDE = 128


def picked(run: Run, part: str, method: str, count: int, seed: int = 0) -> list[Row]:
    """Rows of a method in a part: numpy's RandomState(seed) draws them without replacement, in its order.

    Only rows that count for the table and have both pictures. Raises InputError where there are fewer than `count`.
    """
    if method not in run.header.methods:
        raise InputError("method", repr(method), ", ".join(run.header.methods))
    rows = [
        row
        for edit in run.header.methods[method]["edits"]
        for row in counted(run, part, method, edit)
        if row.picture is not None and (row.source or row.plain) is not None
    ]
    if len(rows) < count:
        raise InputError("count", count, f"at most {len(rows)}, the pictures of {method!r} in the part {part!r}")
    return [rows[int(k)] for k in np.random.RandomState(seed).permutation(len(rows))[:count]]


def contact_sheet(run: Run, rows: Sequence[Row], title: str = "") -> ImageU8:
    """Pairs of before and after, numbered in their order."""
    cells = []
    for number, row in enumerate(rows, 1):
        cells += [Cell(_picture(run, row.source or row.plain), f"{number}"), Cell(_picture(run, row.picture), row.edit)]
    parts = [cells[first : first + 2 * PAIRS] for first in range(0, len(cells), 2 * PAIRS)]
    return make_sheet([SheetRow(part[0], tuple(part[1:])) for part in parts], title, cell=SIDE, gap=8)


def _picture(run: Run, place: str | None) -> ImageU8:
    if run.folder is None or place is None or not (run.folder / place).is_file():
        raise InputError("run", f"no picture {place!r}", "a run that kept its pictures")
    return read_picture(run.folder / place, SIDE).image_u8
