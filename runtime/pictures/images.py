"""Pictures in and out: a file of any format that Pillow opens to a square uint8 RGB array, and PNG files with text.

What `read_picture` does, in order: check the file's size, read its header and check the pixel count before
anything is decoded, decode, turn by the EXIF orientation, reduce 16 bits to 8, convert the colours to sRGB
(`pictures.colour`), put transparency on white, crop to the centred square, resize with an antialiased (Lanczos)
filter. `read_photo` stops after the colours and keeps size and transparency. What was done is noted.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from limner.runtime.errors import GraphError, InputError
from limner.runtime.pictures.colour import from_adobe_rgb, to_srgb
from limner.runtime.pictures.containers import NOTHING, Carried, read_carried
from limner.runtime.pictures.formats import readable_formats, refused_format, shown_formats
from limner.runtime.pictures.writing import encode_picture
from limner.runtime.pictures.xmp import read_fields
from limner.runtime.storage.files import read_plain, sha256_bytes, user_path, write_atomically

ALLOWED_FILE = "a picture"
CREDENTIALS_LOST = "its Content Credentials (C2PA) are not kept: they vouch for the picture as it was"
MAX_PIXELS = 50_000_000  # checked in the header, before decoding
MAX_BYTES = 200_000_000
MIN_SIDE = 16
INTEROPERABILITY = 0xA005  # EXIF's directory that says "R03" of Adobe RGB

FloatImage = NDArray[np.float32]
ByteImage = NDArray[np.uint8]

# What Pillow raises on files that are broken, truncated or hostile.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class Picture:
    """A picture file at the generator's size: `image_u8` uint8 [size,size,3] RGB."""

    image_u8: ByteImage
    path: Path
    sha256: str  # of the file as it is on disk
    width: int  # of the upright picture before cropping
    height: int
    notes: tuple[str, ...] = ()  # what was changed on the way, one phrase each
    carried: Carried = NOTHING  # what the file holds beside its pixels, which are not in it


@dataclass(frozen=True)
class Photo:
    """A picture file at its own size, as it is displayed: `image_u8` uint8 [H,W,3] RGB."""

    image_u8: ByteImage
    alpha_u8: ByteImage | None  # [H,W]; None where the file has no transparency
    path: Path
    sha256: str  # of the file as it is on disk
    notes: tuple[str, ...] = ()  # what was changed on the way, one phrase each
    carried: Carried = NOTHING  # what the file holds beside its pixels, which are not in it

    def on_white(self) -> ByteImage:
        """Return the picture with its transparency put on white."""
        if self.alpha_u8 is None:
            return self.image_u8
        rgb, alpha = Image.fromarray(self.image_u8), Image.fromarray(self.alpha_u8)
        return np.array(Image.composite(rgb, Image.new("RGB", rgb.size, "white"), alpha), dtype=np.uint8)


def read_picture(path: str | Path, size: int, field: str = "picture") -> Picture:
    """Read a picture file as uint8 RGB [size,size,3].

    Raises InputError naming `field` for a file that is missing, unreadable, empty, no picture, truncated,
    larger than 50 megapixels or 200 MB, or smaller than 16 pixels on a side.
    """
    photo = read_photo(path, field)
    notes = [*photo.notes]
    if photo.alpha_u8 is not None and photo.alpha_u8.min() < 255:
        notes.append("transparency put on white")
    upright = Image.fromarray(photo.on_white())
    square = np.array(_square(upright, size, notes), dtype=np.uint8)
    return Picture(square, photo.path, photo.sha256, upright.width, upright.height, tuple(notes), photo.carried)


def read_photo(path: str | Path, field: str = "picture") -> Photo:
    """Read a picture file at its own size, neither cut nor put on white; InputError as for `read_picture`."""
    path = user_path(path, field)
    data = _read_bytes(path, field)
    notes: list[str] = []
    rgb, alpha, carried = _upright(data, path, field, notes)
    alpha_u8 = None if alpha is None else np.array(alpha, dtype=np.uint8)
    return Photo(np.array(rgb, dtype=np.uint8), alpha_u8, path, sha256_bytes(data), tuple(notes), carried)


