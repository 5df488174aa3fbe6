"""What a picture file carries beside its pixels: texts, an XMP packet, a colour profile, Content Credentials.

Pillow refuses a PNG whose texts or profile unpack to more than 1 MB, and reads no text behind the pixels unless they
are decoded. So the chunks of a PNG are read here, up to MAX_UNPACKED bytes together, and Pillow gets the rest.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from limner.runtime.errors import InputError
from limner.runtime.storage.files import shown_size

__all__ = ["NOTHING", "XMP_KEYWORD", "XMP_OF_JPEG", "Carried", "PngColour", "read_carried"]

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
MAX_UNPACKED = 64_000_000  # of all texts and profiles of a file
XMP_KEYWORD = "XML:com.adobe.xmp"
XMP_OF_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
C2PA_OF_ISO = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
TAKEN_OUT = (*TEXTS, b"iCCP", b"caBX", b"gAMA", b"cHRM", b"sRGB", b"cICP")


@dataclass(frozen=True)
class PngColour:
    """What the chunks of a PNG say of its colours, of which the first that is there counts: cICP, iCCP, sRGB, gAMA."""

    cicp: tuple[int, int] | None = None  # primaries, transfer (ITU-T H.273)
    srgb: bool = False
    gamma: float | None = None  # of the file: light = sample ^ (1 / gamma)
    chromaticities: tuple[float, ...] | None = None  # white, red, green, blue: x, y each


@dataclass(frozen=True)
class Carried:
    """What a file carries; `pixels` is the file as Pillow gets it."""

    pixels: bytes = b""
    texts: dict[str, str] = field(default_factory=dict)
    xmp: bytes | None = None
    profile: bytes | None = None  # of a PNG; of other files Pillow reads it
    colour: PngColour | None = None  # of a PNG
    c2pa: bool = False
    iptc: bool = False
    dpi: tuple[float, float] | None = None


NOTHING = Carried()


def read_carried(data: bytes, field: str, name: str) -> Carried:
    """Return what a file carries, broken parts left out; InputError naming `field` for more than MAX_UNPACKED bytes."""
    if data.startswith(PNG):
        return _of_png(data, field, name)
    if data.startswith(JPEG):
        return _of_jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        chunks = dict(_riff_chunks(data))
        return Carried(data, xmp=chunks.get(b"XMP "), c2pa=b"C2PA" in chunks)
    return Carried(data, c2pa=C2PA_OF_ISO in data[: 1 << 20])


def _of_png(data: bytes, field: str, name: str) -> Carried:
    kept, texts, found, room = [PNG], dict[str, str](), Carried(colour=PngColour()), MAX_UNPACKED
    for kind, body, whole in _png_chunks(data):
        if kind not in TAKEN_OUT:
            kept.append(whole)
        try:
            if kind in TEXTS:
                key, text, used = _text(kind, body, room)
                room -= used
                texts.setdefault(key, text)
            elif kind == b"iCCP" and found.profile is None:
                profile = _unpacked(body.split(b"\0", 1)[1][1:], room)
                room -= len(profile)
                found = replace(found, profile=profile)
            elif kind == b"caBX":
                found = replace(found, c2pa=True)
            else:
                found = replace(found, colour=_colour(found.colour or PngColour(), kind, body))
        except _TooMuch as reason:
            given = f"{name!r} with texts or a profile of more than {shown_size(MAX_UNPACKED)}"
            raise InputError(field, given, f"at most {shown_size(MAX_UNPACKED)}") from reason
        except (zlib.error, IndexError, UnicodeDecodeError, struct.error, ValueError):
            continue  # a chunk that is broken is left out
    xmp = texts[XMP_KEYWORD].encode() if XMP_KEYWORD in texts else None
    return replace(found, pixels=b"".join(kept), texts=texts, xmp=xmp)


class _TooMuch(Exception):
    """More bytes than there is room for."""


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield (kind, body, the whole chunk), what follows IEND or is cut off as a last one of no kind."""
    place = len(PNG)
    while place + 8 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind, end = data[place + 4 : place + 8], place + 12 + length
        if end > len(data):
            break
        yield kind, data[place + 8 : end - 4], data[place:end]
        place = end
        if kind == b"IEND":
            return
    yield b"", b"", data[place:]


def _text(kind: bytes, body: bytes, room: int) -> tuple[str, str, int]:
    """(keyword, text, bytes unpacked)."""
    key, rest = body.split(b"\0", 1)
    if kind == b"tEXt":
        packed, encoding = None, "latin-1"
    elif kind == b"zTXt":
        packed, encoding = rest[1:], "latin-1"
    else:
        flag, rest = rest[0], rest[2:].split(b"\0", 2)[2]
        packed, encoding = (rest if flag else None), "utf-8"
    plain = rest if packed is None else _unpacked(packed, room)
    if len(plain) > room:
        raise _TooMuch
    return key.decode("latin-1"), plain.decode(encoding), len(plain)


def _unpacked(packed: bytes, room: int) -> bytes:
    reader = zlib.decompressobj()
    plain = reader.decompress(packed, room + 1)
    if len(plain) > room:
        raise _TooMuch
    return plain


def _colour(before: PngColour, kind: bytes, body: bytes) -> PngColour:
    if kind == b"sRGB":
        return replace(before, srgb=True)
    if kind == b"cICP":
        return replace(before, cicp=(body[0], body[1]))
    if kind == b"gAMA":
        (value,) = struct.unpack(">I", body)
        return replace(before, gamma=value / 100_000 if value else None)
    if kind == b"cHRM":
        return replace(before, chromaticities=tuple(value / 100_000 for value in struct.unpack(">8I", body)))
    return before


def _of_jpeg(data: bytes) -> Carried:
    found = Carried(data)
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, (length,) = data[place + 1], struct.unpack(">H", data[place + 2 : place + 4])
        if marker == 0xDA or length < 2:  # the scan begins
            break
        body = data[place + 4 : place + 2 + length]
        if marker == 0xE1 and body.startswith(XMP_OF_JPEG) and found.xmp is None:
            found = replace(found, xmp=body[len(XMP_OF_JPEG) :])
        elif marker == 0xEB and b"c2pa" in body[:200]:
            found = replace(found, c2pa=True)
        elif marker == 0xED and b"8BIM\x04\x04" in body:
            found = replace(found, iptc=True)
        place += 2 + length
    return found


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 12
    while place + 8 <= len(data):
        (length,) = struct.unpack("<I", data[place + 4 : place + 8])
        yield data[place : place + 4], data[place + 8 : place + 8 + length]
        place += 8 + length + length % 2
