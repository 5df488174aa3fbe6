"""Samplers on latents of unit variance that draw noise between steps: DDPM, and those of distilled models.

DDPM   Ho et al. 2020, "Denoising diffusion probabilistic models", eq. 6 and 7, on timesteps that leave some out
LCM    Luo et al. 2023, "Latent consistency models", algorithm 2: x0 by the boundary scalings, then the next noise
TCD    Zheng et al. 2024, "Trajectory consistency distillation", algorithm 4: to (1 - eta) t', then noise up to t'
"""

import math

import numpy as np
from numpy.typing import NDArray

from limner.runtime.diffusion.samplers.alpha import split_prediction
from limner.runtime.diffusion.samplers.schedule import NoiseSchedule, spaced
from limner.runtime.errors import InputError

__all__ = ["DDPM", "LCM", "TCD"]

FloatArray = NDArray[np.float32]
SIGMA_DATA = 0.5  # of the boundary condition, as published
SMALLEST_VARIANCE = 1e-20


class _UnitSampler:
    """What the three share: whole timesteps, and latents that the network takes as they are."""

    init_noise_sigma = 1.0

    def __init__(self, schedule: NoiseSchedule, plan: NDArray[np.int64]) -> None:
        self.schedule, self.kind = schedule, schedule.config.prediction_type
        self.plan = [int(t) for t in plan]
        self.timesteps: FloatArray = np.array(self.plan, dtype=np.float32)

    def scale_input(self, sample: FloatArray, index: int) -> FloatArray:
        """The network takes the latents as they are."""
        return sample

    def add_noise(self, clean: FloatArray, noise: FloatArray, index: int) -> FloatArray:
        """Return sqrt(a) x0 + sqrt(1 - a) noise at the step `index`."""
        alpha = self.schedule.alpha(self.plan[index])
        return np.float32(alpha**0.5) * clean + np.float32((1 - alpha) ** 0.5) * noise

    def split(self, output: FloatArray, index: int, sample: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(x0, eps) of an output, x0 clipped where the config asks for it."""
        clean, eps = split_prediction(self.kind, output, sample, self.schedule.alpha(self.plan[index]))
        return self.schedule.config.clipped(clean, by_default=isinstance(self, DDPM)), eps


class DDPM(_UnitSampler):
    """Ancestral sampling; the variance is the smallest or the largest of the paper, as the config says."""

    draws_noise = True

    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        super().__init__(schedule, np.round(spaced(schedule.config, steps, "leading")).astype(np.int64))

    def step(self, output: FloatArray, index: int, sample: FloatArray, noise: FloatArray | None = None) -> FloatArray:
        """`noise` is a standard normal draw; the last timestep takes none."""
        timestep, following = self.plan[index], [*self.plan, -1][index + 1]
        alpha, alpha_next = self.schedule.alpha(timestep), self.schedule.alpha(following)
        clean, _ = self.split(output, index, sample)
        beta = 1 - alpha / alpha_next  # of the timesteps that were left out together
        mean = np.float32(alpha_next**0.5 * beta / (1 - alpha)) * clean
        mean = mean + np.float32((alpha / alpha_next) ** 0.5 * (1 - alpha_next) / (1 - alpha)) * sample
        if timestep == 0 or noise is None:
            return mean
        return mean + np.float32(self._deviation(alpha, alpha_next, beta)) * noise

    def _deviation(self, alpha: float, alpha_next: float, beta: float) -> float:
        small = max((1 - alpha_next) / (1 - alpha) * beta, SMALLEST_VARIANCE)
        return math.sqrt(beta if self.schedule.config.variance_type == "fixed_large" else small)


def distilled_plan(schedule: NoiseSchedule, steps: int) -> NDArray[np.int64]:
    """Falling timesteps, a part of the `original_inference_steps` ones that the model was distilled on."""
    config = schedule.config
    original = config.original_inference_steps
    if steps > original:
        raise InputError(
            "steps", steps, f"1 to {original}, the steps that the sampler knows (original_inference_steps)"
        )
    known = np.arange(1, original + 1) * (config.num_train_timesteps // original) - 1
    places = np.floor(np.linspace(0, len(known), num=steps, endpoint=False)).astype(np.int64)
    return known[::-1][places].astype(np.int64)


class LCM(_UnitSampler):
    """Consistency steps: to x0 and back to the noise of the next timestep."""

    draws_noise = True

    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        super().__init__(schedule, distilled_plan(schedule, steps))

    def step(self, output: FloatArray, index: int, sample: FloatArray, noise: FloatArray | None = None) -> FloatArray:
        """`noise` is a standard normal draw; the last step takes none."""
        clean, _ = self.split(output, index, sample)
        scaled = self.plan[index] * self.schedule.config.timestep_scaling
        skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
        out = scaled / (scaled**2 + SIGMA_DATA**2) ** 0.5
        denoised = np.float32(out) * clean + np.float32(skip) * sample
        if index == len(self.plan) - 1:
            return denoised
        alpha = self.schedule.alpha(self.plan[index + 1])
        moved = np.float32(alpha**0.5) * denoised
        return moved if noise is None else moved + np.float32((1 - alpha) ** 0.5) * noise


class TCD(_UnitSampler):
    """Trajectory consistency steps; eta 0 follows the trajectory, 1 draws as much noise as LCM."""

    def __init__(self, schedule: NoiseSchedule, steps: int, eta: float = 0.0) -> None:
        super().__init__(schedule, distilled_plan(schedule, steps))
        self.eta, self.draws_noise = eta, eta > 0.0

    def step(self, output: FloatArray, index: int, sample: FloatArray, noise: FloatArray | None = None) -> FloatArray:
        """`noise` is a standard normal draw, needed if eta is above 0; the last step takes none."""
        clean, eps = split_prediction(self.kind, output, sample, self.schedule.alpha(self.plan[index]))
        last = index == len(self.plan) - 1
        following = 0 if last else self.plan[index + 1]
        reached = self.schedule.alpha(int(np.floor((1 - self.eta) * following)))
        moved = np.float32(reached**0.5) * clean + np.float32((1 - reached) ** 0.5) * eps
        if last or self.eta == 0.0:
            return moved
        share = self.schedule.alpha(following) / reached
        moved = np.float32(share**0.5) * moved
        return moved if noise is None else moved + np.float32((1 - share) ** 0.5) * noise
