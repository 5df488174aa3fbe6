"""The way that latent optimization took through W+, and how a strength picks a point on it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Trajectory"]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The kept points of one descent, from the source (step 0) to the result.

    `images` are those that the descent saw on its way, uint8 [H,W,3]; the result's own is None, since the
    published loop never renders after its last step.
    """

    steps: tuple[int, ...]  # how many updates each point has behind it, rising, the first 0
    latents: NDArray[np.float32]  # [T,L,D] w_plus; [T,S] style channels of a descent in S
    losses: tuple[dict[str, float], ...] = ()  # loss terms at each point but the result, T-1 of them
    images: tuple[NDArray[np.uint8] | None, ...] = ()  # T of them, or none at all

    def position(self, strength: float) -> tuple[int, float]:
        """Return (i, f): the point between kept points i and i+1 that lies `strength` of the way along the
        path.

        The way is measured by its length in W+, so that the slider moves evenly whatever the learning rate
        did.
        """
        if len(self.steps) < 2:
            return 0, 0.0
        hops = np.linalg.norm(np.diff(self.latents.astype(np.float64), axis=0).reshape(len(self.steps) - 1, -1), axis=1)
        lengths = np.concatenate([[0.0], np.cumsum(hops)])
        goal = min(max(strength, 0.0), 1.0) * lengths[-1]
        i = min(max(int(np.searchsorted(lengths, goal, side="right")) - 1, 0), len(hops) - 1)
        return i, float((goal - lengths[i]) / hops[i]) if hops[i] > 0.0 else 0.0

    def at(self, strength: float) -> NDArray[np.float32]:
        """Return the latents [1,L,D] or [1,S] at `strength`: 0 the source, 1 the result, between them along the path.

        Above 1 the straight line from source to result goes on.
        """
        first, last = self.latents[0], self.latents[-1]
        if strength >= 1.0:
            beyond = last if strength == 1.0 else last + np.float32(strength - 1.0) * (last - first)
            return np.ascontiguousarray(beyond[None])
        i, part = self.position(strength)
        if part == 0.0:
            return np.ascontiguousarray(self.latents[i][None])
        point = self.latents[i] + np.float32(part) * (self.latents[i + 1] - self.latents[i])
        return np.ascontiguousarray(point[None])

    def seen(self, strength: float) -> NDArray[np.uint8] | None:
        """Return the image at the kept point nearest to `strength`, or None if that point has none."""
        i, part = self.position(strength)
        nearest = min(i + round(part), len(self.steps) - 1)
        return self.images[nearest] if nearest < len(self.images) else None
