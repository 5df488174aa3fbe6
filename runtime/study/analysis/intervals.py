"""Means of answers and their intervals, where answers of one rater and answers about one sample go together.

The variance of a mean over crossed raters and samples is V_rater + V_sample - V_answer, each a bootstrap that draws
whole raters, whole samples or single answers (Cameron, Gelbach and Miller 2011; drawing raters and samples together,
Owen's pigeonhole bootstrap of 2007, counts the noise of answers three times). Student's t with the smaller number of
clusters less one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limner.runtime.study.analysis.votes import Floats, Ints, Votes
from limner.runtime.study.plans.size import scipy_stats

__all__ = ["Estimate", "difference_of", "mean_of"]

DRAWS = 2000


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float
    answers: int
    p: float = 1.0  # of a value of 0


def mean_of(votes: Votes, arm: int, seed: int = 0) -> Estimate | None:
    """The mean answer about one arm; None if there is no answer."""
    return _estimate(votes, (votes.arm == arm).astype(float), None, seed)


def difference_of(votes: Votes, first: int, second: int, seed: int = 0) -> Estimate | None:
    """Mean of the first arm less that of the second; None if one has no answer."""
    return _estimate(votes, (votes.arm == first).astype(float), (votes.arm == second).astype(float), seed)


def _estimate(votes: Votes, first: Floats, second: Floats | None, seed: int) -> Estimate | None:
    members = [first] if second is None else [first, second]
    if any(not one.any() for one in members):
        return None
    used = np.sum(members, axis=0) > 0
    value, members = votes.value[used], [one[used] for one in members]
    raters, samples = votes.rater[used], votes.sample[used]
    mean = _statistic(np.ones((1, len(value))), value, members)[0]
    rng = np.random.default_rng(seed)
    by = [_drawn(rng, one, value, members) for one in (raters, samples, np.arange(len(value)))]
    variance = max(by[0] + by[1] - by[2], by[0], by[1]) if len(value) > 1 else 0.0
    clusters = min(len(np.unique(raters)), len(np.unique(samples)))
    if clusters < 2 or len(value) < 3:
        return Estimate(float(mean), -np.inf, np.inf, len(value))
    error, t = float(np.sqrt(variance)), scipy_stats().t
    half = float(t.ppf(0.975, clusters - 1)) * error
    p = 1.0 if error == 0 else float(2 * t.sf(abs(mean) / error, clusters - 1))
    return Estimate(float(mean), float(mean - half), float(mean + half), len(value), p)


def _drawn(rng: np.random.Generator, groups: Ints, value: Floats, members: list[Floats]) -> float:
    """The variance of the statistic when whole groups are drawn."""
    _, places = np.unique(groups, return_inverse=True)
    count = int(places.max()) + 1
    if count < 2:
        return 0.0
    weights = rng.multinomial(count, np.full(count, 1 / count), DRAWS).astype(float)
    found = _statistic(weights, value, members, places)
    return float(np.nanvar(found, ddof=1)) * count / (count - 1)


def _statistic(
    weights: Floats, value: Floats, members: list[Floats], places: NDArray[np.int64] | None = None
) -> Floats:
    """Weighted means, or their difference: weights [draws, groups], places [N] of the answers' groups."""
    found: list[Floats] = []
    for one in members:
        if places is None:
            top, bottom = weights @ (one * value), weights @ one
        else:
            count = weights.shape[1]
            top = weights @ np.bincount(places, one * value, count)
            bottom = weights @ np.bincount(places, one, count)
        found.append(np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0))
    return found[0] if len(found) == 1 else found[0] - found[1]
