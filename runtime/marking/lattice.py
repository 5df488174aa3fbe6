"""An invisible mark of 64 bits in the pixels: quantized coefficients of a small picture of the picture.

The picture is brought to 128 x 128 (that of a crop to as much of it as it is), cut into blocks of 8 x 8, and three low
coefficients of each block's cosine transform are moved to the nearest point of a lattice that says its bit
(quantization index modulation, Chen and Wornell 2001):

    x = STEP (k + 1/4) for a 1, STEP (k - 1/4) for a 0;  read as sin(2 pi x / STEP)

768 places carry 80 bits (the payload and 16 of CRC) seven times over, spread over the picture, and 208 known signs by
which a reader finds where a crop was cut out: every size and place of it is tried. What is added is blown up to the
picture's own size, so that the mark is as large as the picture and resizing does little to it.

STEP is chosen so that a quarter of it is above half of what JPEG rounds these coefficients to at quality 50: flat
drawings keep it, which have nothing else in those coefficients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limner.runtime.errors import InputError

__all__ = ["BITS", "Read", "embed", "read"]

ImageU8 = NDArray[np.uint8]
Floats = NDArray[np.float64]
SIDE, BLOCK = 128, 8
BLOCKS = SIDE // BLOCK
ORDERS = ((0, 1), (1, 0), (1, 1))  # of the cosine transform, down and across
PLACES = BLOCKS * BLOCKS * len(ORDERS)
BITS, CRC = 64, 16
STEP = 30.0
ROOM = 3  # levels that pure black and white give up, so that both signs fit
ROUNDS = 4  # of putting right what rounding and resizing took
LEAST = 80  # the smallest crop that is looked for, of 128: 62 % of a side
SURE = 6.0  # standard deviations of the known signs: by chance 1e-9 a try, of some 300; the CRC comes behind it
REFINED, DECODED = 12, 4  # places that are looked at closer, and whose bits are read
FINE_FROM = 1.5  # pixels of the picture in one of 128: from there on it is looked for between them too
FLIPS = 3  # of the weakest bits, tried against the CRC
LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Read:
    """A mark that was found."""

    payload: bytes  # 8
    sureness: float  # standard deviations of the known signs
    part: tuple[float, float]  # of the marked picture's width and height that this one shows


def embed(image_u8: ImageU8, payload: bytes) -> ImageU8:
    """Return the picture [H,W,3] with a payload of 8 bytes in it. InputError for other payloads, and for pictures of
    less than 64 pixels, which have no room.
    """
    if len(payload) * 8 != BITS:
        raise InputError("payload", f"{len(payload)} bytes", f"{BITS // 8} bytes")
    height, width = image_u8.shape[:2]
    if min(height, width) < SIDE // 2:
        raise InputError("watermark", f"a picture of {width} x {height}", f"one of {SIDE // 2} pixels or more a side")
    signs = _signs(payload)
    base = np.clip(image_u8.astype(np.float64), ROOM, 255 - ROOM)
    marked = np.round(base)
    wanted = None
    for _ in range(ROUNDS):
        now = _coefficients(_small(np.clip(marked, 0, 255) @ LUMA, SIDE, SIDE))[::BLOCK, ::BLOCK]  # [16,16,3]
        if wanted is None:
            wanted = _nearest(now, signs)
        added = _small(_pixels(wanted - now), height, width)
        marked = np.clip(np.round(marked + added[..., None]), 0, 255)
    return marked.astype(np.uint8)


def read(image_u8: ImageU8) -> Read | None:
    """Find the mark in a picture [H,W,3], or in a part of one that shows at least 62 % of its sides; None where there
    is none.
    """
    luma = image_u8.astype(np.float64) @ LUMA
    found = _first([_Try(SIDE, SIDE, luma)])
    fine = min(luma.shape) / SIDE > FINE_FROM  # may be cut between the pixels of 128
    for sizes, shifts, around in _SEARCHES[: 2 if fine else 1]:
        if found is not None:
            return found
        tried = [_Try(size, size, luma, *shift) for size in sizes for shift in shifts]
        tried.sort(key=lambda one: -one.score)
        near = [one.moved(luma, *step) for one in tried[:REFINED] for step in around]
        found = _first(sorted([*tried[:REFINED], *near], key=lambda one: -one.score)[:DECODED])
    return found


def _first(tried: Sequence["_Try"]) -> Read | None:
    """The first whose known signs are sure and whose bits fit their CRC."""
    for one in tried:
        payload = _decoded(one.values()) if one.score >= SURE else None
        if payload is not None:
            return Read(payload, one.score, (float(one.width) / SIDE, float(one.height) / SIDE))
    return None


def _grid(step: float) -> list[tuple[float, float]]:
    return [(down, across) for down in np.arange(0, 1, step) for across in np.arange(0, 1, step)]


NEAR = (-0.125, 0.0, 0.125)
# Sizes of a crop, of 128, cut alike on both sides; shifts of its first pixel; and what is tried around the best of them
_SEARCHES = (
    (range(SIDE - 1, LEAST - 1, -1), [(0.0, 0.0)],
     [(0, wider, 0, 0) for wider in (-1, 1)] + [(more, 0, *shift) for more in (0, 0.5) for shift in _grid(0.5)]),
    (np.arange(SIDE - 0.5, LEAST, -0.5), _grid(0.25),
     [(more, 0, down, across) for more in (-0.25, 0, 0.25) for down in NEAR for across in NEAR]),
)  # fmt: skip


class _Try:
    """A size that the picture may have of the marked one, and a shift by parts of a pixel: how well it fits."""

    def __init__(self, height: float, width: float, luma: Floats, down: float = 0.0, across: float = 0.0) -> None:
        self.height, self.width, self.down, self.across = height, width, down, across
        self.soft = np.sin(2 * np.pi / STEP * _coefficients(_small(luma, height, width, down, across)))  # [h-7,w-7,3]
        known, where = _known_spectra()
        room = tuple(slice(int(np.ceil(SIDE - size)) + 1) for size in (height, width))
        hits, energy = (np.fft.irfft2((spectrum * np.fft.rfft2(values, (SIDE, SIDE), (0, 1)).conj()).sum(-1))[room]
                        for spectrum, values in ((known, self.soft), (where, self.soft**2)))  # fmt: skip
        scores = hits / np.sqrt(np.maximum(energy, 0) + 1)
        self.place = tuple(int(k) for k in np.unravel_index(int(scores.argmax()), scores.shape))
        self.score = float(scores.max())

    def moved(self, luma: Floats, more: float, wider: float, down: float, across: float) -> "_Try":
        """Another size and shift near by."""
        sizes = (min(SIDE, self.height + more), min(SIDE, self.width + more + wider))
        return _Try(*sizes, luma, max(0.0, self.down + down), max(0.0, self.across + across))

    def values(self) -> Floats:
        """Each bit's sum of soft values [80]."""
        bits = _layout()[0].reshape(BLOCKS, BLOCKS, -1)
        down, across = self.place
        rows, columns = (np.arange(BLOCKS) * BLOCK - shift for shift in (down, across))
        rows_in, columns_in = ((one >= 0) & (one < size) for one, size in ((rows, self.soft.shape[0]),
                                                                           (columns, self.soft.shape[1])))  # fmt: skip
        part = self.soft[np.ix_(rows[rows_in], columns[columns_in])]
        own = bits[np.ix_(rows_in, columns_in)]
        return np.bincount(own[own >= 0], part[own >= 0], BITS + CRC).astype(np.float64)


