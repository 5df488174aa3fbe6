"""Where rendered pictures are kept: one folder for each set of settings, named by their hash.

    <cache>/<style>-<size>-<hash>/<name>.u8    pixels, uint8 [N, size, size, 3]
                                  <name>.npz   what is known of each picture
                                  <name>.json  the settings; written last, so a folder without it is not used

Other settings get another folder: nothing is rendered anew because someone tried another size. A cache of the layout
before this one, the files in <cache> itself, is used where its settings are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner.runtime.storage.files import write_atomically


@dataclass(frozen=True)
class CachePlace:
    """The three files of one set of settings."""

    folder: Path
    name: str
    settings: Mapping[str, Any]

    @property
    def pixels(self) -> Path:
        return self.folder / f"{self.name}.u8"

    @property
    def table(self) -> Path:
        return self.folder / f"{self.name}.npz"

    @property
    def note(self) -> Path:
        return self.folder / f"{self.name}.json"

    def complete(self) -> bool:
        """Whether the files are there and were made from these settings."""
        if not (self.note.exists() and self.pixels.exists() and self.table.exists()):
            return False
        try:
            return bool(json.loads(self.note.read_text(encoding="utf-8")) == self.settings)
        except ValueError:
            return False

    def finish(self) -> None:
        """Say what pixels and table were made from: from now on they are used."""
        write_atomically(self.note, json.dumps(self.settings).encode())


def find_place(cache: Path, name: str, settings: Mapping[str, Any]) -> CachePlace:
    """The place of these settings, made if it is new; `cache` itself where an older layout holds them."""
    flat = CachePlace(cache, name, settings)
    if flat.complete():
        return flat
    text = json.dumps(settings, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    place = CachePlace(cache / f"{settings['style']}-{settings['size']}-{digest}", name, settings)
    place.folder.mkdir(parents=True, exist_ok=True)
    return place
