"""From rows to figures: success, what chance would reach, and Wilson's intervals.

An edit succeeds when the judge sees the asked attribute and at least 85 % of the other attributes are those of before.
Strictly it succeeds when all of them are. An attribute that cannot be seen in one of the two pictures is none of the
others where the edit asked for that.

A picture is like a drawing when one that the renderer makes comes nearer than DRAWN: `Row.distance`, by
`limner train realism`, which says what it is and how often broken pictures pass.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from limner.runtime.study.header import Header
from limner.runtime.study.rows import Row, Run
from limner.runtime.study.samples import EditSpec

__all__ = [
    "DRAWN",
    "KEPT_SHARE",
    "Score",
    "changed",
    "counted",
    "kept",
    "mean",
    "score",
    "seen",
    "strict",
    "success",
    "wilson",
]

KEPT_SHARE = 0.85  # of the other attributes
DRAWN = 0.1  # distance to the nearest drawing; chosen on validation pictures, see the card of the second judge


@dataclass(frozen=True)
class Score:
    """Of one edit by one method."""

    asked: int
    scored: int
    failed: int  # there is no picture; these count as no success
    left_out: int  # the source turned out to have the attribute already; another sample took the place
    success: int
    strict: int  # successes with nothing else changed
    seen: int
    kept: float  # mean share of the others, of what was scored
    chance: float  # expected success if the result were somebody else's picture
    chance_seen: float  # and how often it would show what was asked
    identity: float | None = None
    psnr: float | None = None
    outside: float | None = None
    masked: float | None = None
    measured: int = 0  # pictures whose distance to a drawing is known
    drawn: int = 0  # of these, like a drawing
    drawn_before: int = 0  # and how many of the pictures before the edit

    @property
    def tried(self) -> int:
        """What success is a share of: scored and failed."""
        return self.scored + self.failed


def wilson(success: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson 1927); everything for a count of 0."""
    if count == 0:
        return 0.0, 1.0
    p = success / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return centre - half, centre + half


def has_already(header: Header, edit: EditSpec, row: Row) -> bool:
    """Whether the source showed the asked attribute before the edit."""
    return row.error is None and row.before[header.attributes.index(edit.attribute)] == edit.value


def counted(run: Run, part: str, method: str, edit: str) -> list[Row]:
    """The rows of an edit that count, failed ones included."""
    spec = run.header.edit(edit)
    return [row for row in run.of(part, method, edit) if not has_already(run.header, spec, row)]


def seen(header: Header, edit: EditSpec, after: Sequence[str]) -> bool:
    """Whether the asked attribute is there."""
    return after[header.attributes.index(edit.attribute)] == edit.value


def others(header: Header, edit: EditSpec, before: Sequence[str], after: Sequence[str]) -> list[int]:
    """The attributes that should have stayed, by their place."""
    hidden = {
        one["attribute"]
        for one in header.hidden
        if one["by"] == edit.attribute
        and one["value"] in (values[header.attributes.index(one["attribute"])] for values in (before, after))
    }
    return [i for i, name in enumerate(header.attributes) if name != edit.attribute and name not in hidden]


def kept(header: Header, edit: EditSpec, before: Sequence[str], after: Sequence[str]) -> float:
    """The share of the other attributes that stayed as they were."""
    places = others(header, edit, before, after)
    return sum(before[i] == after[i] for i in places) / len(places)


def changed(header: Header, edit: EditSpec, row: Row) -> tuple[str, ...]:
    """The other attributes that did not stay."""
    places = others(header, edit, row.before, row.after)
    return tuple(header.attributes[i] for i in places if row.before[i] != row.after[i])


def success(header: Header, edit: EditSpec, before: Sequence[str], after: Sequence[str]) -> bool:
    """Seen, and the others kept."""
    return seen(header, edit, after) and kept(header, edit, before, after) >= KEPT_SHARE


def strict(header: Header, edit: EditSpec, before: Sequence[str], after: Sequence[str]) -> bool:
    """Seen, and all others kept."""
    return seen(header, edit, after) and kept(header, edit, before, after) == 1.0


def score(run: Run, part: str, method: str, edit: str) -> Score:
    """The figures of one edit by one method."""
    header, spec = run.header, run.header.edit(edit)
    every, rows = run.of(part, method, edit), counted(run, part, method, edit)
    good = [row for row in rows if row.error is None]
    return Score(
        asked=header.count,
        scored=len(good),
        failed=len(rows) - len(good),
        left_out=len(every) - len(rows),
        success=sum(success(header, spec, row.before, row.after) for row in good),
        strict=sum(strict(header, spec, row.before, row.after) for row in good),
        seen=sum(seen(header, spec, row.after) for row in good),
        kept=mean([kept(header, spec, row.before, row.after) for row in good]) or 0.0,
        chance=chance(run, part, spec, good),
        chance_seen=chance(run, part, spec, good, alone=True),
        identity=mean([row.identity for row in good]),
        psnr=mean([row.psnr for row in good]),
        outside=mean([row.outside for row in good]),
        masked=mean([row.masked for row in good]),
        measured=sum(row.distance is not None for row in good),
        drawn=sum(row.distance is not None and row.distance <= DRAWN for row in good),
        drawn_before=sum(row.distance_before is not None and row.distance_before <= DRAWN for row in good),
    )


def chance(run: Run, part: str, edit: EditSpec, rows: Sequence[Row], alone: bool = False) -> float:
    """The mean success over all pairs of a source and the unedited picture of another sample of the part.

    `alone` asks for the attribute alone, whatever the others are.
    """
    people = {row.index: row.before for row in run.rows.values() if row.part == part and row.error is None}
    pairs = [
        seen(run.header, edit, other) if alone else success(run.header, edit, row.before, other)
        for row in rows
        for i, other in people.items()
        if i != row.index
    ]
    return sum(pairs) / len(pairs) if pairs else 0.0


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of what is there, or None."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None