@cache
def _layout() -> tuple[NDArray[np.int64], Floats]:
    """For each place what it carries: a bit's number, or -1; and the known signs there, 0 where a bit is."""
    rng = np.random.RandomState(20_260_801)
    order = rng.permutation(PLACES)
    carried = BITS + CRC
    repeats = 7
    bits = np.full(PLACES, -1, np.int64)
    bits[order[: carried * repeats]] = np.tile(np.arange(carried), repeats)
    known = np.where(bits < 0, rng.choice([-1.0, 1.0], PLACES), 0.0)
    return bits, known


def _signs(payload: bytes) -> Floats:
    """[16,16,3] of -1 and 1."""
    bits, known = _layout()
    word = _with_crc(payload)
    return np.where(bits < 0, known, 2.0 * word[np.maximum(bits, 0)] - 1).reshape(BLOCKS, BLOCKS, len(ORDERS))


def _with_crc(payload: bytes) -> NDArray[np.int64]:
    """The payload's bits and those of its CRC (CCITT)."""
    crc = 0xFFFF
    for one in payload:
        crc ^= one << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    whole = np.frombuffer(payload + crc.to_bytes(2, "big"), np.uint8)
    return np.unpackbits(whole).astype(np.int64)


def _nearest(values: Floats, signs: Floats) -> Floats:
    """The nearest point of each sign's lattice."""
    offset = signs * STEP / 4
    return np.round((values - offset) / STEP) * STEP + offset


