"""Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2023, algorithm 1; as LEDITS++ uses it).

    x_t = sqrt(a_t) x0 + sqrt(1 - a_t) n_t           n_t drawn for each t on its own
    z_t = (x_{t-1} - mean_t(x_t)) / sigma_t          DDIM with eta = 1; then x_{t-1} := mean_t(x_t) + sigma_t z_t

Sampling from x_T with the noise maps z gives the picture back, and with another estimate an edit that keeps its
layout. The first `skip` of the steps is left out: less of the picture can change.

Where a source prompt guides the inversion, the same guided estimate is what the edit starts from, so that the way
back is exact. (LEDITS++ guides the inversion alone.)
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.diffusion.samplers.alpha import DDIM
from limner.runtime.diffusion.samplers.schedule import NoiseSchedule
from limner.runtime.diffusion.sampling import Estimate, checked_output
from limner.runtime.errors import InputError
from limner.runtime.schema import require_number
from limner.runtime.timing import Progress

__all__ = ["SOURCE_GUIDANCE", "NoiseMaps", "edit_friendly_invert", "edit_friendly_sampler"]

FloatArray = NDArray[np.float32]
SOURCE_GUIDANCE = 3.5  # of a picture's prompt, as in the published code and LEDITS++


@dataclass(frozen=True, eq=False)
class NoiseMaps:
    """A picture as noise: sampling goes from step `first` of `sampler` to its end."""

    sampler: DDIM
    first: int
    start: FloatArray  # x_T [N,C,h,w]
    maps: FloatArray  # z, [S-first,N,C,h,w]; a step without variance has zeros
    path: FloatArray  # [S-first,N,C,h,w], the latents after each step; the last are the picture itself

    @property
    def steps(self) -> int:
        """How many steps are taken."""
        return len(self.maps)

    def replay(self) -> Callable[[], FloatArray]:
        """Return a source of draws that gives the noise maps in their order."""
        remaining = iter(self.maps)
        return lambda: next(remaining)


def edit_friendly_sampler(networks: DiffusionNetworks, steps: int, skip: float) -> tuple[DDIM, int]:
    """Return DDPM steps (DDIM with eta 1) of which the last `steps` are taken, and the first of those."""
    require_number("inversion.skip", skip, 0.0, 0.9)
    total, limit = int(steps * (1 + skip)), networks.scheduler.num_train_timesteps
    if total > limit:
        raise InputError("parameters.steps", f"{steps} and {skip:g} skipped", f"at most {limit} steps altogether")
    return DDIM(NoiseSchedule(networks.scheduler), total, eta=1.0), total - steps


def edit_friendly_invert(
    networks: DiffusionNetworks,
    clean: FloatArray,  # x0 [N,C,h,w]
    estimate: Estimate,  # without edits, the source's guidance included
    steps: int,
    skip: float,
    draw: Callable[[], FloatArray],  # standard normal draws [N,C,h,w]
    progress: Progress | None = None,
) -> NoiseMaps:
    """Find the noise maps of N pictures: one call of `estimate` a step."""
    sampler, first = edit_friendly_sampler(networks, steps, skip)
    total = len(sampler.timesteps)
    noisy: dict[int, FloatArray] = {total: clean}  # what step k starts from
    for index in reversed(range(first, total)):  # from the least noise to the most
        noisy[index] = sampler.add_noise(clean, draw(), index)
    maps = []
    for index in range(first, total):
        timestep = float(sampler.timesteps[index])
        output = checked_output(estimate, noisy[index], timestep, index - first, steps)
        mean, deviation = sampler.mean(output, index, noisy[index])
        scale = np.float32(deviation)
        z = (noisy[index + 1] - mean) / scale if deviation > 0.0 else np.zeros_like(mean)
        maps.append(z)
        noisy[index + 1] = mean + scale * z  # what sampling will really reach
        if progress is not None:
            progress(index - first + 1, steps, {})
    path = [noisy[index] for index in range(first + 1, total)]
    return NoiseMaps(sampler, first, noisy[first], np.stack(maps), np.stack([*path, clean]))