def to_float(image_u8: ByteImage) -> FloatImage:
    """uint8 [H,W,3] or [N,H,W,3] -> float32 [N,3,H,W] in [-1,1]; InputError for anything else."""
    batch = image_u8[None] if image_u8.ndim == 3 else image_u8  # [N,H,W,3]
    if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[-1] != 3:
        given = f"{image_u8.dtype} {list(image_u8.shape)}"
        raise InputError("image_u8", given, "uint8 [H,W,3] or [N,H,W,3]")
    planes = batch.transpose(0, 3, 1, 2).astype(np.float32)  # [N,3,H,W]
    return np.ascontiguousarray(planes / np.float32(127.5) - np.float32(1))


def to_u8(image: FloatImage) -> ByteImage:
    """float [N,3,H,W] -> uint8 [N,H,W,3], or [3,H,W] -> [H,W,3]; clipped to [-1,1] and rounded.

    The inverse of `to_float`. Raises InputError for another shape.
    """
    if image.ndim not in (3, 4) or image.shape[-3] != 3:
        raise InputError("image", f"shape {list(image.shape)}", "[N,3,H,W] or [3,H,W]")
    levels = np.rint((np.clip(image, -1, 1) + 1) * np.float32(127.5)).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(levels, -3, -1))


def write_png_atomically(
    path: str | Path,
    image_u8: ByteImage,  # uint8 [H,W,3] RGB or [H,W,4] RGBA
    text: Mapping[str, str] | None = None,  # metadata, one iTXt chunk each, before the pixels
    field: str = "output",
    mark: str | None = None,  # DigitalSourceType, see `pictures.xmp`
) -> Path:
    """Write a PNG file whole or not at all and return its path; InputError names `field` if that fails."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(field, repr(str(path)), "a file name that ends in .png")
    return write_atomically(path, encode_picture(image_u8, ".png", text, mark)[0], field)


def png_bytes(image_u8: ByteImage, text: Mapping[str, str] | None = None) -> bytes:
    """Return a PNG file of uint8 [H,W,3] RGB or [H,W,4] RGBA as bytes, with `text` as iTXt chunks."""
    return encode_picture(image_u8, ".png", text)[0]


def read_texts(path: str | Path, field: str = "picture") -> dict[str, str]:
    """Return what a PNG says in its texts, wherever they stand, and what Limner wrote into a picture's XMP packet.

    The pixels are not decoded. InputError as for `read_picture`.
    """
    path = user_path(path, field)
    data = _read_bytes(path, field)
    image, carried = _open(data, path, field)
    packet = carried.xmp or image.info.get("xmp")
    from_packet = read_fields(packet.encode() if isinstance(packet, str) else packet) if packet else {}
    return from_packet | carried.texts


def _read_bytes(path: Path, field: str) -> bytes:
    data = read_plain(path, field, MAX_BYTES, ALLOWED_FILE)
    if not data:
        raise InputError(field, f"the empty file {path.name!r}", ALLOWED_FILE)
    return data


def _open(data: bytes, path: Path, field: str) -> tuple[Image.Image, Carried]:
    """Read the header alone and refuse what is not allowed; pixels are decoded later."""
    carried = read_carried(data, field, path.name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limits are stricter than Pillow's warnings
            image = Image.open(io.BytesIO(carried.pixels), formats=readable_formats())
    except Image.DecompressionBombError as reason:
        raise _too_large(field, path, "over 178") from reason
    except DECODE_ERRORS as reason:
        given = f"{path.name!r}, {refused_format(data)}"
        raise InputError(field, given, f"a picture: {shown_formats()}") from reason
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(field, path, f"{width * height / 1e6:.0f}")
    if min(width, height) < MIN_SIDE:
        raise InputError(
            field,
            f"{path.name!r} of {width} x {height} pixels",
            f"at least {MIN_SIDE} pixels a side",
        )
    return image, replace(carried, pixels=b"")


def _too_large(field: str, path: Path, megapixels: str) -> InputError:
    allowed = f"at most {MAX_PIXELS // 1_000_000} megapixels"
    return InputError(
        field,
        f"{path.name!r} with {megapixels} megapixels",
        allowed,
        "scale it down first",
    )


def _upright(data: bytes, path: Path, field: str, notes: list[str]) -> tuple[Image.Image, Image.Image | None, Carried]:
    """Decode a file's bytes to RGB and alpha, as they are displayed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # our own limits are stricter than Pillow's warnings
        image, carried = _open(data, path, field)
        try:
            rgb, alpha = _decode(image, carried, notes)
        except (*DECODE_ERRORS, Image.DecompressionBombError) as reason:
            given = f"{path.name!r}, a file of {image.format} which does not decode ({reason})"
            raise InputError(field, given, f"{ALLOWED_FILE} that is whole") from reason
    if carried.c2pa:
        notes.append(CREDENTIALS_LOST)
    if carried.iptc:
        notes.append("its IPTC record is not kept, its XMP packet is")
    packet = carried.xmp or image.info.get("xmp")
    resolution = image.info.get("dpi")
    return (
        rgb,
        alpha,
        replace(
            carried,
            texts={},
            profile=None,
            xmp=packet.encode() if isinstance(packet, str) else packet,
            dpi=_resolution(resolution),
        ),
    )


