"""Pictures on the way: what the network takes the clean picture for at a step, decoded.

Every sampler gives the network x_t = sqrt(a) x0 + sqrt(1 - a) eps at the timestep's own a, so that x0 follows from its
output whatever the sampler remembers (Ho et al. 2020, eq. 15; Salimans & Ho 2022, appendix D).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.diffusion.samplers.alpha import split_prediction
from limner.runtime.diffusion.samplers.by_name import Sampler
from limner.runtime.timing import Previews, Progress, previews_at

__all__ = ["Watch", "predicted_clean", "watch"]

FloatArray = NDArray[np.float32]
Watch = Callable[[int, int, Callable[[], FloatArray]], None]
"""watch(step, steps, clean): `clean()` gives the clean latents [N,C,h,w] as the network sees them after that step."""


def predicted_clean(sampler: Sampler, output: FloatArray, sample: FloatArray, timestep: float) -> FloatArray:
    """x0 [N,C,h,w] from the network's output on `sample`, which is scaled for it."""
    schedule = sampler.schedule
    last = schedule.config.num_train_timesteps - 1
    alpha = schedule.alpha(min(max(round(timestep), 0), last))
    return split_prediction(schedule.config.prediction_type, output, sample, alpha)[0].astype(np.float32)


def watch(networks: DiffusionNetworks, progress: Progress | None, row: int = 0) -> Watch | None:
    """What shows row `row` of the latents to a progress that wants pictures; None for any other."""
    if not isinstance(progress, Previews):
        return None

    def seen(step: int, steps: int, clean: Callable[[], FloatArray]) -> None:
        if (shown := previews_at(progress, step, steps)) is not None:
            shown(networks.decode(clean()[row : row + 1]))

    return seen
