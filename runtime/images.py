"""Pictures in and out: any PNG, JPEG or WebP file to a square uint8 RGB array, and PNG files with text.

What `read_picture` does, in order: check the file's size, read its header and check the pixel count before
anything is decoded, decode, turn by the EXIF orientation, reduce 16 bits to 8, convert an embedded colour
profile to sRGB, put transparency on white, crop to the centred square, resize with an antialiased (Lanczos)
filter. `read_photo` stops after the colours and keeps size and transparency.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from limner.runtime.errors import InputError
from limner.runtime.files import read_plain, sha256_bytes, user_path, write_atomically

FORMATS = ("PNG", "JPEG", "WEBP")
ALLOWED_FILE = "a PNG, JPEG or WebP picture"
MAX_PIXELS = 50_000_000  # checked in the header, before decoding
MAX_BYTES = 200_000_000
MIN_SIDE = 16

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


@dataclass(frozen=True)
class Photo:
    """A picture file at its own size, as it is displayed: `image_u8` uint8 [H,W,3] RGB."""

    image_u8: ByteImage
    alpha_u8: ByteImage | None  # [H,W]; None where the file has no transparency
    path: Path
    sha256: str  # of the file as it is on disk
    notes: tuple[str, ...] = ()  # what was changed on the way, one phrase each

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
    return Picture(square, photo.path, photo.sha256, upright.width, upright.height, tuple(notes))


def read_photo(path: str | Path, field: str = "picture") -> Photo:
    """Read a picture file at its own size, neither cut nor put on white; InputError as for `read_picture`."""
    path = user_path(path, field)
    data = _read_bytes(path, field)
    notes: list[str] = []
    rgb, alpha = _upright(data, path, field, notes)
    alpha_u8 = None if alpha is None else np.array(alpha, dtype=np.uint8)
    return Photo(np.array(rgb, dtype=np.uint8), alpha_u8, path, sha256_bytes(data), tuple(notes))


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
) -> Path:
    """Write a PNG file whole or not at all and return its path; InputError names `field` if that fails."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(field, repr(str(path)), "a file name that ends in .png")
    return write_atomically(path, png_bytes(image_u8, text), field)


def png_bytes(image_u8: ByteImage, text: Mapping[str, str] | None = None) -> bytes:
    """Return a PNG file of uint8 [H,W,3] RGB or [H,W,4] RGBA as bytes, with `text` as iTXt chunks."""
    if image_u8.dtype != np.uint8 or image_u8.ndim != 3 or image_u8.shape[-1] not in (3, 4):
        raise InputError("image_u8", f"{image_u8.dtype} {list(image_u8.shape)}", "uint8 [H,W,3] or [H,W,4]")
    info = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        info.add_itxt(key, value)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image_u8)).save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def read_png_text(path: str | Path, field: str = "picture") -> dict[str, str]:
    """Return the text before a PNG's pixels, without decoding them; InputError as for `read_picture`."""
    path = user_path(path, field)
    image = _open(_read_bytes(path, field), path, field)
    if image.format != "PNG":
        raise InputError(
            field,
            f"{path.name!r}, a {image.format} file",
            "a PNG file, since the text lies in PNG chunks",
        )
    return {str(key): str(value) for key, value in image.info.items() if isinstance(value, str)}


def _read_bytes(path: Path, field: str) -> bytes:
    data = read_plain(path, field, MAX_BYTES, ALLOWED_FILE)
    if not data:
        raise InputError(field, f"the empty file {path.name!r}", ALLOWED_FILE)
    return data


def _open(data: bytes, path: Path, field: str) -> Image.Image:
    """Read the header alone and refuse what is not allowed; pixels are decoded later."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as reason:
        raise _too_large(field, path, "over 178") from reason
    except DECODE_ERRORS as reason:
        raise InputError(field, f"{path.name!r}, which does not open as a picture", ALLOWED_FILE) from reason
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(field, path, f"{width * height / 1e6:.0f}")
    if min(width, height) < MIN_SIDE:
        raise InputError(
            field,
            f"{path.name!r} of {width} x {height} pixels",
            f"at least {MIN_SIDE} pixels a side",
        )
    return image


def _too_large(field: str, path: Path, megapixels: str) -> InputError:
    allowed = f"at most {MAX_PIXELS // 1_000_000} megapixels"
    return InputError(
        field,
        f"{path.name!r} with {megapixels} megapixels",
        allowed,
        "scale it down first",
    )


def _upright(data: bytes, path: Path, field: str, notes: list[str]) -> tuple[Image.Image, Image.Image | None]:
    """Decode a file's bytes to RGB and alpha, as they are displayed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # our own limits are stricter than Pillow's warnings
        image = _open(data, path, field)
        try:
            return _decode(image, notes)
        except (*DECODE_ERRORS, Image.DecompressionBombError) as reason:
            given = f"{path.name!r}, which does not decode ({reason})"
            raise InputError(field, given, f"{ALLOWED_FILE} that is whole") from reason


def _decode(image: Image.Image, notes: list[str]) -> tuple[Image.Image, Image.Image | None]:
    """Decode to an upright 8-bit RGB picture in sRGB and its alpha, adding to `notes` what was changed."""
    if getattr(image, "n_frames", 1) > 1:
        notes.append(f"first of {getattr(image, 'n_frames', 1)} frames used")
    image.load()
    profile = image.info.get("icc_profile")
    turned = ImageOps.exif_transpose(image)
    if turned.size != image.size or image.getexif().get(0x0112, 1) not in (0, 1):
        notes.append("turned by its EXIF orientation")
    colours = _reduce_depth(turned, notes)
    if colours.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in colours.info:
        layers = colours.convert("RGBA")
        opaque, alpha = layers.convert("RGB"), layers.getchannel("A")
    else:
        opaque, alpha = colours, None
    return _to_srgb(opaque, profile, notes), alpha


def _reduce_depth(image: Image.Image, notes: list[str]) -> Image.Image:
    """16-bit grayscale -> 8-bit; Pillow has already reduced 16-bit colour while decoding."""
    if not image.mode.startswith(("I", "F")):
        return image
    notes.append("16 bits reduced to 8")
    levels = np.asarray(image).astype(np.float64) / 257.0  # 65535 = 255 * 257
    reduced = Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        opaque = np.asarray(image) != transparent
        reduced = Image.merge("LA", (reduced, Image.fromarray(opaque.astype(np.uint8) * np.uint8(255))))
    return reduced


def _to_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """Convert to RGB through the embedded profile; one that does not fit is left out and noted."""
    if not profile or image.mode not in ("RGB", "L", "CMYK"):
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        notes.append("colour profile ignored, it does not fit the picture")
        return image.convert("RGB")
    return converted if converted is not None else image.convert("RGB")


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
