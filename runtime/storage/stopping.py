"""Requests to end: SIGINT, SIGTERM and SIGHUP unwind the stack, and what does not unwind in time is ended.

    with stoppable():      # the command line holds it around every verb
        work()             # a signal raises Stopped here, so that every `finally` runs

A request that comes while a C call runs is seen by a thread, which ends the process after GRACE_S: child processes
are killed, folders and files that were being written are removed (`partial`), one word is said. A stretch of work that
must not be torn (`whole`, one step of a training) ends first if it ends in time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import ClassVar

__all__ = ["GRACE_S", "WORDS", "Stopped", "end_children", "orderly", "partial", "stop_asked", "stoppable", "whole"]

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
GRACE_S = 4.0  # seconds from the request to the end of a process that does not unwind
STEP_S = 2.5  # of these, what a stretch of `whole` may take


class Stopped(SystemExit):
    """The process was asked to end; `code` is 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        self.word = WORDS.get(signal.Signals(number), "stopped")
        super().__init__(128 + number)


class _State:
    """What the handlers of this process know."""

    depth = 0  # of nested `stoppable`
    whole = 0  # of nested `whole`
    orderly = 0  # of nested `orderly`
    asked: int | None = None  # the signal that came
    partial: ClassVar[set[Path]] = set()


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let a request to end raise Stopped in this block; nested and in other threads than the main one, nothing more."""
    if _State.depth or threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.depth, _State.asked = 1, None
    before = {number: signal.signal(number, _on_signal) for number in (*WORDS, signal.SIGALRM)}
    unraisable, sys.unraisablehook = sys.unraisablehook, _on_unraisable
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    fd_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    done = threading.Event()
    threading.Thread(target=_watch, args=(reader, done), name="limner-stopping", daemon=True).start()
    try:
        yield
    finally:
        done.set()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.set_wakeup_fd(fd_before)
        os.close(writer)  # ends the thread
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = unraisable
        _State.depth, _State.asked = 0, None


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """A stretch that a request does not tear, unless it takes longer than STEP_S; the request is raised behind it."""
    _State.whole += 1
    try:
        yield
    finally:
        _State.whole -= 1
    if _State.asked is not None and not _State.whole:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Stopped(_State.asked)


@contextlib.contextmanager
def orderly() -> Iterator[None]:
    """A block that has handlers of its own, and ends on a request in its own time: a server."""
    _State.orderly += 1
    try:
        yield
    finally:
        _State.orderly -= 1


def stop_asked() -> Stopped | None:
    """The request that came during `whole`, to be raised by who has put everything in its place."""
    return None if _State.asked is None else Stopped(_State.asked)


@contextlib.contextmanager
def partial(path: Path) -> Iterator[Path]:
    """A file or folder that is removed when the block ends, however it ends."""
    _State.partial.add(path)
    try:
        yield path
    finally:
        _remove(path)
        _State.partial.discard(path)


def end_children(all_of_them: bool = False) -> None:
    """Kill every process that this one started and that still runs.

    The tracker of multiprocessing is spared unless `all_of_them`: it ends with this process, which talks to it last.
    """
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    spared = None if all_of_them else getattr(tracker, "_pid", None)
    for child in _descendants(os.getpid()):
        if child == spared:
            continue
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)


def _on_signal(number: int, frame: FrameType | None) -> None:
    asked = _State.asked
    if number == signal.SIGALRM:
        if asked is not None:
            raise Stopped(asked)
        return
    if asked is not None:  # asked twice: it is on its way
        return
    _State.asked = number
    if _State.whole:
        signal.setitimer(signal.ITIMER_REAL, STEP_S)
        return
    raise Stopped(number)


def _on_unraisable(seen: object) -> None:
    """A request that was raised inside a destructor, where Python swallows it: raise it again."""
    if isinstance(getattr(seen, "exc_value", None), Stopped):
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        return
    sys.__unraisablehook__(seen)  # type: ignore[arg-type]


def _watch(reader: int, done: threading.Event) -> None:
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while byte := pipe.read(1):
            if byte[0] in set(map(int, WORDS)) and not _State.orderly:
                if not done.wait(GRACE_S):
                    _end_now(byte[0])
                return


def _end_now(number: int) -> None:
    end_children(all_of_them=True)
    for path in list(_State.partial):
        _remove(path)
    with contextlib.suppress(OSError):
        os.write(2, f"{Stopped(number).word}\n".encode())
    os._exit(128 + number)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _descendants(root: int) -> list[int]:
    """Processes below `root`, by /proc; on a system without it, none."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(stat.parent.name))
    found, todo = [], [root]
    while todo:
        below = parents.get(todo.pop(), [])
        found += below
        todo += below
    return found
