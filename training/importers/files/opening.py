"""Which format a file has, by its first bytes, and its content as data."""

from __future__ import annotations

import io
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file

from limner.runtime.errors import InputError
from limner.training.importers.files.archives import MAGIC, read_plain, read_stream, read_zip
from limner.training.importers.files.pickles import Refused

Format = Literal["torch", "script", "pickle", "npy", "safetensors", "folder"]
HINT = "nothing was executed and nothing was written"
TORCH_STREAM = b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little")
OLD_TORCH = (b"ustar",)  # torch before 0.1.10 wrote tar files


@dataclass(frozen=True, eq=False)
class Foreign:
    """A file of somebody else's as data: containers, numbers, text, and records of tensors and arrays."""

    path: Path
    format: Format
    content: Any = None


def open_foreign(path: Path) -> Foreign:
    """Read a file or take a folder. Raises InputError for a file that is not there, and Refused for its content."""
    if path.is_dir():
        return Foreign(path, "folder")
    try:
        if path.exists() and not path.is_file():  # a pipe or a device would be waited for, or never end
            given = f"{str(path)!r}, which is neither a file nor a folder"
            raise InputError("file", given, "the path of a file of weights or of a folder of Hugging Face's")
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            data = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
    except (OSError, ValueError) as reason:
        given = f"{str(path)!r}, which does not open ({getattr(reason, 'strerror', None) or reason})"
        raise InputError("file", given, "the path of a file of weights or of a folder of Hugging Face's") from reason
    return _read(path, data)


def _read(path: Path, data: memoryview) -> Foreign:
    head = bytes(data[:512])
    text = head.lstrip().lower()
    if not head:
        raise Refused("an empty file")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise Refused("a web page instead of weights, as broken downloads are: download it again")
    if text.startswith(b"version https://git-lfs"):
        raise Refused("a pointer of Git LFS instead of weights: fetch the file itself")
    if head.startswith(b"PK\x03\x04"):
        content, script = read_zip(data)
        return Foreign(path, "script" if script else "torch", content)
    if head.startswith(TORCH_STREAM):
        return Foreign(path, "torch", read_stream(data))
    if head.startswith(b"\x93NUMPY"):
        return Foreign(path, "npy", read_npy(data))
    if head[:1] == b"\x80" and head[1] in range(2, 6):
        return Foreign(path, "pickle", read_plain(data))
    if path.suffix == ".safetensors":
        return Foreign(path, "safetensors", _safetensors(path))
    if head[257:262] in OLD_TORCH:
        raise Refused("a tar archive of a torch before 0.1.10: load and save it with a newer torch")
    raise Refused("a file of no known format")


def read_npy(data: memoryview) -> np.ndarray[Any, np.dtype[Any]]:
    """An array of numbers from numpy's own format; objects, which would be pickles, are refused."""
    try:
        stream = io.BytesIO(data)
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        if dtype.kind not in "fiub":
            raise Refused(f"an array of the type {dtype}, not of numbers")
        rest = data[stream.tell() :]
        count = int(np.prod(shape, dtype=np.int64))
        if min(shape, default=1) < 0 or len(rest) != count * dtype.itemsize:
            raise Refused(f"an array {list(shape)} whose data has {len(rest)} bytes")
        found = np.frombuffer(rest, dtype).reshape(shape, order="F" if fortran else "C")
        return found.astype(dtype.newbyteorder("="))
    except (ValueError, TypeError, SyntaxError) as reason:
        raise Refused("an array file that is damaged or cut short") from reason


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as reason:
        raise Refused(f"a safetensors file that does not load ({reason})") from reason
