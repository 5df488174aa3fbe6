"""How many pictures and votes a difference needs: the power of the tests that a study is analysed by.

- success: two arms on the same pictures, McNemar's exact test. Power by summing over all tables: D ~ Bin(n, p10 + p01)
  pictures differ, X ~ Bin(D, p10 / (p10 + p01)) of them in favour of the first.
- choice: which of two pictures is better, several votes a pair. Votes of one pair agree (beta-binomial, correlation
  rho); a t test on the pairs' shares. Power by simulation.
- rating: 1 to 5 by raters who all see both arms' pictures. Latent normal ratings with effects of rater and picture, cut
  at the quintiles; a paired t test on the pictures' mean differences. Power by simulation.

scipy, of the extra `study`, has the distributions.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.errors import InputError, LimnerError

__all__ = ["choice_power", "mcnemar_power", "needed", "rating_power", "scipy_stats"]

Floats = NDArray[np.float64]
MOST = 100_000  # pictures
SIMULATED = 2000  # studies
STAYS = 5  # further sizes that keep the power: exact tests move in steps
CUTS = (-0.8416, -0.2533, 0.2533, 0.8416)  # quintiles of a normal variable


def scipy_stats() -> Any:
    """scipy.stats; LimnerError with what to install where there is none."""
    try:
        from scipy import stats
    except ImportError as reason:
        raise LimnerError("sizes and tests need scipy: pip install 'limner[study]'") from reason
    return stats


def mcnemar_power(pictures: int, first: float, second: float, together: float = 0.3, alpha: float = 0.05) -> float:
    """The power of McNemar's exact two-sided test for success rates `first` and `second` on the same pictures.

    `together` is the correlation (phi) of the two successes. InputError for rates that cannot have it.
    """
    stats = scipy_stats()
    both = first * second + together * np.sqrt(first * (1 - first) * second * (1 - second))
    ten, one = first - both, second - both
    if min(both, ten, one, 1 - both - ten - one) < -1e-12:
        given = f"{together:g} between rates of {first:g} and {second:g}"
        raise InputError("together", given, "a correlation that two such rates can have", "0 is none")
    if ten + one <= 0:
        return 0.0
    differ = np.arange(pictures + 1)
    weight = stats.binom.pmf(differ, pictures, ten + one)
    most = stats.binom.ppf(alpha / 2, differ, 0.5) - 1  # the largest x with P(X <= x) <= alpha / 2, or one less
    most = np.where(stats.binom.cdf(most + 1, differ, 0.5) <= alpha / 2, most + 1, most)
    share = max(0.0, ten) / (ten + one)
    found = stats.binom.cdf(most, differ, share) + stats.binom.sf(differ - most - 1, differ, share)
    return float(np.sum(weight * np.where(most >= 0, found, 0.0)))


def choice_power(
    pictures: int, votes: int, share: float, rho: float = 0.2, alpha: float = 0.05, seed: int = 0
) -> float:
    """The power to see that one arm is preferred with probability `share`, `votes` on each of `pictures` pairs."""
    rng = np.random.default_rng([seed, pictures, votes])
    if rho > 0:
        scale = 1 / rho - 1
        leaning = rng.beta(share * scale, (1 - share) * scale, (SIMULATED, pictures))
    else:
        leaning = np.full((SIMULATED, pictures), share)
    return _t_power(rng.binomial(votes, leaning) / votes - 0.5, alpha)


def rating_power(
    pictures: int,
    raters: int,
    shift: float,  # of the latent rating, in standard deviations of one rating's noise
    rater_spread: float = 0.6,  # standard deviations of the raters' and the pictures' effects, likewise
    picture_spread: float = 0.6,
    alpha: float = 0.05,
    seed: int = 0,
) -> float:
    """The power to see that one arm is rated higher, every rater seeing every picture by both arms."""
    rng = np.random.default_rng([seed, pictures, raters])
    total = np.sqrt(1 + rater_spread**2 + picture_spread**2)
    differences = np.empty((SIMULATED, pictures))
    for run in range(SIMULATED):
        rater, picture = rater_spread * rng.standard_normal((raters, 1)), picture_spread * rng.standard_normal(pictures)
        ratings = [
            np.searchsorted(CUTS, (rater + picture + effect + rng.standard_normal((raters, pictures))) / total)
            for effect in (shift / 2, -shift / 2)
        ]
        differences[run] = (ratings[0] - ratings[1]).mean(0)
    return _t_power(differences, alpha)


def needed(power_of: Callable[[int], float], power: float = 0.8, least: int = 4) -> int:
    """The smallest number of pictures with that power, which some more keep; InputError where none up to MOST has."""
    high = least
    while power_of(high) < power:
        high *= 2
        if high > MOST:
            raise InputError(
                "difference", "one too small to be seen", f"one that {MOST} pictures show", "or less power"
            )
    low = max(least, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle) >= power else (middle + 1, high)
    while any(power_of(low + more) < power for more in range(1, STAYS + 1)):
        low += 1
    return low


def _t_power(values: Floats, alpha: float) -> float:
    """The share of rows [studies, pictures] whose mean is seen to differ from 0."""
    count = values.shape[1]
    deviation = values.std(1, ddof=1) / np.sqrt(count)
    t = np.divide(values.mean(1), deviation, out=np.zeros(len(values)), where=deviation > 0)
    limit = scipy_stats().t.ppf(1 - alpha / 2, count - 1)
    return float(np.mean(np.abs(t) > limit))
