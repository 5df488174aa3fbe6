"""Arrays in files: .npy without pickles, and with no more memory than the file has bytes."""

import io
import math
import tokenize
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.errors import InputError

__all__ = ["read_array"]

# What numpy raises on headers that are broken or hostile.
HEADER_ERRORS = (
    ValueError,
    SyntaxError,
    EOFError,
    TypeError,
    KeyError,
    OverflowError,
    MemoryError,
    RecursionError,
    tokenize.TokenError,
)


def read_array(data: bytes, field: str) -> NDArray[Any]:
    """Return the array of a .npy file's bytes.

    Raises InputError naming `field` for other content, for objects, and for a shape that the bytes do not fill.
    """
    allowed = "a .npy file of one array of numbers"
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, in_columns, dtype = readers[version](stream)
        size = math.prod(int(side) for side in shape) * dtype.itemsize
    except HEADER_ERRORS as reason:
        raise InputError(field, "a file that is no .npy file", allowed) from reason
    rest = len(data) - stream.tell()
    if dtype.hasobject or dtype.names is not None or dtype.itemsize == 0:
        raise InputError(field, f"a .npy file of {dtype}", allowed)
    if any(side < 0 for side in shape) or size != rest:
        raise InputError(field, f"a .npy file of shape {list(shape)[:8]} with {rest} bytes", f"{size} bytes of numbers")
    flat = np.frombuffer(data, dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if in_columns else "C")
