"""Places drawn by hand, an option of texts of methods that keep an edit to a mask (Prompt-to-Prompt, SEGA)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limner.runtime.pictures.drawn import read_drawn, touched
from limner.runtime.settings import Settings, setting

__all__ = ["DrawnMasks", "DrawnOptions"]

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class DrawnOptions(Settings):
    """Masks of the whole picture; each is stretched to it, and a latent is marked where any part of it is."""

    mask_add: str | None = setting(None, "a place that may change as well: PNG in base64, white where it is")
    mask_remove: str | None = setting(None, "a place that stays as it is, the same way")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mask_add", "mask_remove"):
            if getattr(self, name) is not None:
                read_drawn(f"{self.where}.{name}", getattr(self, name))

    @property
    def drawn(self) -> "DrawnMasks | None":
        """The masks; None where nothing was drawn."""
        if self.mask_add is None and self.mask_remove is None:
            return None
        names = ("mask_add", "mask_remove")
        read = [None if (text := getattr(self, name)) is None else read_drawn(name, text) for name in names]
        return DrawnMasks(read[0], read[1])


@dataclass(frozen=True, eq=False)
class DrawnMasks:
    """Where an edit may show although its own mask does not say so, and where it may not although it does."""

    add: BoolArray | None  # [H,W]
    remove: BoolArray | None

    def on(self, mask: NDArray[np.generic]) -> BoolArray:
        """A mask [..., h, w] of 0 and 1 or bool, with what was drawn: (mask or add) and not remove."""
        found: BoolArray = mask.astype(bool)
        size = (found.shape[-2], found.shape[-1])
        if self.add is not None:
            found = found | touched(self.add, size)
        if self.remove is not None:
            found = found & ~touched(self.remove, size)
        return found
