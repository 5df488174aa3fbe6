"""What goes where: results to stdout (one JSON document with --json), everything else to stderr."""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limner.runtime.timing import Progress

__all__ = ["format_numbers", "note", "print_json", "print_result", "report", "steps", "warn"]

LOG_EVERY_S = 5.0


def print_json(data: object) -> None:
    """Print one JSON document to stdout."""
    print(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def note(message: str) -> None:
    """Print one line about what is going on to stderr; where that is full or gone, the work goes on."""
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)


def format_numbers(values: Mapping[str, float], digits: int = 3) -> str:
    """Return "name 0.123, other 4" with `digits` significant digits."""
    return ", ".join(f"{name} {value:.{digits}g}" for name, value in values.items())


def warn(warnings: Iterable[str]) -> None:
    """Print each warning as a line of its own to stderr."""
    for warning in warnings:
        note(f"warning: {warning}")


def report(scores: Mapping[str, float], timing: Mapping[str, float]) -> None:
    """Print scores and milliseconds to stderr, where there are any."""
    if scores:
        note(f"scores: {format_numbers(scores)}")
    if timing:
        note(f"milliseconds: {format_numbers(timing)}")


def print_result(data: dict[str, Any], as_json: bool) -> None:
    """Print all of it as JSON, or the files that were written alone."""
    if as_json:
        print_json(data)
        return
    for key in ("output", "sheet"):
        if data.get(key):
            print(data[key])


@contextmanager
def steps(what: str) -> Iterator["Progress"]:
    """Give a progress function: a bar on a terminal, a line every few seconds elsewhere."""
    if sys.stderr.isatty():
        with _bar(what) as progress:
            yield progress
    else:
        yield _lines(what)


@contextmanager
def _bar(what: str) -> Iterator["Progress"]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns += [TimeRemainingColumn(), TextColumn("{task.fields[losses]}")]
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, visible=False, losses="")

        def update(step: int, total: int, losses: dict[str, float]) -> None:
            shown = format_numbers(losses)
            bar.update(task, completed=step, total=total, visible=True, losses=shown)

        yield update


def _lines(what: str) -> "Progress":
    last = time.monotonic()

    def update(step: int, total: int, losses: dict[str, float]) -> None:
        nonlocal last
        if step == total or time.monotonic() - last >= LOG_EVERY_S:
            last = time.monotonic()
            shown = f", {format_numbers(losses)}" if losses else ""
            note(f"{what}: step {step} of {total}{shown}")

    return update
