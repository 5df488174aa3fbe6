"""A folder that is written beside its place and appears there complete or not at all, whatever ends the process.

While it is written it is `.<name>.<random>.part` beside `<name>`, held by a lock of the process that writes it. A
signal that asks the process to end removes it. What a kill or a power cut leaves behind has no lock any more, and the
next export to the same place removes it, after putting back a folder that was being replaced at that moment.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

PART, OLD = ".part", ".part.old"
ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def folder_beside(out: Path) -> Iterator[Path]:
    """An empty folder to be filled and then given to `put_in_place`; removed when the block ends without that."""
    clean_up(out)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=PART, dir=out.parent))
    lock = os.open(beside, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with signals_as_exits():
            yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        os.close(lock)


def put_in_place(beside: Path, out: Path) -> None:
    """Rename the finished folder to `out`; the folder that was there is kept until then."""
    old = beside.with_name(beside.name.removesuffix(PART) + OLD)
    if out.exists():
        out.rename(old)
    try:
        beside.rename(out)
    except BaseException:
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def clean_up(out: Path) -> list[str]:
    """Remove what ended exports to `out` left beside it, and return the names; those still being written stay."""
    removed = []
    for left in sorted(out.parent.glob(f".{out.name}.*")):
        if left.is_dir() and left.name.endswith(OLD):
            if out.exists():
                shutil.rmtree(left, ignore_errors=True)
            else:  # ended between the two renames
                left.rename(out)
        elif left.is_dir() and left.name.endswith(PART) and not _is_held(left):
            shutil.rmtree(left, ignore_errors=True)
            removed.append(left.name)
    return removed


def _is_held(folder: Path) -> bool:
    """Whether a living process holds the folder's lock."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


@contextmanager
def signals_as_exits() -> Iterator[None]:
    """Let a request to end unwind the stack (SystemExit of 128 + signal), as Ctrl-C does; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
