"""Figures of runs as JSON and as Markdown. Nothing is left out: what was asked, scored and failed stands in the table.

Several runs make one table, a column a method, if they have the same samples, edits, judge and count.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from limner.runtime.errors import InputError
from limner.runtime.study.rows import Run
from limner.runtime.study.samples import EditSpec
from limner.runtime.study.scores import Score, mean, score, wilson

__all__ = ["as_table", "columns", "figures", "markdown", "prompted", "share_text", "strict_table", "summary", "table"]

SAME = ("samples", "edits_version", "attributes", "hidden", "judge", "count")  # of headers in one table
Column = tuple[str, dict[str, Score]]  # a method, and its edits

LINES: tuple[tuple[str, Callable[[Sequence[Score]], str]], ...] = (
    ("success by chance", lambda rows: f"{100 * (mean([s.chance for s in rows]) or 0.0):.1f} %"),
    ("asked attribute seen by chance", lambda rows: f"{100 * (mean([s.chance_seen for s in rows]) or 0.0):.1f} %"),
    ("asked attribute seen", lambda rows: _percent(sum(s.seen for s in rows), sum(s.tried for s in rows))),
    ("the same, and nothing else changed", lambda rows: _share_of([s.strict for s in rows], [s.tried for s in rows])),
    ("like a drawing", lambda rows: _share_of([s.drawn for s in rows], [s.measured for s in rows])),
    (
        "the pictures before the edit",
        lambda rows: _share_of([s.drawn_before for s in rows], [s.measured for s in rows]),
    ),
    ("other attributes changed, mean", lambda rows: f"{1 - (mean([s.kept for s in rows]) or 0.0):.3f}"),
    ("identity cosine, mean", lambda rows: _number(mean([s.identity for s in rows]), 3)),
    ("reconstruction, dB", lambda rows: _number(mean([s.psnr for s in rows]), 1)),
    ("change outside the mask, of 255", lambda rows: _number(mean([s.outside for s in rows]), 2)),
    ("part inside the mask", lambda rows: _number(mean([s.masked for s in rows]), 2)),
    ("asked", lambda rows: str(sum(s.asked for s in rows))),
    ("scored", lambda rows: str(sum(s.scored for s in rows))),
    ("failed", lambda rows: str(sum(s.failed for s in rows))),
    ("source had it already", lambda rows: str(sum(s.left_out for s in rows))),
)


def figures(runs: Sequence[Run]) -> dict[str, Any]:
    """Everything that the rows say, as JSON data; InputError for runs that no table can hold together."""
    check_together(runs)
    found: dict[str, Any] = {"runs": [run.header.digest for run in runs]}
    for part in _parts(runs):
        found[part] = (
            prompted(runs)
            if part == "prompts"
            else {name: {edit: asdict(one) for edit, one in scores.items()} for name, scores in columns(runs, part)}
        )
    return found


def check_together(runs: Sequence[Run]) -> None:
    """InputError naming what differs."""
    for run in runs[1:]:
        for name in SAME:
            if getattr(run.header, name) != getattr(runs[0].header, name):
                given = f"{str(run.folder)!r} beside {str(runs[0].folder)!r}, which has another {name}"
                raise InputError("run", given, "runs of the same samples, edits, judge and count")
    known: dict[str, EditSpec] = {}
    for run in runs:
        for edit in run.header.edits:  # a method may lack some, but none may be another
            if known.setdefault(edit.name, edit) != edit:
                given = f"{str(run.folder)!r}, whose edit {edit.name!r} is another than a run's before it"
                raise InputError("run", given, "runs of the same samples, edits, judge and count")


def columns(runs: Sequence[Run], part: str) -> list[Column]:
    """Each method of each run that has rows in the part."""
    found = [
        (name, {edit: score(run, part, name, edit) for edit in run.header.methods[name]["edits"]})
        for run in runs
        if part in run.header.parts
        for name in run.header.methods
    ]
    return [column for column in found if any(one.tried for one in column[1].values())]


def summary(run: Run, part: str, method: str) -> dict[str, Any]:
    """A method's figures in one line."""
    scores = {edit: score(run, part, method, edit) for edit in run.header.methods[method]["edits"]}
    tried = sum(one.tried for one in scores.values())
    weakest = min(scores, key=lambda name: scores[name].success / max(1, scores[name].tried))
    return {
        "success": sum(one.success for one in scores.values()) / max(1, tried),
        "seen": sum(one.seen for one in scores.values()) / max(1, tried),
        "kept": mean([one.kept for one in scores.values()]),
        "weakest": f"{weakest} {scores[weakest].success}/{scores[weakest].tried}",
        "tried": tried,
        "failed": sum(one.failed for one in scores.values()),
    }


