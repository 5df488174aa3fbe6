"""Where each word of a prompt looks, as a result holds it; how they are made and drawn is in `attention.maps`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["AttentionMaps"]

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """The maps of one prompt's words."""

    prompt: str
    words: tuple[str, ...]
    steps: FloatArray  # [S,W,h_a,w_a]
    timesteps: tuple[float, ...]  # [S], what the UNet was told

    @property
    def mean(self) -> FloatArray:
        """The mean over the steps, [W,h_a,w_a]."""
        mean: FloatArray = self.steps.mean(axis=0)
        return mean
