"""The pictures behind the numbers of a report: before and after of every arm and edit, with the judge's verdict."""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from limner.runtime.errors import InputError
from limner.runtime.pictures.images import read_picture
from limner.runtime.study.plans.making import Study
from limner.runtime.study.plans.plan import Arm
from limner.runtime.study.rows import Row, Run
from limner.runtime.study.scores import changed, counted, seen, strict, success

__all__ = ["anchor", "gallery"]

SIDE = 64
QUALITY = 70  # of WebP
LEGEND = "Before and after. Green: nothing else changed. Yellow: success. Red: none. What failed comes first."
VERDICTS = ("none", "success", "strict")


def anchor(arm: str, edit: str) -> str:
    """The place of an arm's edit in the HTML file."""
    return "".join(letter if letter.isalnum() else "-" for letter in f"{arm}--{edit}")


def gallery(study: Study, most: int) -> str:
    """Up to `most` pairs of each arm and edit as HTML, what failed first; pictures of 64 pixels inside."""
    found = ["<h2>Pictures</h2>",
             f"<p>{LEGEND}</p>"]  # fmt: skip
    for arm, run in zip(study.arms, study.runs(), strict=True):
        found += [_pairs(study, arm, run, edit, most) for edit in run.header.methods[arm.method]["edits"]]
    return "\n".join(found)


def _pairs(study: Study, arm: Arm, run: Run, edit: str, most: int) -> str:
    rows = [(_verdict(run, edit, row), row) for row in counted(run, study.plan.part, arm.method, edit)]
    rows.sort(key=lambda one: (one[0], one[1].index))
    failed = sum(row.picture is None for _, row in rows)
    shown = [one for one in rows if one[1].picture is not None][:most]
    pairs = [
        f'<span class="{VERDICTS[verdict]}" title="{escape(_said(run, edit, row))}"><img alt="" '
        f'src="{_picture(run, row)}"></span>'
        for verdict, row in shown
    ]
    more = len(rows) - failed - len(shown)
    notes = [f"{more} more, none of them worse"] * (more > 0) + [f"{failed} without a picture"] * (failed > 0)
    title = f'<h3 id="{anchor(arm.name, edit)}">{escape(arm.name)}: {escape(edit)}</h3>'
    return f'{title}\n<div class="pairs">{"".join(pairs)}</div>' + (f"\n<p>{'; '.join(notes)}</p>" if notes else "")


def _verdict(run: Run, edit: str, row: Row) -> int:
    if row.error is not None:
        return 0
    spec = run.header.edit(edit)
    return int(success(run.header, spec, row.before, row.after)) + int(strict(run.header, spec, row.before, row.after))


def _said(run: Run, edit: str, row: Row) -> str:
    spec = run.header.edit(edit)
    others: Sequence[str] = changed(run.header, spec, row)
    there = "seen" if seen(run.header, spec, row.after) else "not seen"
    return f"sample {row.index}: {there}" + (f"; changed: {', '.join(others)}" if others else "")


def _picture(run: Run, row: Row) -> str:
    """Before and after side by side, as a data URL."""
    sides = []
    for place in (row.source or row.plain, row.picture):
        if run.folder is None or place is None or not (run.folder / place).is_file():
            raise InputError("study", f"no picture {place!r}", "a study with its pictures")
        sides.append(read_picture(run.folder / place, SIDE).image_u8)
    stream = io.BytesIO()
    Image.fromarray(np.hstack(sides)).save(stream, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
