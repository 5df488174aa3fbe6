"""Several sources in one command: which they are, where their edits go, and what failed."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limner.runtime.cli.console import note, warn
from limner.runtime.errors import InputError, LimnerError
from limner.runtime.pictures.naming import SUFFIXES, free_name

if TYPE_CHECKING:
    from limner.runtime.client import Client
    from limner.runtime.edit import Edit
    from limner.runtime.editor import Editor
    from limner.runtime.pictures.sheets import SheetRow
    from limner.runtime.recipe import Recipe

__all__ = ["check_many", "check_request", "edit_many", "expanded", "split_sources", "target_of"]

SEED = "seed:"
MAX_SOURCES = 10_000


def split_sources(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the sources and the texts: the first word is a source, and those after it that name one."""
    last = 1
    while last < len(words) and _names_a_source(words[last]):
        last += 1
    return list(words[:last]), list(words[last:])


def expanded(sources: Sequence[str]) -> list[str]:
    """Return the sources with folders replaced by the pictures in them, by name; InputError for a folder of none."""
    found: list[str] = []
    for source in sources:
        folder = None if source.startswith(SEED) else Path(source).expanduser()
        if folder is None or not folder.is_dir():
            found.append(source)
            continue
        files = sorted(str(path) for path in folder.iterdir() if _is_picture(path))
        if not files:
            raise InputError("source", f"{source!r}, a folder without pictures", "a folder of picture files")
        found += files
    if len(found) > MAX_SOURCES:
        raise InputError("source", f"{len(found)} pictures", f"at most {MAX_SOURCES} in one command")
    return list(dict.fromkeys(found))


def check_many(folder: Path | None, **alone: object) -> Path:
    """Return the folder that the edits of several sources go to; InputError for options of a single one."""
    for name, value in alone.items():
        if value is not None:
            raise InputError(name, repr(str(value)), f"--{name} with one source alone")
    if folder is None:
        raise InputError("output", "nothing", "a folder for the edited pictures, --out FOLDER")
    if folder.exists() and not folder.is_dir():
        raise InputError("output", f"the file {str(folder)!r}", "a folder, which may be new, with several sources")
    if not folder.parent.is_dir():
        raise InputError("output", f"a path in the missing folder {str(folder.parent)!r}", "one in an existing folder")
    return folder


def check_request(recipe_of: Callable[[str], "Recipe"], sources: Sequence[str]) -> None:
    """Raise what is wrong with the edit of every source, which is no fault of one of them."""
    found = [_error_of(recipe_of, source) for source in sources[:8]]
    if found[0] is not None and None not in found:
        raise found[0]


def _error_of(recipe_of: Callable[[str], "Recipe"], source: str) -> InputError | None:
    try:
        recipe_of(source)
    except InputError as reason:
        return reason
    return None


def target_of(source: str, folder: Path) -> Path:
    """Return where a source's edit goes: its own name, in the format that it has if that is written, else PNG."""
    if source.startswith(SEED):
        return free_name(folder / f"seed-{source[len(SEED) :]}.png")
    path = Path(source)
    suffix = path.suffix if path.suffix.lower() in SUFFIXES else ".png"
    return free_name(folder / f"{path.stem}{suffix}")


def edit_many(
    editor: "Editor | Client",
    sources: Sequence[str],
    recipe_of: Callable[[str], "Recipe"],
    folder: Path,
    deliver: Callable[["Edit", Path], tuple[dict[str, Any], list["SheetRow"]]],
    compare: bool,
) -> tuple[list[dict[str, Any]], list[dict[str, str]], list["SheetRow"]]:
    """Edit one source after the other; return what came out, what failed, and the rows of a sheet.

    A source that fails is told of at once and again at the end, and the others go on.
    """
    folder.mkdir(exist_ok=True)
    done: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    rows: list[SheetRow] = []
    begin = time.monotonic()
    for number, source in enumerate(sources, start=1):
        try:
            target = target_of(source, folder)
            result, drawn = deliver(editor.edit(recipe_of(source), compare=compare), target)
        except LimnerError as reason:
            failed.append({"source": source, "error": str(reason)})
            note(f"{number} of {len(sources)}: {source} failed: {reason}")
            continue
        done.append({"source": source} | result)
        rows += drawn
        left = (time.monotonic() - begin) / number * (len(sources) - number)
        note(f"{number} of {len(sources)}: {source} -> {target}" + (f", {left:.0f} s left" if left >= 1 else ""))
        warn(result["warnings"])
    if failed:
        note(f"{len(failed)} of {len(sources)} failed:")
        width = max(len(one["source"]) for one in failed)
        for one in failed:
            note(f"  {one['source']:<{width}}  {one['error']}")
    return done, failed, rows


def _names_a_source(word: str) -> bool:
    if word.startswith(SEED) and word[len(SEED) :].isdigit():
        return True
    try:
        path = Path(word).expanduser()
        if path.is_dir():
            return "/" in word or os.sep in word  # a folder may be called as a text is
        return path.suffix != "" and path.is_file() and (_is_picture(path) or path.suffix.lower() == ".npy")
    except (OSError, RuntimeError, ValueError):
        return False


def _is_picture(path: Path) -> bool:
    """Whether a file's name ends as those of pictures do; hidden files do not count."""
    from PIL import Image

    from limner.runtime.pictures.formats import readable_formats

    known = readable_formats()
    return (
        not path.name.startswith(".")
        and path.is_file()
        and Image.registered_extensions().get(path.suffix.lower()) in known
    )
