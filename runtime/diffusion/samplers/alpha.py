"""Samplers on latents of unit variance, x = sqrt(a) x0 + sqrt(1 - a) eps: DDIM and PNDM.

DDIM   Song et al. 2020, "Denoising diffusion implicit models", eq. 12 and 16; eta = 1 is DDPM
PNDM   Liu et al. 2022, "Pseudo numerical methods for diffusion models", eq. 9, 12 and 13
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from limner.runtime.diffusion.samplers.schedule import NoiseSchedule, spaced
from limner.runtime.errors import InputError

__all__ = ["DDIM", "PNDM", "ddim_inverse_step", "split_prediction"]

FloatArray = NDArray[np.float32]


def split_prediction(kind: str, output: FloatArray, sample: FloatArray, alpha: float) -> tuple[FloatArray, FloatArray]:
    """Return (x0, eps) from a network's output at signal share `alpha` (Salimans & Ho 2022, appendix D)."""
    signal, noise = np.float32(alpha**0.5), np.float32((1 - alpha) ** 0.5)
    clean, eps = output, output
    if kind == "epsilon":
        clean = np.divide(sample - noise * output, signal)
    elif kind == "v_prediction":
        clean, eps = signal * sample - noise * output, signal * output + noise * sample
    else:
        eps = np.divide(sample - signal * output, noise)
    return clean, eps


class _AlphaSampler:
    """What DDIM and PNDM share: a plan of whole timesteps and the signal's share at each."""

    spacing: ClassVar[str] = "leading"
    init_noise_sigma = 1.0

    def __init__(self, schedule: NoiseSchedule, steps: int, alpha_beyond_one: bool) -> None:
        config = schedule.config
        self.schedule = schedule
        self.kind = config.prediction_type
        self.stride = config.num_train_timesteps // steps
        to_one = config.set_alpha_to_one if config.set_alpha_to_one is not None else alpha_beyond_one
        self.alpha_beyond = 1.0 if to_one else float(schedule.alphas_cumprod[0])
        self.plan = [int(t) for t in np.round(spaced(config, steps, self.spacing))]
        self.timesteps: FloatArray = np.array(self.plan, dtype=np.float32)

    def scale_input(self, sample: FloatArray, index: int) -> FloatArray:
        """The network takes the latents as they are."""
        return sample

    def alphas(self, index: int) -> tuple[float, float]:
        """alphas_cumprod now and one stride of timesteps later."""
        return self._alpha(self.plan[index]), self._alpha(self.plan[index] - self.stride)

    def add_noise(self, clean: FloatArray, noise: FloatArray, index: int) -> FloatArray:
        """Return sqrt(a) x0 + sqrt(1 - a) noise at the step `index`."""
        alpha = self._alpha(self.plan[index])
        return np.float32(alpha**0.5) * clean + np.float32((1 - alpha) ** 0.5) * noise

    def _alpha(self, timestep: int) -> float:
        return self.schedule.alpha(timestep, self.alpha_beyond)


class DDIM(_AlphaSampler):
    """DDIM; with eta above 0 each step draws noise."""

    def __init__(self, schedule: NoiseSchedule, steps: int, eta: float = 0.0) -> None:
        super().__init__(schedule, steps, alpha_beyond_one=True)
        self.eta = eta
        self.draws_noise = eta > 0.0

    def mean(self, output: FloatArray, index: int, sample: FloatArray) -> tuple[FloatArray, float]:
        """Return the mean of the next latents and their standard deviation (eq. 12 and 16)."""
        alpha, alpha_next = self.alphas(index)
        config = self.schedule.config
        clean, eps = split_prediction(self.kind, output, sample, alpha)
        clean = config.clipped(clean, by_default=True)
        variance = (1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)
        deviation = self.eta * max(variance, 0.0) ** 0.5
        direction = np.float32(max(1 - alpha_next - deviation**2, 0.0) ** 0.5) * eps
        return np.float32(alpha_next**0.5) * clean + direction, deviation

    def step(self, output: FloatArray, index: int, sample: FloatArray, noise: FloatArray | None = None) -> FloatArray:
        """x_t -> x_{t-1}; `noise` is a standard normal draw, needed if eta is above 0."""
        mean, deviation = self.mean(output, index, sample)
        return mean if noise is None or deviation == 0.0 else mean + np.float32(deviation) * noise


