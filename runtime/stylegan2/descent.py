"""The descent that latent optimization and inversion share: schedule, Adam, early stop, kept trajectory.

The gradient comes from one graph (bundle graph "latent_gradient", in S "style_gradient"), whose rows are
independent: a picture gets the same steps whether it is alone or in a batch. What is walked in: `spaces`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from limner.runtime.errors import GraphError
from limner.runtime.methods.latent_optimization import Moments
from limner.runtime.pictures.images import to_u8
from limner.runtime.stylegan2.adam import Adam, AdamConfig
from limner.runtime.stylegan2.spaces import Latents, Space
from limner.runtime.timing import Progress, previews_at
from limner.runtime.trajectory import Trajectory

__all__ = ["LOSSES", "Descent", "GradientGraph", "LossWeights", "Schedule", "Stopping", "Targets", "descend"]

FloatArray = NDArray[np.float32]
LOSSES = ("loss_clip", "loss_l2", "loss_identity", "loss_pixel")


class GradientGraph(Protocol):
    """`Models.latent_gradient`, or its twin in a test; in S the latents are style channels [N,S]."""

    def __call__(
        self,
        *,
        latents: FloatArray,
        source: FloatArray,
        text_features: FloatArray,
        identity_source: FloatArray,
        target_image: FloatArray,
        loss_weights: FloatArray,
        only: Sequence[str] | None = None,
    ) -> dict[str, FloatArray]: ...


@dataclass(frozen=True)
class LossWeights:
    """What each term counts: loss = clip (1 - cos) + l2 sum (w - w0)^2 + identity (1 - cos) + pixel mean (x -
    y)^2.
    """

    clip: float
    l2: float
    identity: float
    pixel: float = 0.0

    def array(self) -> FloatArray:
        """Return float32 [4] in the order of the graph's `loss_weights`."""
        return np.array([self.clip, self.l2, self.identity, self.pixel], dtype=np.float32)


@dataclass(frozen=True)
class Schedule:
    """The published learning rate: linear up, flat, cosine down (StyleCLIP's
    optimization/run_optimization.py).
    """

    steps: int
    learning_rate: float
    ramp_up: float = 0.05  # part of the steps
    ramp_down: float = 0.25  # part of the steps

    def rate(self, step: int) -> float:
        """Return the rate of step 0 ... steps-1; that of step 0 is 0, as published, unless there is no ramp
        up.
        """
        t = step / self.steps
        down = min(1.0, (1.0 - t) / self.ramp_down) if self.ramp_down > 0 else 1.0
        up = min(1.0, t / self.ramp_up) if self.ramp_up > 0 else 1.0
        return self.learning_rate * (0.5 - 0.5 * math.cos(math.pi * down)) * up


@dataclass(frozen=True)
class Stopping:
    """Stop a picture whose loss fell by less than `min_improvement` over `patience` steps; 0 never stops."""

    patience: int = 0
    min_improvement: float = 1e-3
    best: bool = False  # give the best point seen even after all steps; the published loop gives the last


@dataclass(frozen=True, eq=False)
class Targets:
    """What the loss compares with, one row a picture; shapes as in `Models.latent_gradient`."""

    source: FloatArray  # [N,L,D], or [N,S] in S
    text_features: FloatArray  # [N,C]
    identity_source: FloatArray  # [N,I]
    target_image: FloatArray  # [N,3,H,W]

    def rows(self, index: NDArray[np.intp]) -> dict[str, FloatArray]:
        """Return the graph's inputs for some of the pictures."""
        return {name: getattr(self, name)[index] for name in self.__dataclass_fields__}


@dataclass(frozen=True, eq=False)
class Descent:
    """One picture's result: where it ended, after how many steps, the losses last seen, and the way there."""

    latents: FloatArray  # [L,D] w_plus, or [S] style channels in S
    steps: int
    stopped_early: bool
    losses: dict[str, float]
    trajectory: Trajectory


