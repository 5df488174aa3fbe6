"""A folder that is written beside its place and appears there complete or not at all, whatever ends the process.

While it is written it is `.<name>.<random>.part` beside `<name>`, held by a lock of the process that writes it. A
request to end removes it. What a kill or a power cut leaves behind has no lock any more, and the next work on the same
place removes it. A folder that is already there is exchanged in one step of the file system (renameat2, Linux), so that
at every moment one of the two stands in its place; where that is not to be had it is renamed aside first, and put back
by the next work on the same place if the process ended in between.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from limner.runtime.storage.stopping import partial, stoppable, whole

__all__ = ["clean_up", "file_beside", "folder_beside", "open_to_readers", "put_in_place", "scratch"]

PART, OLD = ".part", ".part.old"
EXCHANGE, HERE = 2, -100  # RENAME_EXCHANGE, AT_FDCWD


@contextmanager
def folder_beside(out: Path) -> Iterator[Path]:
    """An empty folder to be filled and then given to `put_in_place`; removed when the block ends without that."""
    out = out.absolute()
    clean_up(out)
    with stoppable(), partial(Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=PART, dir=out.parent))) as beside:
        lock = os.open(beside, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield beside
        finally:
            os.close(lock)


@contextmanager
def file_beside(path: Path) -> Iterator[Path]:
    """An empty file to be filled, which takes the place of `path` when the block ends well and is removed otherwise."""
    path = path.absolute()
    for left in path.parent.glob(f".{_escaped(path.name)}.*{PART}"):
        if left.is_file() and not _is_held(left):
            left.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
    try:
        with stoppable(), partial(Path(name)) as beside:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield beside
            beside.chmod(0o644)
            beside.replace(path)
    finally:
        os.close(handle)


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A temporary folder, removed however the process ends but by a kill."""
    with partial(Path(tempfile.mkdtemp(prefix=prefix))) as folder:
        yield folder


def put_in_place(beside: Path, out: Path) -> None:
    """Make the finished folder `out`; the folder that was there is kept until then, and removed."""
    if out.is_symlink():
        out = out.resolve()
    with whole():
        _put(beside, out)


def _put(beside: Path, out: Path) -> None:
    if not out.exists():
        beside.rename(out)
        return
    if _exchange(beside, out):
        shutil.rmtree(beside, ignore_errors=True)
        return
    old = beside.with_name(beside.name.removesuffix(PART) + OLD)
    out.rename(old)
    try:
        beside.rename(out)
    except BaseException:
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def clean_up(out: Path) -> list[str]:
    """Remove what ended work on `out` left beside it, and return the names; what is still being written stays."""
    removed = []
    for left in sorted(out.parent.glob(f".{_escaped(out.name)}.*")):
        if left.is_dir() and left.name.endswith(OLD):
            if out.exists():
                shutil.rmtree(left, ignore_errors=True)
            else:  # ended between the two renames
                left.rename(out)
        elif left.is_dir() and left.name.endswith(PART) and not _is_held(left):
            shutil.rmtree(left, ignore_errors=True)
            removed.append(left.name)
    return removed


def open_to_readers(folder: Path) -> None:
    """Give a folder and all in it the usual modes, in place of a temporary folder's."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _exchange(first: Path, second: Path) -> bool:
    """Let two paths change places in one step; False where the system does not know how."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(rename(HERE, os.fsencode(first), HERE, os.fsencode(second), EXCHANGE) == 0)


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
