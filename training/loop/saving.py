"""A finished model's folder, written beside its place and exchanged for the old one: all of it or nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from limner.runtime.errors import InputError
from limner.runtime.storage.folders import folder_beside, open_to_readers, put_in_place


@contextmanager
def saved_whole(folder: Path) -> Iterator[Path]:
    """Give a folder with the files that `folder` has, to be written into; it takes the place of `folder` at the end.

    Files that the new model does not write (other mappers, presets) stay. Raises InputError for a place that is a file.
    """
    folder = folder.absolute()
    if folder.exists() and not folder.is_dir():
        raise InputError("--save", f"{folder}, which is a file", "a folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(folder) as beside:
        if folder.is_dir():
            shutil.copytree(folder, beside, dirs_exist_ok=True)
        yield beside
        open_to_readers(beside)
        put_in_place(beside, folder)
