"""Which of two is better: Bradley and Terry's strengths (1952), with what the left place is worth (Davidson and Beaver
1977).

    P(left is better) = logistic(strength_left - strength_right + left)

Strengths sum to 0. Errors hold for answers of one rater and answers about one sample that go together: the sandwich
with the scores summed by rater, by sample and by answer, V_rater + V_sample - V_answer (Cameron, Gelbach and Miller
2011). An arm that always wins or always loses has no strength that is finite: then half an answer each way is added to
every pair of arms that was asked, errors are those of the curvature, and the fit says so.
"""

from dataclasses import dataclass, replace

import numpy as np

from limner.runtime.errors import InputError
from limner.runtime.study.analysis.intervals import Estimate
from limner.runtime.study.analysis.votes import Floats, Votes
from limner.runtime.study.plans.size import scipy_stats

__all__ = ["PairFit", "fit_pairs", "wins"]

NEWTON_STEPS = 100
CLOSE = 1e-10
FAR = 15.0  # a strength that runs away


@dataclass(frozen=True)
class PairFit:
    """Fitted strengths."""

    arms: tuple[str, ...]  # those that were asked about
    strengths: Floats  # [arms], sum 0
    left: float  # worth of the left place, on the same scale
    covariance: Floats  # [arms, arms]
    clusters: int  # the smaller number of raters and samples
    answers: int
    smoothed: bool = False  # half an answer each way was added

    def difference(self, first: str, second: str) -> Estimate:
        """Strength of one arm less that of another, with its interval and p (Student's t by clusters)."""
        a, b = self.arms.index(first), self.arms.index(second)
        variance = self.covariance[a, a] + self.covariance[b, b] - 2 * self.covariance[a, b]
        return self._estimate(float(self.strengths[a] - self.strengths[b]), float(variance))

    def strength(self, arm: str) -> Estimate:
        """The strength of one arm, against the mean of all."""
        k = self.arms.index(arm)
        return self._estimate(float(self.strengths[k]), float(self.covariance[k, k]))

    def _estimate(self, value: float, variance: float) -> Estimate:
        t, freedom, error = scipy_stats().t, max(1, self.clusters - 1), float(np.sqrt(max(variance, 0.0)))
        half = float(t.ppf(0.975, freedom)) * error
        p = float(2 * t.sf(abs(value) / error, freedom)) if error > 0 else 1.0
        return Estimate(value, value - half, value + half, self.answers, p)


def wins(votes: Votes) -> Floats:
    """[arms, arms]: how often the row was better than the column."""
    found = np.zeros((len(votes.arms),) * 2)
    np.add.at(found, (votes.arm, votes.other), votes.value)
    np.add.at(found, (votes.other, votes.arm), 1 - votes.value)
    return found


def fit_pairs(votes: Votes) -> PairFit:
    """Fit strengths. InputError where no two arms were compared, or some never with the others."""
    asked = wins(votes)
    there = [k for k in range(len(votes.arms)) if asked[k].sum() + asked[:, k].sum() > 0]
    if len(there) < 2:
        raise InputError("pairs", "none", "answers about pairs")
    _connected(asked[np.ix_(there, there)] + asked[np.ix_(there, there)].T, [votes.arms[k] for k in there])
    names = tuple(votes.arms[k] for k in there)
    columns, design = len(there), np.zeros((len(votes), len(there) + 1))
    design[np.arange(len(votes)), np.searchsorted(there, votes.arm)] = 1
    design[np.arange(len(votes)), np.searchsorted(there, votes.other)] -= 1
    design[:, -1] = 1
    basis = _contrasts(columns)  # strengths that sum to 0
    found = _fit(design @ basis, votes.value, np.ones(len(votes)))
    smoothed = found is None
    if found is None:
        more, value = _half_answers(asked[np.ix_(there, there)], columns)
        weights = np.concatenate([np.ones(len(votes)), np.full(len(value), 0.5)])
        found = _fit(np.vstack([design, more]) @ basis, np.concatenate([votes.value, value]), weights)
        if found is None:
            raise InputError("pairs", "answers that no strengths fit", "more answers")
    beta, bread = found
    p = 1 / (1 + np.exp(-(design @ basis @ beta)))
    scores = (design @ basis) * (votes.value - p)[:, None]
    meat = _sums(scores, votes.rater) + _sums(scores, votes.sample) - scores.T @ scores
    around = bread if smoothed else bread @ _positive(meat, scores) @ bread  # a fit without errors has no scores
    fit = PairFit(names, (basis @ beta)[:columns], float(beta[-1]), (basis @ around @ basis.T)[:columns, :columns],
                  min(len(np.unique(votes.rater)), len(np.unique(votes.sample))), len(votes))  # fmt: skip
    return replace(fit, smoothed=smoothed)


def _fit(design: Floats, value: Floats, weights: Floats) -> tuple[Floats, Floats] | None:
    """Newton's method for a logistic regression; the inverse of the curvature besides; None where it runs away."""
    beta: Floats = np.zeros(design.shape[1])
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-(design @ beta)))
        curvature = design.T @ (design * (weights * p * (1 - p))[:, None])
        if np.linalg.cond(curvature) > 1e12:
            return None
        step = np.linalg.solve(curvature, design.T @ (weights * (value - p)))
        beta = beta + step
        if np.abs(beta).max() > FAR:
            return None
        if np.abs(step).max() < CLOSE:
            return beta, np.asarray(np.linalg.inv(curvature), np.float64)
    return None


def _contrasts(count: int) -> Floats:
    """[count + 1, count]: free numbers -> strengths that sum to 0, and the left place as it is."""
    found = np.zeros((count + 1, count))
    found[: count - 1, : count - 1] = np.eye(count - 1)
    found[count - 1, : count - 1] = -1
    found[count, count - 1] = 1
    return found


def _half_answers(asked: Floats, columns: int) -> tuple[Floats, Floats]:
    """One line each way, left and right, for every pair of arms that was asked."""
    pairs = [(a, b) for a in range(columns) for b in range(columns) if a != b and asked[a, b] + asked[b, a] > 0]
    design = np.zeros((len(pairs), columns + 1))
    for row, (a, b) in enumerate(pairs):
        design[row, [a, b]] = 1, -1
        design[row, -1] = 1
    return np.vstack([design, design]), np.concatenate([np.ones(len(pairs)), np.zeros(len(pairs))])


def _sums(scores: Floats, groups: Floats | np.ndarray) -> Floats:
    """Outer products of the scores' sums by group, with the usual correction for few groups."""
    names, places = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), scores.shape[1]))
    np.add.at(sums, places, scores)
    found = (sums.T @ sums) * (len(names) / max(1, len(names) - 1))
    return np.asarray(found, np.float64)


def _positive(meat: Floats, scores: Floats) -> Floats:
    """A covariance: what is below 0 in the sum of three is cut off; that of the answers alone where nothing is left."""
    values, vectors = np.linalg.eigh((meat + meat.T) / 2)
    if values.max() <= 0:
        return np.asarray(scores.T @ scores, np.float64)
    return np.asarray((vectors * np.maximum(values, 0)) @ vectors.T, np.float64)


def _connected(asked: Floats, names: list[str]) -> None:
    reached, waiting = {0}, [0]
    while waiting:
        for other in np.flatnonzero(asked[waiting.pop()]):
            if int(other) not in reached:
                reached.add(int(other))
                waiting.append(int(other))
    lost = [name for k, name in enumerate(names) if k not in reached]
    if lost:
        raise InputError("pairs", f"{lost[0]!r}, never compared with {names[0]!r}", "arms that comparisons connect")
