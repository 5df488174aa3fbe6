"""torch's files: the zip format (since 1.6), the stream before it, and TorchScript archives, read as data.

A zip is taken if every name stays inside it, no two entries overlap, and what is read is stored without compression,
as torch writes it; so nothing can grow while it is read. Code in TorchScript archives is never opened.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import Any

from limner.training.importers.files.names import StorageRecord, known, storage_dtype
from limner.training.importers.files.pickles import Record, Refused, StandIns, read_pickle

MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py, MAGIC_NUMBER
PROTOCOL = 1001
MAX_ENTRIES = 100_000
MAX_PICKLE = 256 << 20  # bytes of data.pkl; tensors lie beside it


def read_zip(data: memoryview) -> tuple[Any, bool]:
    """The object of a torch zip or TorchScript archive, and whether it is the latter."""
    try:
        archive = zipfile.ZipFile(_Window(data))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as reason:
        raise Refused("a zip archive that is cut short or damaged") from reason
    with archive:
        entries = _checked(archive, len(data))
        roots = [
            name.removesuffix("data.pkl") for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")
        ]
        if len(roots) != 1:
            raise Refused("a zip archive that is none of torch's")
        (root,) = roots
        script = any(name.startswith(f"{root}code/") or name == f"{root}constants.pkl" for name in entries)
        if f"{root}byteorder" in entries and bytes(_entry(data, archive, f"{root}byteorder")) != b"little":
            raise Refused("weights in big-endian byte order")
        if entries[f"{root}data.pkl"].file_size > MAX_PICKLE:
            raise Refused("a zip archive whose data.pkl is larger than any network's")

        storages: dict[str, StorageRecord] = {}  # one for each, so that all views of it are counted together

        def persistent(identity: Any) -> StorageRecord:
            dtype, key, count = _storage(identity)
            name = f"{root}data/{key}"
            if name not in entries or entries[name].file_size != count * dtype.itemsize:
                raise Refused(f"a zip archive without the {count * dtype.itemsize} bytes of its storage {key[:20]!r}")
            if name not in storages:
                storages[name] = StorageRecord(dtype, count, lambda: _entry(data, archive, name))
            if storages[name].dtype != dtype:
                raise Refused(f"a zip archive whose storage {key[:20]!r} has two types")
            return storages[name]

        found, _ = read_pickle(_entry(data, archive, f"{root}data.pkl"), known(script=script), persistent)
    return found, script


def _checked(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by name. Raises Refused for names that leave the archive and sizes that do not fit it."""
    infos = archive.infolist()
    entries = {info.filename: info for info in infos}
    if len(infos) > MAX_ENTRIES or len(entries) != len(infos):
        raise Refused("a zip archive with repeated or far too many names")
    for name in entries:
        parts = name.split("/")
        if name.startswith("/") or "\\" in name or ":" in name or ".." in parts or "\0" in name:
            raise Refused(f"a zip archive with the unsafe name {name[:60]!r}")
    end = 0
    for info in sorted(infos, key=lambda entry: entry.header_offset):
        if info.header_offset < end:
            raise Refused("a zip archive whose entries overlap")
        end = info.header_offset + info.compress_size
    if end > size:
        raise Refused("a zip archive that is cut short or damaged")
    return entries


def _entry(data: memoryview, archive: zipfile.ZipFile, name: str) -> memoryview:
    """The bytes of a stored entry, a view of the file, its checksum compared."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
        raise Refused(f"a zip archive that compresses {name[-40:]!r} to {info.compress_size} of {info.file_size} bytes")
    header = data[info.header_offset : info.header_offset + 30]
    if len(header) < 30 or bytes(header[:4]) != b"PK\3\4":
        raise Refused("a zip archive that is cut short or damaged")
    name_size, extra_size = struct.unpack("<HH", header[26:30])
    start = info.header_offset + 30 + name_size + extra_size
    found = data[start : start + info.file_size]
    if len(found) != info.file_size or zlib.crc32(found) != info.CRC:
        raise Refused(f"a zip archive whose {name[-40:]!r} is damaged: its checksum differs")
    return found


def _storage(identity: Any) -> tuple[Any, str, int]:
    """Element type, key and number of elements of a persistent id ("storage", class, key, place, count, ...)."""
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
        raise Refused("a pickle with a persistent id that is no storage")
    _, kind, key, _, count = identity[:5]
    if not isinstance(key, str) or type(count) is not int or not 0 <= count < 2**40:
        raise Refused("a pickle with a storage whose key or size is none")
    return storage_dtype(kind), key, count


def read_stream(data: memoryview) -> Any:
    """The object of a file of torch before 1.6: five pickles (magic, version, machine, object, keys), then storages."""
    stand_ins = known()
    magic, place = read_pickle(data, stand_ins)
    version, place = read_pickle(data, stand_ins, start=place)
    machine, place = read_pickle(data, stand_ins, start=place)
    if magic != MAGIC or version != PROTOCOL or not isinstance(machine, dict) or not machine.get("little_endian"):
        raise Refused("a file that is none of torch's")
    found: dict[str, memoryview] = {}
    counts: dict[str, tuple[Any, int]] = {}
    storages: dict[tuple[str, int, int], StorageRecord] = {}  # one for each, so that all views of it are counted

    def persistent(identity: Any) -> StorageRecord | Record:
        if isinstance(identity, tuple) and identity and identity[0] == "module":
            raise Refused("a pickled network with its source, not a state dict")
        dtype, key, count = _storage(identity)
        counts[key] = (dtype, count)
        view = identity[5] if len(identity) > 5 else None
        _, first, size = (key, 0, count) if view is None else view
        if not all(type(v) is int and v >= 0 for v in (first, size)) or first + size > count:
            raise Refused("a pickle with a storage that leaves another")
        place = (key, first, size)
        if place not in storages:
            width = dtype.itemsize
            storages[place] = StorageRecord(dtype, size, lambda: found[key][first * width : (first + size) * width])
        return storages[place]

    content, place = read_pickle(data, stand_ins, persistent, place)
    keys, place = read_pickle(data, stand_ins, start=place)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in counts for key in keys):
        raise Refused("a file whose storages do not fit")
    for key in keys:
        dtype, count = counts[key]
        end = place + 8 + count * dtype.itemsize
        if end > len(data) or struct.unpack("<q", data[place : place + 8])[0] != count:
            raise Refused("a file that is cut short")
        found[key] = data[place + 8 : end]
        place = end
    if set(counts) != set(found):
        raise Refused("a file that is cut short")
    return content


def load_bytes(data: Any) -> StorageRecord:
    """The storage of a stream inside a pickle, as plain pickling of a tensor writes it."""
    found = read_stream(data) if isinstance(data, memoryview) else None
    if not isinstance(found, StorageRecord):
        raise Refused("a pickle with a tensor whose storage is none")
    return found


def read_plain(data: memoryview) -> Any:
    """The object of a plain pickle."""
    stand_ins: StandIns = known(load_bytes)
    return read_pickle(data, stand_ins)[0]


class _Window(io.RawIOBase):
    """A memoryview as the seekable file that zipfile asks for; copies what is read and no more."""

    def __init__(self, data: memoryview) -> None:
        super().__init__()
        self.data, self.place = data, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = 0) -> int:
        self.place = max((0, self.place, len(self.data))[whence] + offset, 0)
        return self.place

    def read(self, size: int = -1) -> bytes:
        end = len(self.data) if size is None or size < 0 else min(self.place + size, len(self.data))
        found = bytes(self.data[self.place : end])
        self.place += len(found)
        return found
