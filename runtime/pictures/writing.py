"""Pictures to files: PNG, JPEG or WebP, by the name's ending, with texts and an XMP packet.

PNG and WebP keep every level; JPEG is written at quality 95 with full colour resolution. What Limner says of a picture
lies in PNG as texts (iTXt) and in the other two in the packet.
"""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from limner.runtime.errors import InputError
from limner.runtime.pictures.containers import XMP_KEYWORD, XMP_OF_JPEG, Carried
from limner.runtime.pictures.naming import require_picture_name
from limner.runtime.pictures.xmp import make_packet
from limner.runtime.storage.files import write_atomically

__all__ = ["encode_picture", "write_picture"]

MAX_SEGMENT = 65_533 - len(XMP_OF_JPEG)  # bytes of a packet in a JPEG
MAX_WEBP_SIDE = 16_383
QUALITY = 95
ALPHA_LOST = "JPEG has no transparency: it is put on white"
XMP_LOST = "the XMP packet of the source does not read or does not fit, and is not kept"


def write_picture(
    path: str | Path,
    image_u8: NDArray[np.uint8],  # [H,W,3] RGB or [H,W,4] RGBA
    texts: Mapping[str, str] | None = None,
    mark: str | None = None,  # DigitalSourceType, see `xmp`
    carried: Carried | None = None,  # of the source: its packet and resolution are kept
    field: str = "output",
) -> list[str]:
    """Write a picture whole or not at all; return what was lost on the way, one sentence each."""
    data, notes = encode_picture(image_u8, require_picture_name(path, field), texts, mark, carried, field)
    write_atomically(path, data, field)
    return notes


def encode_picture(
    image_u8: NDArray[np.uint8],
    suffix: str = ".png",
    texts: Mapping[str, str] | None = None,
    mark: str | None = None,
    carried: Carried | None = None,
    field: str = "output",
) -> tuple[bytes, list[str]]:
    """Return a file's bytes and what was lost; InputError for arrays that are no picture, or too large for WebP."""
    if image_u8.dtype != np.uint8 or image_u8.ndim != 3 or image_u8.shape[-1] not in (3, 4):
        raise InputError("image_u8", f"{image_u8.dtype} {list(image_u8.shape)}", "uint8 [H,W,3] or [H,W,4]")
    notes: list[str] = []
    image = Image.fromarray(np.ascontiguousarray(image_u8))
    more = {} if carried is None or carried.dpi is None else {"dpi": carried.dpi}
    packet = _packet(suffix, texts or {}, mark, None if carried is None else carried.xmp, notes)
    stream = io.BytesIO()
    if suffix == ".png":
        info = PngImagePlugin.PngInfo()
        for key, value in (texts or {}).items():
            info.add_itxt(key, value)
        if packet is not None:
            info.add_itxt(XMP_KEYWORD, packet.decode())
        image.save(stream, format="PNG", pnginfo=info, **more)
    elif suffix == ".webp":
        if max(image.size) > MAX_WEBP_SIDE:
            given = f"a picture of {image.width} x {image.height} pixels"
            raise InputError(field, given, f"at most {MAX_WEBP_SIDE} pixels a side in WebP", "write a PNG")
        image.save(stream, format="WEBP", lossless=True, quality=80, exact=True, xmp=packet or b"")
    else:
        if image.mode == "RGBA":
            notes.append(ALPHA_LOST)
            white = Image.new("RGB", image.size, "white")
            image = Image.composite(image.convert("RGB"), white, image.getchannel("A"))
        segment = b"" if packet is None else _segment(packet)
        image.save(stream, format="JPEG", quality=QUALITY, subsampling=0, extra=segment, **more)
    return stream.getvalue(), notes


def _packet(
    suffix: str, texts: Mapping[str, str], mark: str | None, source: bytes | None, notes: list[str]
) -> bytes | None:
    """The XMP packet, or None where there is nothing to say."""
    fields = {} if suffix == ".png" else texts
    if mark is None and not fields and source is None:
        return None
    packet, kept = make_packet(mark, fields, source)
    limit = MAX_SEGMENT if suffix in (".jpg", ".jpeg") else len(packet)
    if len(packet) > limit:
        packet, kept = make_packet(mark, fields)[0], False
    if len(packet) > limit:
        packet = make_packet(mark, {})[0]
        notes.append("the recipe is too long for a JPEG and is not in it: write a PNG")
    if not kept and source is not None:
        notes.append(XMP_LOST)
    return packet


def _segment(packet: bytes) -> bytes:
    body = XMP_OF_JPEG + packet
    return b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body
