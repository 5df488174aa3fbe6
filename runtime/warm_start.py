"""Where a walk in S begins and which channels it may move, from the channels' relevance for the text.

A gradient at one picture finds changes that please CLIP and that nobody sees. The relevance of a channel is such a
gradient too, over 100 pictures and steps of several standard deviations (StyleCLIP, section 6.1), so what it holds is
seen on any picture. Hence, r = relevance dt as in `global_directions`:

    v0 = start r / max|r|     where |r| >= start_beta, else 0: begin where the global direction leads, then optimise;
                              predict first and descend from there, as Zhu et al. 2016 (Generative visual manipulation
                              on the natural image manifold, section 3.3) invert pictures
    v_c stays 0               where |r_c| < relevance: StyleCLIP's beta (section 6.2), held during the whole walk
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from limner.runtime.errors import InputError
from limner.runtime.global_directions import channel_direction

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

    Raises InputError naming the parameter, and the largest that would do, if no channel is left.
    """
    beta = max(start_beta, least) if start > 0 else least
    sigma = np.ones(len(relevance), np.float32)
    try:
        rows = [channel_direction(relevance, sigma, one, movable, beta=beta) for one in directions]
    except InputError as reason:
        if reason.field != "beta":
            raise
        field = "parameters.start_beta" if beta > least else "parameters.relevance"
        raise InputError(field, reason.given, reason.allowed, reason.hint) from reason
    free = movable & (np.abs(np.stack(directions) @ relevance.T) >= least)
    return np.float32(start) * np.stack(rows), free
