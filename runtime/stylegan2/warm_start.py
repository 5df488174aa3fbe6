"""Where a walk in S begins and which channels it may move, from the channels' relevance for the text.

A gradient at one picture finds changes that please CLIP and that nobody sees. The relevance of a channel is such a
gradient too, over 100 pictures and steps of several standard deviations (StyleCLIP, section 6.1), so what it holds is
seen on any picture. Hence, r = relevance dt as in `global_directions`:

    v0 = start r / max|r|     where |r| >= start_beta, else 0: begin where the global direction leads, then optimise;
                              predict first and descend from there, as Zhu et al. 2016 (Generative visual manipulation
                              on the natural image manifold, section 3.3) invert pictures
    v_c stays 0               where |r_c| < relevance: StyleCLIP's beta (section 6.2), held during the whole walk

A threshold that no channel reaches counts as half the largest |r|: any words leave some channels.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from limner.runtime.stylegan2.global_directions import channel_direction

__all__ = ["warm_start"]

FloatArray = NDArray[np.float32]


def warm_start(
    relevance: FloatArray,  # [S,C] unit rows
    directions: Sequence[FloatArray],  # each [C] unit, one a picture
    movable: NDArray[np.bool_],  # [S]
    *,
    start: float,  # standard deviations that the strongest channel begins with
    start_beta: float,  # |r| of a channel that begins away from 0
    least: float,  # |r| of a channel that may move at all
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return v0 [N,S] in standard deviations, and bool [N,S], true for channels that may move.

    Raises InputError naming prompts.text if no channel has to do with it.
    """
    sigma = np.ones(len(relevance), np.float32)
    v, free = [], []
    for direction in directions:
        size = np.abs(np.where(movable, relevance @ direction, 0))
        begins, moves = (_reached(threshold, size) for threshold in (max(start_beta, least), least))
        v.append(np.float32(start) * channel_direction(relevance, sigma, direction, movable, beta=begins))
        free.append(movable & (size >= moves))
    return np.stack(v), np.stack(free)


def _reached(threshold: float, size: NDArray[np.floating]) -> float:
    """Return the threshold, or half the largest |r| where no channel reaches it."""
    largest = float(size.max(initial=0))
    return threshold if threshold <= largest else largest / 2
