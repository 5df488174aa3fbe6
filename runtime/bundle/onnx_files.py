"""What an ONNX file would read beside itself: the files of its external data, found without the onnx package.

ONNX Runtime opens whatever path an ONNX file names: versions before 1.24 follow "../", absolute paths and links, and
every version takes any file of the folder. So the runtime reads the paths itself and compares them with bundle.json.

The file is protobuf; these are the fields that lead to a tensor (onnx.proto, IR version 3 and up), {number: message}.
"""

from collections.abc import Collection, Iterator

from limner.runtime.errors import BundleError

__all__ = ["check_external_data", "external_files"]

FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
OP_TYPE, EXTERNAL_DATA, KEY, VALUE = 4, 13, 1, 2
CONTEXT = b"EPContext"  # a node that hands a file to an execution provider
LOCATION = b"location"
MAX_DEPTH = 64
ALLOWED = "an ONNX file"


def check_external_data(data: bytes, field: str, listed: Collection[str], folder: str = "") -> None:
    """Raise BundleError naming `field` unless all that an ONNX file reads beside itself is in `listed`.

    Paths in the file are relative to its own folder, `folder` in the bundle ("" for the bundle itself).
    """
    for name in external_files(data, field):
        path = f"{folder}/{name}" if folder else name
        if path not in listed:
            given = f"weights in {name[:120]!r}, which the graph's entry does not name"
            raise BundleError(field, given, ", ".join(sorted(listed)) or "no files beside it")


def external_files(data: bytes, field: str = "graph") -> set[str]:
    """Return the locations of external data as they are written; BundleError for what is no ONNX file.

    Raises BundleError for nodes of an execution provider's own context, which name files in other ways.
    """
    found: set[str] = set()
    pending = [("model", memoryview(data), 0)]
    try:
        while pending:
            kind, message, depth = pending.pop()
            if depth > MAX_DEPTH:
                raise BundleError(field, "an ONNX file nested too deep", ALLOWED)
            for number, value in _fields(message):
                if kind == "tensor":
                    if number == EXTERNAL_DATA and value is not None:
                        found |= _location(value)
                elif kind == "node" and number == OP_TYPE and value is not None and bytes(value) == CONTEXT:
                    raise BundleError(field, "a node EPContext, which reads files of its own", "nodes of ONNX")
                elif value is not None and number in FIELDS[kind]:
                    pending.append((FIELDS[kind][number], value, depth + 1))
    except (IndexError, ValueError) as reason:
        raise BundleError(field, "a file that does not read as ONNX", ALLOWED) from reason
    return found


def _location(entry: memoryview) -> set[str]:
    values = {number: bytes(value) for number, value in _fields(entry) if value is not None}
    return {values.get(VALUE, b"").decode("utf-8")} if values.get(KEY) == LOCATION else set()


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Yield (field number, bytes) of a protobuf message; None for numbers. ValueError or IndexError if it is none."""
    place, end = 0, len(message)
    while place < end:
        tag, place = _varint(message, place)
        number, wire = tag >> 3, tag & 7
        if wire == 2:
            length, place = _varint(message, place)
            if place + length > end:
                raise ValueError("a field longer than its message")
            yield number, message[place : place + length]
            place += length
        elif wire == 0:
            _, place = _varint(message, place)
            yield number, None
        elif wire in (1, 5):
            place += 8 if wire == 1 else 4
            yield number, None
        else:
            raise ValueError(f"wire type {wire}")
    if place > end:
        raise ValueError("a number longer than its message")


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError("a number of more than ten bytes")
