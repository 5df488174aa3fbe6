"""Which picture formats are read: every one that the installed Pillow opens, but for those that run other programs."""

from functools import cache

__all__ = ["readable_formats", "refused_format", "shown_formats"]

# EPS starts Ghostscript; the others are stubs that hand the file to a program of the platform.
NOT_READ = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "FPX", "MIC", "MPEG", "PDF"}
USUAL = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "HEIF")
OF_ISO = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF", b"avif": "AVIF", b"avis": "AVIF",
          b"crx ": "a Canon raw file"}  # fmt: skip
# The first bytes of files that people try, and why they are refused.
SIGNATURES = (
    (b"%PDF", "PDF", "a document; save its page as PNG first"),
    (b"%!PS", "EPS", "which would run another program"),
    (b"<svg", "SVG", "a drawing without pixels; save it as PNG first"),
    (b"<?xml", "XML, maybe SVG", "a drawing without pixels; save it as PNG first"),
    (b"<!DOCTYPE", "HTML", "a web page, no picture"),
    (b"<html", "HTML", "a web page, no picture"),
    (b"\xff\x0a", "JPEG XL", "which Pillow does not read; save it as PNG first"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL", "which Pillow does not read; save it as PNG first"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video", "a video; save a frame of it as PNG first"),
    (b"PK\x03\x04", "a ZIP archive", "no picture"),
    (b"\x1f\x8b", "a gzip file", "no picture"),
)


@cache
def readable_formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that are read, HEIF too where pillow-heif is installed."""
    from PIL import Image

    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        pass
    else:
        register_heif_opener()
    Image.init()
    return tuple(sorted(name for name in Image.OPEN if name not in NOT_READ))


def shown_formats() -> str:
    """Return the usual formats among those that are read, for a sentence."""
    found = [name for name in USUAL if name in readable_formats()]
    return f"{', '.join(found[:-1])} or {found[-1]}"


def refused_format(data: bytes) -> str:
    """Return what a file is that does not open, and why it is refused."""
    if data[4:8] == b"ftyp":
        name = OF_ISO.get(data[8:12], "a video (MP4 or QuickTime)")
        ways = {"HEIC": "which needs the package pillow-heif", "HEIF": "which needs the package pillow-heif",
                "AVIF": "which needs Pillow 11.3 or newer"}  # fmt: skip
        return f"{name}, {ways.get(name, 'which is not read; save it as PNG first')}"
    start = data[:64].lstrip()
    for signature, name, why in SIGNATURES:
        if data.startswith(signature) or start.startswith(signature):
            return f"{name}, {why}"
    return "which does not open as a picture"
