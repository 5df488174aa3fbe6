"""Files that are in use: known by what the file system says of them, so that a change is seen without reading."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from limner.runtime.errors import BundleError

__all__ = ["HeldFiles", "Stamp", "stamp_of"]


@dataclass(frozen=True)
class Stamp:
    """A file as it was: another content has another stamp."""

    device: int
    inode: int
    size: int
    modified: int  # nanoseconds
    changed: int  # nanoseconds, of the inode

    @property
    def content(self) -> tuple[int, int]:
        """What a change of the content alone would change."""
        return self.size, self.modified


def stamp_of(path: Path | int) -> Stamp:
    """Return the stamp of a path or of an open file; OSError passes through."""
    found = os.fstat(path) if isinstance(path, int) else path.stat()
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class HeldFiles:
    """Files that ONNX Runtime has mapped: written over in place they would change under it, or end it."""

    def __init__(self) -> None:
        self._held: dict[Path, tuple[int, Stamp]] = {}
        self._lock = threading.Lock()

    def hold(self, path: Path) -> None:
        """Keep a file open; a file of the same name that takes its place later is no matter."""
        with self._lock:
            if path not in self._held:
                descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
                self._held[path] = descriptor, stamp_of(descriptor)

    def check(self) -> None:
        """Raise BundleError naming the first file that was written to since it is held."""
        for path, (descriptor, stamp) in list(self._held.items()):  # another thread may load a graph meanwhile
            if stamp_of(descriptor).content != stamp.content:
                raise BundleError(path.name, "a file that was written to while it is in use", "files that stay",
                                  "start again, and replace bundles by renaming")  # fmt: skip

    def close(self) -> None:
        """Let all of them go."""
        for descriptor, _ in self._held.values():
            os.close(descriptor)
        self._held.clear()

    def __del__(self) -> None:
        self.close()