def _resolution(given: object) -> tuple[float, float] | None:
    """Dots per inch that make sense; files hold others."""
    if not isinstance(given, tuple) or len(given) != 2:
        return None
    x, y = (float(value) for value in given)
    return (x, y) if 1 <= x <= 100_000 and 1 <= y <= 100_000 else None


def _decode(image: Image.Image, carried: Carried, notes: list[str]) -> tuple[Image.Image, Image.Image | None]:
    """Decode to an upright 8-bit RGB picture in sRGB and its alpha, adding to `notes` what was changed."""
    if getattr(image, "n_frames", 1) > 1:
        notes.append(f"first of {getattr(image, 'n_frames', 1)} frames used")
    image.load()
    profile = carried.profile or image.info.get("icc_profile")
    turned = ImageOps.exif_transpose(image)
    if turned.size != image.size or image.getexif().get(0x0112, 1) not in (0, 1):
        notes.append("turned by its EXIF orientation")
    colours = _reduce_depth(turned, notes)
    opaque, alpha = _without_alpha(colours)
    if profile is None and opaque.mode == "RGB" and _interoperability(image) == "R03":
        notes.append("colours converted to sRGB from Adobe RGB, as its EXIF says")
        return from_adobe_rgb(opaque), alpha
    return to_srgb(opaque, profile, carried.colour, notes), alpha


def _interoperability(image: Image.Image) -> object:
    """What EXIF's interoperability directory says of the colours; None without one, which Pillow before 13 raises."""
    with suppress(KeyError):
        return image.getexif().get_ifd(INTEROPERABILITY).get(1)
    return None


def _without_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The colours, in a mode that fits a profile of the file, and the alpha where there is one."""
    transparent = "transparency" in image.info
    if image.mode in ("LA", "La"):
        layers = image.convert("LA") if image.mode == "La" else image
        return layers.getchannel("L"), layers.getchannel("A")
    if image.mode == "L" and transparent:
        layers = image.convert("LA")
        return layers.getchannel("L"), layers.getchannel("A")
    if image.mode in ("RGBA", "PA", "RGBa") or transparent:
        layers = image.convert("RGBA")
        return layers.convert("RGB"), layers.getchannel("A")
    return image, None


def _reduce_depth(image: Image.Image, notes: list[str]) -> Image.Image:
    """Gray of 16 and 32 bits to 8; Pillow has already reduced 16-bit colour while decoding."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise ValueError("numbers outside 0 to 1, whose white is not known")
        scaled = values * 255.0
    elif values.min() < 0 or values.max() > 65_535:
        raise ValueError("numbers of more than 16 bits, whose white is not known")
    else:
        scaled = values / 257.0  # 65535 = 255 * 257
    notes.append("numbers from 0 to 1 made 8 bits" if image.mode == "F" else "16 bits reduced to 8")
    reduced = Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        opaque = np.asarray(image) != transparent
        reduced = Image.merge("LA", (reduced, Image.fromarray(opaque.astype(np.uint8) * np.uint8(255))))
    return reduced


def _square(image: Image.Image, size: int, notes: list[str]) -> Image.Image:
    """Crop to the centred square and resize with an antialiased filter."""
    width, height = image.size
    side = min(width, height)
    if width != height:
        notes.append(f"cropped from {width} x {height} to the centred square")
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if side == size:
        return image
    if side < size:
        notes.append(f"enlarged from {side} to {size} pixels")
    return image.resize((size, size), Image.Resampling.LANCZOS)


def checked_u8(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[1,3,H,W] in [-1,1] -> uint8 [H,W,3]; GraphError rather than a picture made of NaN."""
    if not np.isfinite(image).all():
        raise GraphError("the edited picture holds NaN or infinity; lower the strength or the learning rate")
    picture: NDArray[np.uint8] = to_u8(image)[0]
    return picture
