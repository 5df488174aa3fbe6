"""Names of picture files: which are written, and a free one where nobody named one."""

from itertools import count
from pathlib import Path

from limner.runtime.errors import InputError

__all__ = ["SUFFIXES", "free_name", "require_picture_name"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # what is written


def require_picture_name(path: str | Path, field: str) -> str:
    """Return the ending of a file's name in lower case; InputError unless it is one that is written."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(field, repr(str(path)), f"a file name that ends in {', '.join(SUFFIXES)}")
    return suffix


def free_name(path: Path) -> Path:
    """Return `path`, or "<stem>-2", "-3", ... with the same ending: the first that no file has."""
    for number in count(1):
        found = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        if not found.exists() and not found.is_symlink():
            return found
    raise AssertionError("there is always a next number")
