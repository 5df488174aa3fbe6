"""Ratings from 1 to 5 as what they are, ordered: a cumulative logit model with effects of raters and of pictures.

    P(y <= k) = logistic(cut_k - eta),   eta = arm + rater + sample + picture

Arms are fixed effects, against the first; raters, samples and pictures (an arm's edit of a sample) are normal with
spreads that are fitted (McCullagh 1980; Christensen's clmm). The likelihood is Laplace's approximation: Newton's method
over the random effects at every step, their curvature's determinant behind it. Errors come from the curvature of the
approximate likelihood, tests are Wald's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.errors import InputError, LimnerError
from limner.runtime.study.analysis.intervals import Estimate
from limner.runtime.study.analysis.votes import Floats, Ints, Votes
from limner.runtime.study.plans.size import scipy_stats

__all__ = ["OrdinalFit", "fit_ordinal", "fit_ratings"]

NEWTON_STEPS = 60
CLOSE = 1e-9  # of a Newton step
LEAST_SPREAD = 1e-3  # below it a spread is none
FLAT_SPREAD = 0.03  # below it the likelihood hardly knows of it: it stays where it is, and has no error
STEP = 1e-4  # of differences
POLISH_STEPS, FLAT, FLAT_ENOUGH = 8, 1e-4, 0.05  # slopes of the log-likelihood
AT_LEAST = 1e-300
WAYS = ("rater", "sample", "picture")


@dataclass(frozen=True)
class OrdinalFit:
    """A fitted model."""

    arms: tuple[str, ...]  # those with ratings; the first has the effect 0
    effects: Floats  # [arms]
    covariance: Floats  # [arms, arms] of the effects
    cuts: Floats
    spreads: dict[str, float]  # standard deviations of the random effects
    log_likelihood: float
    answers: int

    def difference(self, first: str, second: str) -> Estimate:
        """Effect of one arm less that of another, on the logistic scale, with Wald's interval and p."""
        a, b = self.arms.index(first), self.arms.index(second)
        value = float(self.effects[a] - self.effects[b])
        variance = float(self.covariance[a, a] + self.covariance[b, b] - 2 * self.covariance[a, b])
        error = float(np.sqrt(max(variance, 0.0)))
        p = float(2 * scipy_stats().norm.sf(abs(value) / error)) if error > 0 else 1.0
        return Estimate(value, value - 1.959964 * error, value + 1.959964 * error, self.answers, p)


def fit_ratings(votes: Votes) -> OrdinalFit:
    """Fit ratings of a study. InputError where there is nothing to compare."""
    there = [k for k in range(len(votes.arms)) if (votes.arm == k).any()]
    if len(there) < 2:
        raise InputError("ratings", f"of {len(there)} arms", "ratings of two arms or more")
    if len(np.unique(votes.value)) < 2:
        raise InputError("ratings", f"all {votes.value[0]:.0f}", "ratings that differ: nothing can be compared")
    arm = np.searchsorted(there, votes.arm)
    groups = {"rater": votes.rater, "sample": votes.sample, "picture": votes.picture}
    fit = fit_ordinal(votes.value, arm, {way: groups[way] for way in WAYS if _tells(groups[way], groups)})
    return _named(fit, tuple(votes.arms[k] for k in there))


def _tells(one: Ints, groups: Mapping[str, Ints]) -> bool:
    """A way of grouping answers that says something: some group has two answers, and there are three groups."""
    counts = np.unique(one, return_counts=True)[1]
    return bool(counts.max() > 1 and len(counts) > 2)


def fit_ordinal(value: Floats, arm: Ints, groups: Mapping[str, Ints]) -> OrdinalFit:
    """Fit ordered values [N] by arms [N] (0..A-1, all there) with random effects of groups [N] each.

    Raises LimnerError where no optimum is found.
    """
    levels = np.unique(value)
    y = np.searchsorted(levels, value)
    model = _Model(y, len(levels), arm, int(arm.max()) + 1, dict(groups))
    start = model.start()
    bounds = [(None, None)] * model.fixed + [(np.log(LEAST_SPREAD), 3.0)] * len(groups)
    found = _optimize()(model.negative, start, method="L-BFGS-B", bounds=bounds, jac=model.slope,
                        options={"maxiter": 300, "ftol": 1e-10, "gtol": 1e-3})  # fmt: skip
    free = [k for k in range(len(start)) if k < model.fixed or found.x[k] > np.log(FLAT_SPREAD)]
    curvature = _curvature(model.gradient, found.x, free)
    x = _polished(model, found.x, free, curvature)
    if x is None:
        raise LimnerError("the model of ratings found no optimum: too few ratings for so many arms")
    covariance = np.zeros((len(x), len(x)))
    covariance[np.ix_(free, free)] = np.linalg.pinv(curvature)
    cuts, effects, spreads = model.parts(x)
    own = slice(len(cuts), len(cuts) + len(effects) - 1)
    around = np.zeros((len(effects), len(effects)))
    around[1:, 1:] = covariance[own, own]
    named = {name: float(one) if one > FLAT_SPREAD else 0.0 for name, one in zip(groups, spreads, strict=True)}
    return OrdinalFit(
        tuple(map(str, range(len(effects)))), effects, around, cuts, named, -model.negative(x), len(value)
    )