def prompted(runs: Sequence[Run]) -> dict[str, dict[str, int]]:
    """Attributes that a description names and the judge sees: attribute -> right, of how many; "all" besides."""
    found: dict[str, dict[str, int]] = {}
    for run in runs:
        hidden = {(one["attribute"], one["value"]) for one in run.header.hidden}
        for row in run.of("prompts", ""):
            for name, wanted, read in zip(run.header.attributes, row.before, row.after, strict=True):
                for key in ("all", name) if (name, wanted) not in hidden else ():
                    one = found.setdefault(key, {"right": 0, "count": 0})
                    one["right"] += wanted == read
                    one["count"] += 1
    return found


def markdown(runs: Sequence[Run], names: Sequence[str] = ()) -> str:
    """The tables of all parts, each under its name; `names` are those of the columns, the methods' own if not given."""
    check_together(runs)
    found = []
    for part in _parts(runs):
        found.append(f"## {part}\n\n{table(runs, part, names)}")
        found += [] if part == "prompts" else [strict_table(runs, part, names)]
    return "\n\n".join(found) + "\n"


def table(runs: Sequence[Run], part: str, names: Sequence[str] = ()) -> str:
    """The table of a part; `names` are those of its columns, the methods' own if not given."""
    check_together(runs)
    if part == "prompts":
        rows = [[name, share_text(one["right"], one["count"])] for name, one in prompted(runs).items()]
        return as_table(["attribute", "seen"], rows)
    found = columns(runs, part)
    edits = dict.fromkeys(edit for _, scores in found for edit in scores)
    rows = [[edit, *(_share(scores[edit]) if edit in scores else "-" for _, scores in found)] for edit in edits]
    rows.append(["**all**", *(f"**{total(scores)}**" for _, scores in found)])
    for title, line in LINES:
        cells = [line(list(scores.values())) for _, scores in found]
        rows += [[title, *cells]] if set(cells) != {"-"} else []
    return as_table(["edit", *(names or [name for name, _ in found])], rows)


def strict_table(runs: Sequence[Run], part: str, names: Sequence[str] = ()) -> str:
    """What success forgives, an edit a line: nothing else changed, and, where that was measured, like a drawing."""
    found = columns(runs, part)
    measured = any(one.measured for _, scores in found for one in scores.values())
    edits = dict.fromkeys(edit for _, scores in found for edit in scores)
    rows = []
    for edit in edits:
        cells = []
        for _, scores in found:
            one = scores.get(edit)
            cells.append("-" if one is None else share_text(one.strict, one.tried))
            if measured:
                cells.append("-" if one is None else _share_of([one.drawn], [one.measured]))
        rows.append([edit, *cells])
    titles = [title for name in names or [name for name, _ in found]
              for title in (f"{name}: strict", *(["like a drawing"] if measured else []))]  # fmt: skip
    return as_table(["edit", *titles], rows)


def total(scores: dict[str, Score]) -> str:
    """Success over all edits."""
    return share_text(sum(one.success for one in scores.values()), sum(one.tried for one in scores.values()))


def as_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (titles, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(titles), *lines[1:]])


def share_text(success: int, count: int) -> str:
    """A share with its interval, in percent."""
    low, high = wilson(success, count)
    return f"{_percent(success, count)} ({100 * low:.0f}-{100 * high:.0f})"


def _share(one: Score) -> str:
    return share_text(one.success, one.tried)


def _percent(success: int, count: int) -> str:
    return f"{100 * success / max(1, count):.0f} %"


def _share_of(parts: Sequence[int], of: Sequence[int]) -> str:
    return share_text(sum(parts), sum(of)) if sum(of) else "-"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _parts(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(part for run in runs for part in run.header.parts))