def descend(
    gradient_graph: GradientGraph,
    start: FloatArray,  # [N,L,D], or [N,S] in S
    targets: Targets,
    weights: LossWeights,
    schedule: Schedule,
    *,
    space: Space = Latents(),  # what is walked in: W+ if not said
    begin: FloatArray | None = None,  # displacement [N,...] that the first step jumps to
    free: NDArray[np.bool_] | None = None,  # [N,...], false for what a picture's walk may not move
    moments: Moments = "element",  # of Adam
    stopping: Stopping = Stopping(),
    keep_every: int = 0,  # keep a point and its image every so many steps; 0 keeps the two ends alone
    progress: Progress | None = None,
) -> list[Descent]:
    """Walk down from `start` for N pictures at once; the order of the results is that of the rows.

    A picture that runs to the end gives its last point, as published, unless `stopping.best`; one that stops
    early gives its best one. With `begin` the first step goes there, whatever its rate (as published, 0), and Adam
    starts from there. Raises GraphError, with what to change, when the walk diverges.
    """
    state = _State(start, schedule, stopping, keep_every)
    adam = Adam(AdamConfig(moments=moments))
    v = space.displacement(state.start)
    weight_array = weights.array()
    graph_weights = replace(weights, l2=0.0).array() if space.measures else weight_array
    for step in range(schedule.steps):
        rows = np.flatnonzero(state.active)
        if rows.size == 0:
            break
        keep = step == 0 or (keep_every > 0 and step % keep_every == 0)
        shown = previews_at(progress, step + 1, schedule.steps)
        wanted = shown is not None or (keep and keep_every > 0)
        only = [*LOSSES, "gradient", "image"] if wanted else [*LOSSES, "gradient"]
        try:
            found = gradient_graph(
                latents=state.latents[rows], **targets.rows(rows), loss_weights=graph_weights, only=only
            )
        except GraphError as reason:
            advice = "lower parameters.learning_rate or the loss weights"
            raise GraphError(f"step {step} of {schedule.steps} failed: {reason}; {advice}") from reason
        gradient = np.zeros_like(v)
        gradient[rows] = space.pull(state.start[rows], v[rows], found["gradient"])
        if space.measures:
            found = found | {"loss_l2": np.square(v[rows]).reshape(len(rows), -1).sum(axis=1)}
            gradient[rows] += np.float32(2 * weights.l2) * v[rows]
        if free is not None:
            gradient *= free
        state.record(step, rows, found, weight_array, keep)
        if step == 0 and begin is not None:
            moved = begin.astype(np.float32)
        else:
            moved = adam.step(v, gradient, schedule.rate(step)).astype(np.float32)
        v = np.where(_wide(state.active, v), moved, v)
        state.latents = np.where(_wide(state.active, state.latents), space.point(state.start, v), state.latents)
        if progress is not None:
            progress(step + 1, schedule.steps, {name: float(found[name].mean()) for name in LOSSES})
        if shown is not None:
            shown(found["image"][:1])
    return state.results()


def _wide(flags: NDArray[np.bool_], like: FloatArray) -> NDArray[np.bool_]:
    """[N] with as many axes as `like` [N,...]."""
    return flags.reshape(-1, *[1] * (like.ndim - 1))


class _State:
    """Where every picture of a batch is, what it kept, and whether it still moves."""

    def __init__(self, start: FloatArray, schedule: Schedule, stopping: Stopping, keep_every: int) -> None:
        count = len(start)
        self.start: FloatArray = start.astype(np.float32)
        self.latents: FloatArray = self.start.copy()
        self.active = np.ones(count, dtype=bool)
        self.schedule = schedule
        self.stopping = stopping
        self.best = self.latents.copy()
        self.best_loss = np.full(count, np.inf)
        self.best_step = np.zeros(count, dtype=int)
        self.mark_loss = np.full(count, np.inf)  # the loss that has to be beaten by min_improvement
        self.mark_step = np.zeros(count, dtype=int)
        self.last_losses: list[dict[str, float]] = [{} for _ in range(count)]
        self.best_losses: list[dict[str, float]] = [{} for _ in range(count)]
        self.kept: list[list[tuple[int, FloatArray, dict[str, float], NDArray[np.uint8] | None]]]
        self.kept = [[] for _ in range(count)]

    def record(
        self, step: int, rows: NDArray[np.intp], found: dict[str, FloatArray], weights: FloatArray, keep: bool
    ) -> None:
        """Take in the losses at the current points, before the update, and stop what does not improve."""
        total = np.stack([found[name] for name in LOSSES], axis=1).astype(np.float64) @ weights  # [rows]
        settled = step >= self.schedule.ramp_up * self.schedule.steps  # nothing moves much before
        for place, row in enumerate(rows):
            losses = {name: float(found[name][place]) for name in LOSSES}
            self.last_losses[row] = losses
            if keep:
                image = to_u8(found["image"][place : place + 1])[0] if "image" in found else None
                self.kept[row].append((step, self.latents[row].copy(), losses, image))
            if total[place] < self.best_loss[row]:
                self.best_loss[row], self.best_step[row] = total[place], step
                self.best[row], self.best_losses[row] = self.latents[row], losses
            if not settled or total[place] < self.mark_loss[row] - self.stopping.min_improvement:
                self.mark_loss[row], self.mark_step[row] = min(total[place], self.mark_loss[row]), step
            elif 0 < self.stopping.patience <= step - self.mark_step[row]:
                self.active[row] = False

    def results(self) -> list[Descent]:
        """Close the trajectories: each ends in its result."""
        results = []
        for row, moving in enumerate(self.active):
            last = moving and not self.stopping.best
            end_step = self.schedule.steps if last else int(self.best_step[row])
            end = self.latents[row] if last else self.best[row]
            kept = [point for point in self.kept[row] if point[0] < end_step]
            trajectory = Trajectory(
                steps=(*(point[0] for point in kept), end_step),
                latents=np.stack([*(point[1] for point in kept), end]),
                losses=tuple(point[2] for point in kept),
                images=(*(point[3] for point in kept), None),
            )
            losses = self.last_losses[row] if last else self.best_losses[row]
            results.append(Descent(end.copy(), end_step, not moving, losses, trajectory))
        return results