@cache
def _waves() -> tuple[Floats, Floats]:
    """The first two of the orthonormal cosine transform [8]."""
    k = np.arange(BLOCK)
    return np.full(BLOCK, BLOCK**-0.5), np.sqrt(2 / BLOCK) * np.cos(np.pi * (2 * k + 1) / (2 * BLOCK))


@cache
def _kernels() -> Floats:
    """[3,8,8] of ORDERS."""
    waves = _waves()
    return np.stack([np.outer(waves[down], waves[across]) for down, across in ORDERS])


def _coefficients(small: Floats) -> Floats:
    """[h-7,w-7,3]: those of the block that begins at each pixel."""
    height, width = (size - BLOCK + 1 for size in small.shape)
    flat, wave = _waves()
    down = {id(one): np.sum([one[k] * small[k : k + height] for k in range(BLOCK)], axis=0) for one in (flat, wave)}
    pairs = ((flat, wave), (wave, flat), (wave, wave))  # ORDERS
    return np.stack([np.sum([across[k] * down[id(one)][:, k : k + width] for k in range(BLOCK)], axis=0)
                     for one, across in pairs], -1)  # fmt: skip


def _pixels(coefficients: Floats) -> Floats:
    """[128,128] of [16,16,3]."""
    blocks = np.tensordot(coefficients, _kernels(), axes=(2, 0))  # [16,16,8,8]
    return blocks.swapaxes(1, 2).reshape(SIDE, SIDE)


@cache
def _known_spectra() -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Fourier transforms [128,65,3] of the known signs, each at its block's first pixel, and of where they are."""
    spread = np.zeros((SIDE, SIDE, len(ORDERS)))
    spread[::BLOCK, ::BLOCK] = _layout()[1].reshape(BLOCKS, BLOCKS, -1)
    return np.fft.rfft2(spread, axes=(0, 1)), np.fft.rfft2(np.abs(spread), axes=(0, 1))


def _decoded(values: Floats) -> bytes | None:
    """The payload whose CRC is right, of the bits as they are or with few of the weakest turned."""
    word = (values > 0).astype(np.int64)
    weakest = np.argsort(np.abs(values))[:FLIPS]
    for turned in range(1 << FLIPS):
        tried = word.copy()
        chosen = weakest[[k for k in range(FLIPS) if turned >> k & 1]]
        tried[chosen] = 1 - tried[chosen]
        payload = np.packbits(tried[:BITS]).tobytes()
        if np.array_equal(_with_crc(payload), tried):
            return payload
    return None


def _small(luma: Floats, height: float, width: float, down: float = 0.0, across: float = 0.0) -> Floats:
    """The picture at a size of [height,width], antialiased, from a shift on; as many whole pixels as there are."""
    if luma.shape == (height, width) and not down and not across:
        return luma
    rows, columns = int(height - down), int(width - across)
    step = (luma.shape[0] / height, luma.shape[1] / width)
    top, left = down * step[0], across * step[1]
    box = (left, top, min(luma.shape[1], left + columns * step[1]), min(luma.shape[0], top + rows * step[0]))
    image = Image.fromarray(luma.astype(np.float32), "F")
    return np.asarray(image.resize((columns, rows), Image.Resampling.BICUBIC, box), np.float64)
