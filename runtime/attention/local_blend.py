"""What may change in the picture: the mask of local edits, from the attention of some words.

Prompt-to-Prompt (Hertz et al. 2022, section 3.2, "Local editing"), as the published LocalBlend does it (with the start
step and the subtracted words of null_text_w_ptp.ipynb), after every step of the sampler:

    m   = max-pool 3x3 of the words' attention, after the edit, averaged over heads and layers, summed over the steps
    B   = m / max m > threshold                       at the size of the latents, nearest neighbour
    B   = B of the source's words or B of the edit's words, and not the same of the subtracted words (not pooled)
    x   = x_source + B (x - x_source)

Places drawn by hand go on top: B = (B or added) and not removed. Without words, B is what was added, or everything
where something was only removed.

A map that is nowhere above 0 (a side without blend words, or one whose words have a negative weight) masks nothing;
upstream divides by that maximum. Upstream's first version also fails for more than one edit; here every edit of a
batch has its own words and settings.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limner.runtime.methods.drawing import DrawnMasks

__all__ = ["BlendSettings", "LocalBlend", "nearest_rows"]

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class BlendSettings:
    """Which maps bound an edit, when, and how much attention counts."""

    words: int | None  # the map of the words, an index into K; None where places were drawn and no words named
    subtract: int | None = None  # the map of the words to subtract
    start: int = 0  # the first step after which latents are blended
    threshold: float = 0.3
    subtract_threshold: float = 0.3
    drawn: DrawnMasks | None = None


class LocalBlend:
    """Adds up the maps of one edit and keeps its latents outside the mask as the source's."""

    def __init__(self, settings: BlendSettings) -> None:
        self.settings = settings
        self.mask: BoolArray | None = None  # [h,w] of the last blend, true where the edit shows
        self._sum: FloatArray | None = None

    def blend(
        self,
        step: int,
        source: FloatArray,  # [C,h,w] after the sampler's step
        edit: FloatArray,  # [C,h,w]
        maps: FloatArray | None,  # [2,K,h_a,w_a] of this step: the source's and the edit's; None without words
    ) -> FloatArray:
        """Return the edit's latents [C,h,w] with the source's outside the mask."""
        settings = self.settings
        if maps is not None:
            self._sum = maps.astype(np.float32) if self._sum is None else self._sum + maps
        if step < settings.start:
            return edit
        mask = self._of_words((source.shape[-2], source.shape[-1]))
        if settings.drawn is not None:
            mask = settings.drawn.on(mask)
        self.mask = mask
        blended: FloatArray = source + mask.astype(np.float32) * (edit - source)
        return blended

    def _of_words(self, size: tuple[int, int]) -> BoolArray:
        """The mask [h,w] of the words; without words nothing, or everything where places were only taken away."""
        settings = self.settings
        if settings.words is None or self._sum is None:
            return np.full(size, settings.drawn is not None and settings.drawn.add is None)
        mask = _mask(_max_pool(self._sum[:, settings.words]), size, settings.threshold)
        if settings.subtract is not None:
            mask &= ~_mask(self._sum[:, settings.subtract], size, settings.subtract_threshold)
        return mask


def nearest_rows(size: int, wanted: int) -> NDArray[np.int64]:
    """Return which of `size` rows each of `wanted` rows is: nearest neighbour as torch's interpolate."""
    rows: NDArray[np.int64] = np.minimum(np.arange(wanted) * size // wanted, size - 1)
    return rows


def _mask(maps: FloatArray, size: tuple[int, int], threshold: float) -> BoolArray:
    """Maps [2,h_a,w_a] of the source and the edit -> bool [h,w], true where either is above the threshold."""
    scaled = maps[:, nearest_rows(maps.shape[1], size[0])][:, :, nearest_rows(maps.shape[2], size[1])]
    largest = scaled.max(axis=(1, 2), keepdims=True)
    relative = scaled / np.where(largest > 0, largest, 1)
    above: BoolArray = ((relative > np.float32(threshold)) & (largest > 0)).any(axis=0)
    return above


def _max_pool(maps: FloatArray) -> FloatArray:
    """Maximum over 3 x 3 neighbours, stride 1: [2,h,w] -> [2,h,w]."""
    height, width = maps.shape[1:]
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    shifted = [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    pooled: FloatArray = np.max(shifted, axis=0)
    return pooled