def _polished(model: "_Model", x: Floats, free: Sequence[int], curvature: Floats) -> Floats | None:
    """Newton's method for the parameters, by the curvature of where it begins; None where no optimum is near."""
    for _ in range(POLISH_STEPS):
        slope = model.gradient(x)[list(free)]
        if not np.isfinite(slope).all():
            return None
        if np.abs(slope).max() < FLAT:
            return x
        step = np.zeros(len(x))
        step[list(free)] = np.linalg.pinv(curvature) @ slope
        x = x - np.clip(step, -0.5, 0.5)
    return x if np.abs(model.gradient(x)[list(free)]).max() < FLAT_ENOUGH else None


class _Model:
    """The negative log-likelihood of parameters [cut, log gaps, effects of arms 1.., log spreads]."""

    def __init__(self, y: Ints, levels: int, arm: Ints, arms: int, groups: dict[str, Ints]) -> None:
        self.y, self.arm, self.arms, self.cut_count = y, arm, arms, levels - 1
        self.fixed = self.cut_count + arms - 1
        self.places = [np.unique(one, return_inverse=True)[1] for one in groups.values()]
        self.counts = [int(one.max()) + 1 for one in self.places]
        order = np.argsort(self.counts, kind="stable")[::-1]
        self.order = [int(k) for k in order]  # the largest first: its block of the curvature is diagonal
        self.last: list[Floats] = [np.zeros(count) for count in self.counts]

    def start(self) -> Floats:
        """Cuts at the shares of the levels, no effects, spreads of a half."""
        shares = np.cumsum(np.bincount(self.y, minlength=self.cut_count + 1))[:-1] / len(self.y)
        cuts = np.log(shares / (1 - shares))
        gaps = np.log(np.maximum(np.diff(cuts), 0.05))
        return np.concatenate([cuts[:1], gaps, np.zeros(self.arms - 1), np.full(len(self.places), np.log(0.5))])

    def parts(self, x: Floats) -> tuple[Floats, Floats, Floats]:
        """Cuts, effects of all arms, spreads."""
        cuts = x[0] + np.concatenate([[0.0], np.cumsum(np.exp(x[1 : self.cut_count]))])
        return cuts, np.concatenate([[0.0], x[self.cut_count : self.fixed]]), np.exp(x[self.fixed :])

    def negative(self, x: Floats) -> float:
        """Laplace's approximation of minus the log-likelihood."""
        cuts, effects, spreads = self.parts(x)
        base = effects[self.arm]
        u = [one.copy() for one in self.last]
        value = np.inf
        for _ in range(NEWTON_STEPS):
            log_p, slope, weight = self._terms(cuts, self._eta(base, spreads, u))
            value, step, half_log_det = self._newton(log_p, slope, weight, spreads, u)
            largest = max((float(np.abs(one).max()) for one in step), default=0.0)
            if largest < CLOSE:
                break
            scale = 1.0 if largest < 3 else 3 / largest
            u = [one + scale * move for one, move in zip(u, step, strict=True)]
        self.last = u if np.isfinite(value) else [np.zeros(count) for count in self.counts]
        return value + half_log_det

    def slope(self, x: Floats) -> Floats:
        """The gradient by differences to one side: the way to the optimum, not the optimum."""
        here = self.negative(x)
        return np.array([(self.negative(x + move) - here) / STEP for move in STEP * np.eye(len(x))])

    def gradient(self, x: Floats) -> Floats:
        """By central differences: Newton's method ends far closer than they are wide."""
        moves = STEP * np.eye(len(x))
        return np.array([(self.negative(x + move) - self.negative(x - move)) / (2 * STEP) for move in moves])

    def _eta(self, base: Floats, spreads: Floats, u: Sequence[Floats]) -> Floats:
        found = base.copy()
        for spread, place, one in zip(spreads, self.places, u, strict=True):
            found += spread * one[place]
        return found

    def _terms(self, cuts: Floats, eta: Floats) -> tuple[Floats, Floats, Floats]:
        """log p of every answer, its slope in eta and minus its curvature (log-concave, so never below 0)."""
        high = _logistic(np.concatenate([cuts, [np.inf]])[self.y] - eta)
        low = _logistic(np.concatenate([[-np.inf], cuts])[self.y] - eta)
        return np.log(np.maximum(high - low, AT_LEAST)), high + low - 1, high * (1 - high) + low * (1 - low)

    def _newton(
        self, log_p: Floats, slope: Floats, weight: Floats, spreads: Floats, u: Sequence[Floats]
    ) -> tuple[float, list[Floats], float]:
        """The penalized negative, a Newton step for every group, and half the log-determinant of the curvature."""
        value = -float(log_p.sum()) + sum(0.5 * float(one @ one) for one in u)
        if not self.places:
            return value, [], 0.0
        slopes = [spread * np.bincount(place, slope, count) - one
                  for spread, place, count, one in zip(spreads, self.places, self.counts, u, strict=True)]  # fmt: skip
        first, rest = self.order[0], self.order[1:]
        diagonal = 1 + spreads[first] ** 2 * np.bincount(self.places[first], weight, self.counts[first])
        if not rest:
            return value, [slopes[0] / diagonal], 0.5 * float(np.log(diagonal).sum())
        cross = self._cross(weight, spreads)  # [largest, others]
        others = self._others(weight, spreads) - cross.T @ (cross.multiply(1 / diagonal[:, None])).toarray()
        factor = np.linalg.cholesky(others)
        right = np.concatenate([slopes[k] for k in rest]) - cross.T @ (slopes[first] / diagonal)
        solved = np.linalg.solve(factor.T, np.linalg.solve(factor, right))
        steps: list[Floats] = [np.zeros(0)] * len(self.places)
        steps[first] = (slopes[first] - cross @ solved) / diagonal
        for k, part in zip(rest, np.split(solved, np.cumsum([self.counts[k] for k in rest])[:-1]), strict=True):
            steps[k] = part
        return value, steps, 0.5 * float(np.log(diagonal).sum()) + float(np.log(np.diag(factor)).sum())

    def _cross(self, weight: Floats, spreads: Floats) -> Any:
        first = self.order[0]
        blocks = [
            _sparse(self.places[first], self.places[k], spreads[first] * spreads[k] * weight, self.counts[first],
                    self.counts[k])
            for k in self.order[1:]
        ]  # fmt: skip
        return _scipy_sparse().hstack(blocks).tocsr()

    def _others(self, weight: Floats, spreads: Floats) -> Floats:
        rest = self.order[1:]
        rows = [
            np.hstack([
                _sparse(self.places[a], self.places[b], spreads[a] * spreads[b] * weight, self.counts[a],
                        self.counts[b]).toarray() + (np.eye(self.counts[a]) if a == b else 0.0)
                for b in rest
            ])
            for a in rest
        ]  # fmt: skip
        return np.vstack(rows)


def _named(fit: OrdinalFit, arms: tuple[str, ...]) -> OrdinalFit:
    return OrdinalFit(arms, fit.effects, fit.covariance, fit.cuts, fit.spreads, fit.log_likelihood, fit.answers)


def _curvature(gradient: Callable[[Floats], Floats], x: Floats, free: Sequence[int]) -> Floats:
    found = np.empty((len(free), len(free)))
    for row, k in enumerate(free):
        move = np.zeros(len(x))
        move[k] = 10 * STEP
        found[row] = (gradient(x + move) - gradient(x - move))[list(free)] / (20 * STEP)
    return (found + found.T) / 2


def _logistic(x: Floats) -> NDArray[np.float64]:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _sparse(rows: Ints, columns: Ints, values: Floats, height: int, width: int) -> Any:
    return _scipy_sparse().coo_matrix((values, (rows, columns)), shape=(height, width)).tocsr()


def _scipy_sparse() -> Any:
    scipy_stats()  # says what to install
    from scipy import sparse

    return sparse


def _optimize() -> Any:
    scipy_stats()
    from scipy.optimize import minimize

    return minimize