def ddim_inverse_step(sampler: DDIM, output: FloatArray, index: int, sample: FloatArray) -> FloatArray:
    """x_{t-1} -> x_t, DDIM run backwards with the output of the network at (x_{t-1}, t).

    The network is asked at the later timestep t, where the forward step will ask it (Mokady et al. 2022;
    diffusers' DDIMInverseScheduler shifts its timesteps the same way), not at t-1.
    """
    alpha, alpha_next = sampler.alphas(index)
    clean, eps = split_prediction(sampler.kind, output, sample, alpha_next)
    return np.float32(alpha**0.5) * clean + np.float32((1 - alpha) ** 0.5) * eps


class PNDM(_AlphaSampler):
    """PNDM: pseudo linear multistep, after pseudo Runge-Kutta steps unless the config skips them."""

    draws_noise = False

    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        super().__init__(schedule, steps, alpha_beyond_one=False)
        rising = self.plan[::-1]
        self.runge_kutta: list[int] = []
        if schedule.config.skip_prk_steps:
            self.plan = [*rising[:-1], *rising[-2:-1], rising[-1]][::-1]
        else:
            if steps < 4:
                raise InputError("steps", steps, "4 or more for PNDM with Runge-Kutta steps")
            halves = np.repeat(rising[-4:], 2) + np.tile([0, self.stride // 2], 4)
            self.runge_kutta = [int(t) for t in np.repeat(halves[:-1], 2)[1:-1][::-1]]
            self.plan = [*self.runge_kutta, *rising[:-3][::-1]]
        self.timesteps = np.array(self.plan, dtype=np.float32)
        self._outputs: list[FloatArray] = []
        self._sum: FloatArray | None = None
        self._start: FloatArray | None = None

    def step(self, output: FloatArray, index: int, sample: FloatArray, noise: FloatArray | None = None) -> FloatArray:
        """x_t -> x_{t-1}; steps must be taken in order."""
        if index < len(self.runge_kutta):
            return self._runge_kutta(output, index, sample)
        return self._multistep(output, index, sample)

    def _runge_kutta(self, output: FloatArray, index: int, sample: FloatArray) -> FloatArray:
        later = self.plan[index] - (0 if index % 2 else self.stride // 2)
        now = self.runge_kutta[index // 4 * 4]
        part = index % 4
        if part == 0:
            self._outputs.append(output)
            self._start = sample
            self._sum = output / np.float32(6)
        elif part < 3:
            self._sum = output / np.float32(3) + (0 if self._sum is None else self._sum)
        else:
            output = output / np.float32(6) + (0 if self._sum is None else self._sum)
        return self._transfer(sample if self._start is None else self._start, now, later, output)

    def _multistep(self, output: FloatArray, index: int, sample: FloatArray) -> FloatArray:
        now, later = self.plan[index], self.plan[index] - self.stride
        if index == 1 and not self.runge_kutta:  # the second call refines the first step
            now, later = now + self.stride, now
            output = (output + self._outputs[-1]) / np.float32(2)
            return self._transfer(sample if self._start is None else self._start, now, later, output)
        self._start = sample
        self._outputs = [*self._outputs[-3:], output]
        weights = ADAMS_BASHFORTH[len(self._outputs)]
        total = sum(np.float32(w) * e for w, e in zip(weights, reversed(self._outputs), strict=True))
        return self._transfer(sample, now, later, np.asarray(total, dtype=np.float32))

    def _transfer(self, sample: FloatArray, now: int, later: int, output: FloatArray) -> FloatArray:
        """Eq. 9 of the paper."""
        alpha, alpha_next = self._alpha(now), self._alpha(later)
        if self.kind == "v_prediction":
            output = np.float32(alpha**0.5) * output + np.float32((1 - alpha) ** 0.5) * sample
        below = alpha * (1 - alpha_next) ** 0.5 + (alpha * (1 - alpha) * alpha_next) ** 0.5
        return np.float32((alpha_next / alpha) ** 0.5) * sample - np.float32((alpha_next - alpha) / below) * output


ADAMS_BASHFORTH = {  # number of outputs -> weights, the newest first
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
