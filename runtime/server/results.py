"""Results that were made already: the same recipe on the same picture and bundle is not run again.

Answers lie as files in one folder, named by the hash of everything that decides them; those that were asked for least
lately go when all together are larger than allowed. Nothing depends on them: the folder may be removed at any time.
"""

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from limner.runtime.errors import InputError
from limner.runtime.server.bundles import Hosted
from limner.runtime.storage.files import write_atomically

__all__ = ["Results", "digest_of"]


def digest_of(hosted: Hosted, model: str, asked: Mapping[str, Any], picture: bytes | None) -> str:
    """The hash of everything that decides an answer: what is asked, of which bundle, on which provider."""
    place = [model, hosted.editor.bundle.digest, hosted.editor.provider]
    digest = hashlib.sha256(json.dumps([*place, asked], sort_keys=True).encode())
    digest.update(picture or b"")
    return digest.hexdigest()


class Results:
    """Answers in a folder, of so many bytes together."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        self._lock = threading.Lock()
        if most:
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, digest: str) -> dict[str, Any] | None:
        """The answer, which counts as asked for now; None if there is none, or if it does not read."""
        path = self.folder / f"{digest}.json"
        with suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads(path.read_bytes())
            os.utime(path)
            return found
        return None

    def put(self, digest: str, answer: Mapping[str, Any]) -> None:
        """Keep an answer, unless it is larger than all together may be, or there is no room."""
        data = json.dumps(answer).encode()
        if len(data) > self.most:
            return
        with self._lock, suppress(OSError, InputError):  # the edit is there all the same
            write_atomically(self.folder / f"{digest}.json", data, "results")
            self._make_room()

    def _make_room(self) -> None:
        files = [(path, path.stat()) for path in self.folder.glob("*.json")]
        total = sum(stat.st_size for _, stat in files)
        for path, stat in sorted(files, key=lambda one: one[1].st_mtime_ns):
            if total <= self.most:
                return
            path.unlink(missing_ok=True)
            total -= stat.st_size
