"""Invisible marks by name: entry points of the group `limner.watermarks`, each a module or object with

    embed(image_u8 [H,W,3], payload: 8 bytes) -> image_u8      read(image_u8) -> something with `payload`, or None

`lattice` ships and needs nothing that the runtime does not have. The payload of an edit is the first 8 bytes of its
recipe's sha256, so that a picture whose metadata is gone still says which edit it was, to whoever has the recipes.
"""

from functools import cache
from importlib.metadata import entry_points
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from limner.runtime.errors import InputError, nearest

__all__ = ["PAYLOAD_BYTES", "Watermark", "find_watermark", "marked", "read_marks", "watermark_names"]

ImageU8 = NDArray[np.uint8]
GROUP = "limner.watermarks"
PAYLOAD_BYTES = 8


class Watermark(Protocol):
    """A way of marking pixels."""

    def embed(self, image_u8: ImageU8, payload: bytes) -> ImageU8:
        """The picture with the payload in it."""

    def read(self, image_u8: ImageU8) -> Any | None:
        """What was found, with `payload`; None where there is no mark."""


def watermark_names() -> tuple[str, ...]:
    """Those that are installed."""
    return tuple(sorted({one.name for one in entry_points(group=GROUP)}))


@cache
def find_watermark(name: str) -> Watermark:
    """The one of that name; InputError lists those that there are, or says why it does not load."""
    found = next((one for one in entry_points(group=GROUP) if one.name == name), None)
    if found is None:
        known = watermark_names()
        raise InputError("watermark", repr(name), ", ".join(known), nearest(name, known))
    try:
        loaded: Watermark = found.load()
    except Exception as reason:
        raise InputError("watermark", f"{name!r}, which does not load ({reason})", "one that is installed") from reason
    return loaded


def marked(image_u8: ImageU8, name: str, payload: bytes) -> ImageU8:
    """A picture [H,W,3] or [H,W,4] with a mark in its colours; InputError for a mark that changes size or type."""
    colours = np.ascontiguousarray(image_u8[..., :3])
    found = find_watermark(name).embed(colours, payload)
    if found.shape != colours.shape or found.dtype != np.uint8:
        raise InputError(
            "watermark", f"{name!r}, which gave {found.dtype} {list(found.shape)}", "the picture's own shape"
        )
    return np.concatenate([found, image_u8[..., 3:]], axis=-1)


def read_marks(image_u8: ImageU8) -> dict[str, bytes]:
    """Payloads that are in a picture, by the name of the mark."""
    found = {name: find_watermark(name).read(np.ascontiguousarray(image_u8[..., :3])) for name in watermark_names()}
    return {name: bytes(one.payload) for name, one in found.items() if one is not None}
