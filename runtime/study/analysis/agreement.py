"""How far raters agree: Krippendorff's alpha (2004) over pictures that several raters answered, by `krippendorff`.

1 is full agreement, 0 what chance gives. Pictures that one rater answered say nothing about it.
"""

from typing import Literal

import numpy as np

from limner.runtime.errors import LimnerError
from limner.runtime.study.analysis.votes import Votes

__all__ = ["alpha"]


def alpha(votes: Votes, level: Literal["nominal", "ordinal"]) -> float | None:
    """Alpha of answers to one question; None where no picture has two, or all answers are the same."""
    try:
        import krippendorff
    except ImportError as reason:
        raise LimnerError("agreement needs krippendorff: pip install 'limner[study]'") from reason
    if not len(votes):
        return None
    both = zip(votes.picture, votes.other, strict=True)
    pictures = np.unique([f"{one} {other}" for one, other in both], return_inverse=True)[1]
    table = np.full((int(votes.rater.max()) + 1, int(pictures.max()) + 1), np.nan)
    table[votes.rater, pictures] = votes.value
    several = np.sum(~np.isnan(table), axis=0) > 1
    if not several.any() or len(np.unique(table[:, several][~np.isnan(table[:, several])])) < 2:
        return None
    return float(krippendorff.alpha(reliability_data=table[:, several], level_of_measurement=level))
