"""What changed in a picture, beside what should have: distances to the true edit, and change by place.

For an avatar the true edited picture can be drawn (samples with `truth`). Of several (three beards, six kinds of long
hair) the nearest counts, by mean squared error. The mask is exact too: where any true edit differs from the source.

    psnr, ssim, colour    of the edit to the nearest true edit: dB; Wang et al. 2004; mean CIEDE2000
    features              cosine distance of the judge's features to it (ours: neither LPIPS nor CLIPScore)
    inside, outside       mean |edit - source| over colours, of 255, in the mask and out of it
    background            edit to source where nothing should change, in both usual ways: "all" with everything inside
                          the mask set to 0 in both pictures and the mean over all pixels, as PIE-Bench's code does, so
                          that a large mask flatters; "alone" over the background's own pixels

scikit-image, of the extra `study`, has SSIM and CIEDE2000.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.errors import InputError, LimnerError

__all__ = [
    "Background",
    "Change",
    "Mask",
    "Measures",
    "background",
    "change",
    "mean_measures",
    "mean_values",
    "measure",
    "true_mask",
]

ImageU8 = NDArray[np.uint8]
Mask = NDArray[np.bool_]
DIFFERS = 8  # of 255, in any colour: below it two drawings are the same up to their edges' blending
EQUAL_DB = 99.0


@dataclass(frozen=True)
class Change:
    """Mean change of a picture in a mask and out of it, of 255; None where there is no such place."""

    inside: float | None
    outside: float | None


@dataclass(frozen=True)
class Background:
    """The edit against the source where nothing should change."""

    psnr_all: float  # dB
    psnr_alone: float | None  # None where the mask is everything
    mse_all: float  # of pictures in [0,1]
    mse_alone: float | None
    ssim_all: float
    ssim_alone: float | None


@dataclass(frozen=True)
class Measures:
    """One edit."""

    psnr: float
    ssim: float
    colour: float
    features: float | None
    inside: float | None
    outside: float | None
    psnr_all: float
    psnr_alone: float | None
    mse_all: float
    mse_alone: float | None
    ssim_all: float
    ssim_alone: float | None


def measure(
    source: ImageU8,  # [H,W,3]
    edited: ImageU8,
    truths: Sequence[ImageU8],
    features: Sequence[NDArray[np.float32]] | None = None,  # of the edit and of each true edit, [F]
) -> Measures:
    """All measures of an edit whose true pictures are known. InputError for pictures of other sizes, or no truth."""
    if not truths:
        raise InputError("truth", "no picture", "one true edit or more")
    for one in (edited, *truths):
        _same(source, one)
    mask = true_mask(source, truths)
    errors = [_mse(edited, one) for one in truths]
    nearest = int(np.argmin(errors))
    distance = None
    if features is not None:
        first, second = features[0].astype(np.float64), features[1 + nearest].astype(np.float64)
        lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
        distance = 1.0 - float(first @ second) / max(lengths, 1e-12)
    return Measures(
        psnr=_psnr(errors[nearest]),
        ssim=float(_ssim_map(edited, truths[nearest]).mean()),
        colour=_colour(edited, truths[nearest]),
        features=distance,
        **asdict(change(source, edited, mask)),
        **asdict(background(source, edited, mask)),
    )


def true_mask(source: ImageU8, truths: Sequence[ImageU8]) -> Mask:
    """Where any of the true edits differs from the source, bool [H,W]."""
    given = source.astype(np.int16)
    different = [np.abs(one.astype(np.int16) - given).max(axis=2) > DIFFERS for one in truths]
    found: Mask = np.any(different, axis=0)
    return found


def change(source: ImageU8, edited: ImageU8, mask: Mask) -> Change:
    """The mean change by place."""
    _same(source, edited)
    difference = np.abs(edited.astype(np.float64) - source).mean(axis=2)
    parts = [float(difference[one].mean()) if one.any() else None for one in (mask, ~mask)]
    return Change(*parts)


def background(source: ImageU8, edited: ImageU8, mask: Mask) -> Background:
    """Both ways of the background's figures; `mask` is true where the edit may change the picture."""
    _same(source, edited)
    if mask.shape != source.shape[:2]:
        raise InputError("mask", f"{list(mask.shape)}", f"{list(source.shape[:2])}, the picture's")
    outside = ~mask
    blank = [np.where(outside[..., None], one, 0).astype(np.uint8) for one in (source, edited)]
    everywhere = _mse(*blank)
    if not outside.any():
        return Background(_psnr(everywhere), None, everywhere, None, float(_ssim_map(*blank).mean()), None)
    squared = ((edited.astype(np.float64) - source) / 255) ** 2
    alone = float(squared[outside].mean())
    return Background(
        psnr_all=_psnr(everywhere),
        psnr_alone=_psnr(alone),
        mse_all=everywhere,
        mse_alone=alone,
        ssim_all=float(_ssim_map(*blank).mean()),
        ssim_alone=float(_ssim_map(source, edited)[outside].mean()),
    )


def mean_measures(rows: Sequence[Measures]) -> dict[str, float | None]:
    """The mean of each figure over the edits that have it."""
    return mean_values([asdict(row) for row in rows])


def mean_values(rows: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """The same of mappings."""
    found: dict[str, float | None] = {}
    for name in rows[0]:
        kept = [value for row in rows if (value := row[name]) is not None]
        found[name] = float(np.mean(kept)) if kept else None
    return found


def _same(first: ImageU8, second: ImageU8) -> None:
    for one in (first, second):
        if one.dtype != np.uint8 or one.ndim != 3 or one.shape[2] != 3 or one.shape != first.shape:
            raise InputError("picture", f"{one.dtype} {list(one.shape)}", f"uint8 {list(first.shape)}")


def _mse(first: ImageU8, second: ImageU8) -> float:
    """Of pictures in [0,1]."""
    return float(np.mean(((first.astype(np.float64) - second) / 255) ** 2))


def _psnr(mse: float) -> float:
    return EQUAL_DB if mse < 1e-9 else float(-10 * np.log10(mse))


def _ssim_map(first: ImageU8, second: ImageU8) -> NDArray[np.float64]:
    """[H,W]: Gaussian windows of 1.5 pixels, as published, the mean over colours."""
    full = _skimage("metrics").structural_similarity(
        first, second, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        full=True,
    )[1]  # fmt: skip
    found: NDArray[np.float64] = full.mean(axis=2)
    return found


def _colour(first: ImageU8, second: ImageU8) -> float:
    colours = _skimage("color")
    return float(colours.deltaE_ciede2000(colours.rgb2lab(first), colours.rgb2lab(second)).mean())


def _skimage(part: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"skimage.{part}")
    except ImportError as reason:
        raise LimnerError("measures of pictures need scikit-image: pip install 'limner[study]'") from reason
