"""From the colours that a file has to sRGB: by its ICC profile, by the chunks of a PNG, or by EXIF.

    light = transfer(sample),  light' = M light,  sample' = sRGB's curve of light', cut to 0 and 1

M goes through CIE XYZ from the file's primaries to those of sRGB (IEC 61966-2-1), the white points adapted by
Bradford's method. Transfer functions are those of ITU-T H.273; of PQ and HLG white is 203 cd/m2 (ITU-R BT.2408).
"""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageCms

from limner.runtime.pictures.containers import PngColour

__all__ = ["from_adobe_rgb", "to_srgb"]

Float64Array = NDArray[np.float64]
D65 = (0.3127, 0.3290)
SRGB = (*D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
ADOBE_RGB = (*D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
ADOBE_GAMMA = 563 / 256
ROUNDING = 2  # levels that a conversion from sRGB to sRGB may move
PRIMARIES = {  # H.273 table 2
    1: SRGB,
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    7: (*D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: (*D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
}
USUAL_GAMMA = (0.42, 0.48)  # 1 / 2.2 and its like is meant as sRGB, and read so everywhere
SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab "}
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def to_srgb(
    image: Image.Image,  # without alpha
    profile: bytes | None,
    colour: PngColour | None,
    notes: list[str],  # gets what was done
) -> Image.Image:
    """Return the picture as 8-bit RGB in sRGB; what does not fit is left out and noted."""
    if image.mode not in SPACES:
        image = image.convert("L" if image.mode == "1" else "RGB")
    cicp = None if colour is None else colour.cicp
    if cicp is not None:
        return _by_cicp(image.convert("RGB"), cicp, notes)
    if profile:
        return _by_profile(image, profile, notes)
    if image.mode in ("CMYK", "LAB"):
        notes.append(f"{image.mode} without a profile converted to RGB")
    image = image.convert("RGB")
    if colour is None or colour.srgb or colour.gamma is None:
        return image
    return _by_gamma(image, colour, notes)


def from_adobe_rgb(image: Image.Image) -> Image.Image:
    """Return an RGB picture whose EXIF says Adobe RGB (1998) in sRGB."""
    return _converted(image, lambda sample: sample**ADOBE_GAMMA, ADOBE_RGB)


def _by_profile(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space
        if image.mode == "L" and space == "RGB ":
            image = image.convert("RGB")
        if SPACES[image.mode] != space:
            raise ValueError(f"a profile of {space.strip()} on a picture of {image.mode}")
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        notes.append("colour profile ignored, it does not fit the picture")
        return image.convert("RGB")
    plain = image.convert("RGB")
    if converted is None:
        return plain
    moved = np.asarray(ImageChops.difference(plain, converted)).max(initial=0)
    if moved > ROUNDING:
        name = " ".join((source.profile.profile_description or "").split())
        notes.append(f"colours converted to sRGB from the profile {name[:60] or 'without a name'!r}")
    return converted


def _by_cicp(image: Image.Image, cicp: tuple[int, int], notes: list[str]) -> Image.Image:
    primaries, curve = PRIMARIES.get(cicp[0]), _curve(cicp[1])
    if cicp[0] == 1 and cicp[1] in (1, 6, 13, 14, 15):  # what screens without colour management show as sRGB
        return image
    if primaries is None or curve is None:
        notes.append(f"colours read as sRGB, the code points {cicp[0]}, {cicp[1]} of its cICP are not known")
        return image
    notes.append(f"colours converted to sRGB from the code points {cicp[0]}, {cicp[1]} of its cICP")
    return _converted(image, curve, primaries)


def _by_gamma(image: Image.Image, colour: PngColour, notes: list[str]) -> Image.Image:
    gamma = colour.gamma or 1 / 2.2
    primaries = SRGB if colour.chromaticities is None else colour.chromaticities
    usual = np.allclose(primaries, SRGB, atol=2e-3)
    if usual and USUAL_GAMMA[0] <= gamma <= USUAL_GAMMA[1]:
        return image
    exponent = 1 / gamma
    if not 0.1 <= exponent <= 10 or not _plausible(primaries):
        notes.append("colours read as sRGB, its gamma or primaries are out of range")
        return image
    notes.append(f"colours converted to sRGB from a gamma of {gamma:.4g}" + ("" if usual else " and other primaries"))
    return _converted(image, lambda sample: sample**exponent, primaries)


def _converted(
    image: Image.Image, curve: Callable[[Float64Array], Float64Array], primaries: tuple[float, ...]
) -> Image.Image:
    table = curve(np.arange(256) / 255.0)  # light of each level
    matrix = _to_srgb_primaries(primaries)
    levels = np.array(image)  # [H,W,3]
    result = np.empty_like(levels)
    for row in range(0, len(levels), 256):  # no more than 256 rows of float64 at a time
        light = table[levels[row : row + 256]] @ matrix.T
        light = np.clip(light, 0, 1)
        sample = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        result[row : row + 256] = np.rint(sample * 255)
    return Image.fromarray(result)


def _to_srgb_primaries(primaries: tuple[float, ...]) -> Float64Array:
    """Return M [3,3]."""
    if primaries == SRGB:
        return np.eye(3)
    white, target = _xyz(primaries[:2]), _xyz(D65)
    adapt = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ target) / (BRADFORD @ white)) @ BRADFORD
    matrix: Float64Array = np.linalg.inv(_to_xyz(SRGB)) @ adapt @ _to_xyz(primaries)
    return matrix


def _to_xyz(primaries: tuple[float, ...]) -> Float64Array:
    """Return the matrix [3,3] from light of the primaries to XYZ."""
    columns = np.stack([_xyz(primaries[place : place + 2]) for place in (2, 4, 6)], axis=1)
    scaled: Float64Array = columns * np.linalg.solve(columns, _xyz(primaries[:2]))
    return scaled


def _xyz(point: tuple[float, ...]) -> Float64Array:
    x, y = point
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _plausible(primaries: tuple[float, ...]) -> bool:
    """Whether the primaries span a triangle and no point is out of the diagram."""
    pairs = [primaries[place : place + 2] for place in range(0, 8, 2)]
    if not all(0 <= x <= 1 and 0.001 <= y <= 1 and x + y <= 1.2 for x, y in pairs):
        return False
    (rx, ry), (gx, gy), (bx, by) = pairs[1:]
    return abs((gx - rx) * (by - ry) - (bx - rx) * (gy - ry)) > 1e-3


def _curve(transfer: int) -> Callable[[Float64Array], Float64Array] | None:
    """Return sample -> light of H.273 table 3, white at 1; None for one that is not known."""
    if transfer in (1, 6, 14, 15, 13):  # shown as sRGB is
        return lambda e: np.where(e <= 0.04045, e / 12.92, ((e + 0.055) / 1.055) ** 2.4)
    powers = {4: 2.2, 5: 2.8, 8: 1.0}
    if transfer in powers:
        return lambda e: e ** powers[transfer]
    return {16: _pq, 18: _hlg}.get(transfer)


def _pq(e: Float64Array) -> Float64Array:
    """SMPTE ST 2084."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = e ** (1 / m2)
    light: Float64Array = (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    return light * (10_000 / 203)


def _hlg(e: Float64Array) -> Float64Array:
    """ARIB STD-B67 without the system's gamma; white at the signal 0.75."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    light: Float64Array = np.where(e <= 0.5, e * e / 3, (np.exp((e - c) / a) + b) / 12)
    return light / 0.26496256
