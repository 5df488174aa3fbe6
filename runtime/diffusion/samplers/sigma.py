"""Samplers on latents x = x0 + sigma eps (Karras et al. 2022, eq. 1).

Euler             dx/dsigma = (x - x0) / sigma, one step
Euler ancestral   the same down to sigma_down, then noise of sigma_up (k-diffusion)
LMS               linear multistep over up to four derivatives (k-diffusion)
Heun              Euler's step and one more look from its end
"""

import numpy as np
from numpy.typing import NDArray

from limner.runtime.diffusion.samplers.schedule import NoiseSchedule, karras_sigmas, spaced, timestep_of_sigma

__all__ = ["LMS", "Euler", "EulerAncestral", "Heun", "lms_weights"]

FloatArray = NDArray[np.float32]


class _SigmaSampler:
    """What Euler, Euler ancestral and LMS share: sigmas float32 [S+1], the last one 0."""

    def __init__(self, schedule: NoiseSchedule, steps: int, karras: bool = False, sigma_last: float = 0.0) -> None:
        config = schedule.config
        self.schedule = schedule
        self.kind = config.prediction_type
        timesteps = spaced(config, steps, "linspace").astype(np.float32)
        sigmas = schedule.sigma_at(timesteps)
        if karras:
            high = float(sigmas[0]) if config.sigma_max is None else config.sigma_max
            low = float(sigmas[-1]) if config.sigma_min is None else config.sigma_min
            sigmas = karras_sigmas(high, low, steps)
            timesteps = timestep_of_sigma(sigmas, schedule).astype(np.float32)
        self.timesteps: FloatArray = timesteps
        self.sigmas: FloatArray = np.append(sigmas, sigma_last).astype(np.float32)
        largest = float(self.sigmas.max())
        whole = (config.timestep_spacing or "linspace") != "leading"
        self.init_noise_sigma = largest if whole else (largest**2 + 1) ** 0.5

    through_clean = False  # whether a derivative is computed by way of x0, as some schedulers do, rounding and all

    def scale_input(self, sample: FloatArray, index: int) -> FloatArray:
        """Bring the latents to unit variance for the network."""
        return sample / np.float32((float(self.sigmas[index]) ** 2 + 1) ** 0.5)

    def add_noise(self, clean: FloatArray, noise: FloatArray, index: int) -> FloatArray:
        """Return x0 + sigma noise at the step `index`."""
        noisy: FloatArray = clean + self.sigmas[index] * noise
        return noisy

    def derivative(self, output: FloatArray, index: int, sample: FloatArray) -> FloatArray:
        """dx/dsigma at the step `index`."""
        sigma = float(self.sigmas[index])
        if self.kind == "epsilon" and not self.through_clean:
            return output
        if self.kind == "epsilon":
            clean = sample - np.float32(sigma) * output
        elif self.kind == "v_prediction":
            scale = sigma**2 + 1
            clean = output * np.float32(-sigma / scale**0.5) + sample / np.float32(scale)
        else:
            clean = output
        if self.through_clean:
            clean = self.schedule.config.clipped(clean, by_default=False)
        return (sample - clean) / np.float32(sigma)


class Euler(_SigmaSampler):
    """Euler's method."""

    draws_noise = False

    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        config = schedule.config
        last = float(schedule.sigmas[0]) if config.final_sigmas_type == "sigma_min" else 0.0
        super().__init__(schedule, steps, config.use_karras_sigmas, last)

    def step(self, output: FloatArray, index: int, sample: FloatArray, noise: FloatArray | None = None) -> FloatArray:
        """x + (sigma_next - sigma) dx/dsigma."""
        size = np.float32(self.sigmas[index + 1] - self.sigmas[index])
        return sample + self.derivative(output, index, sample) * size


class EulerAncestral(_SigmaSampler):
    """Euler's method down past the next sigma, and noise back up to it."""

    draws_noise = True

    def step(self, output: FloatArray, index: int, sample: FloatArray, noise: FloatArray | None = None) -> FloatArray:
        """`noise` is a standard normal draw; without it the step is taken as if the draw were zero."""
        sigma, sigma_next = self.sigmas[index], self.sigmas[index + 1]  # float32: their differences cancel
        up = np.sqrt(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2)
        down = np.sqrt(sigma_next**2 - up**2)
        moved = sample + self.derivative(output, index, sample) * (down - sigma)
        noisy: FloatArray = moved if noise is None else moved + up * noise
        return noisy


class LMS(_SigmaSampler):
    """Linear multistep of order 4 on the steps' own, unequal sigmas."""

    draws_noise = False
    order = 4

    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        super().__init__(schedule, steps, schedule.config.use_karras_sigmas)
        self._derivatives: list[FloatArray] = []

    def step(self, output: FloatArray, index: int, sample: FloatArray, noise: FloatArray | None = None) -> FloatArray:
        """Steps must be taken in order."""
        self._derivatives = [*self._derivatives[-(self.order - 1) :], self.derivative(output, index, sample)]
        order = min(len(self._derivatives), index + 1)
        weights = lms_weights(self.sigmas, index, order)
        return sample + sum(np.float32(w) * d for w, d in zip(weights, reversed(self._derivatives), strict=False))


def lms_weights(sigmas: FloatArray, index: int, order: int) -> list[float]:
    """Integrals from sigma_i to sigma_{i+1} of the Lagrange polynomials on the last `order` sigmas, newest first."""
    nodes = [float(sigmas[index - k]) for k in range(order)]
    weights = []
    for j in range(order):
        basis = np.poly1d([1.0])
        for k in range(order):
            if k != j:
                basis = basis * np.poly1d([1.0, -nodes[k]]) / (nodes[j] - nodes[k])
        integral = basis.integ()
        weights.append(float(integral(float(sigmas[index + 1])) - integral(nodes[0])))
    return weights


class Heun(_SigmaSampler):
    """Heun's method (Karras et al. 2022, algorithm 1 without churn): two calls a step, one at the last."""

    draws_noise = False
    through_clean = True  # where it may be clipped

    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        super().__init__(schedule, steps, schedule.config.use_karras_sigmas)
        self._pair: tuple[FloatArray, FloatArray] | None = None  # latents and derivative of the first call
        once = self.timesteps
        self.levels = self.sigmas  # [S+1]
        self.timesteps = np.concatenate([once[:1], np.repeat(once[1:], 2)])  # [2 S - 1]
        self.sigmas = np.concatenate([self.levels[:1], np.repeat(self.levels[1:-1], 2), self.levels[-1:]])

    def step(self, output: FloatArray, index: int, sample: FloatArray, noise: FloatArray | None = None) -> FloatArray:
        """Calls with an even number go to the next sigma, those behind them correct the way."""
        place = index // 2
        size = np.float32(self.levels[place + 1] - self.levels[place])
        here = self.derivative(output, index, sample)
        if index % 2 == 0:
            self._pair = sample, here
            return np.asarray(sample + here * size, dtype=np.float32)
        start, first = self._pair if self._pair is not None else (sample, here)
        self._pair = None
        return np.asarray(start + (first + here) / np.float32(2) * size, dtype=np.float32)
