"""Samplers on latents x = x0 + sigma eps (Karras et al. 2022, eq. 1), and DPM-Solver++, which keeps unit variance.

Euler             dx/dsigma = (x - x0) / sigma, one step
Euler ancestral   the same down to sigma_down, then noise of sigma_up (k-diffusion)
LMS               linear multistep over up to four derivatives (k-diffusion)
DPM-Solver++ 2M   Lu et al. 2022, algorithm 2
"""

import numpy as np
from numpy.typing import NDArray

from limner.runtime.diffusion.alpha_samplers import split_prediction
from limner.runtime.diffusion.schedule import NoiseSchedule, karras_sigmas, spaced, timestep_of_sigma
from limner.runtime.errors import BundleError

__all__ = ["LMS", "DPMSolverPP", "Euler", "EulerAncestral", "lms_weights"]

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
        if self.kind == "epsilon":
            return output
        if self.kind == "v_prediction":
            scale = sigma**2 + 1
            clean = output * np.float32(-sigma / scale**0.5) + sample / np.float32(scale)
        else:
            clean = output
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
        sigma, sigma_next = float(self.sigmas[index]), float(self.sigmas[index + 1])
        up = (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5
        down = (sigma_next**2 - up**2) ** 0.5
        moved = sample + self.derivative(output, index, sample) * np.float32(down - sigma)
        return moved if noise is None else moved + np.float32(up) * noise


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


class DPMSolverPP:
    """DPM-Solver++ of order 1 or 2, multistep, on predictions of x0."""

    draws_noise = False
    init_noise_sigma = 1.0

    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        config = schedule.config
        if config.algorithm_type != "dpmsolver++":
            raise BundleError("scheduler_config.json.algorithm_type", repr(config.algorithm_type), "'dpmsolver++'")
        self.schedule = schedule
        self.kind = config.prediction_type
        self.timesteps, sigmas = _dpm_plan(schedule, steps)
        last = float(schedule.sigmas[0]) if config.final_sigmas_type == "sigma_min" else 0.0
        self.sigmas: FloatArray = np.append(sigmas, last).astype(np.float32)
        self._clean: list[FloatArray] = []

    def scale_input(self, sample: FloatArray, index: int) -> FloatArray:
        """The network takes the latents as they are."""
        return sample

    def add_noise(self, clean: FloatArray, noise: FloatArray, index: int) -> FloatArray:
        """Return alpha x0 + alpha sigma noise at the step `index`."""
        alpha = np.float32(_alpha_of(float(self.sigmas[index])))
        noisy: FloatArray = alpha * clean + alpha * self.sigmas[index] * noise
        return noisy

    def step(self, output: FloatArray, index: int, sample: FloatArray, noise: FloatArray | None = None) -> FloatArray:
        """Steps must be taken in order; the first one and, as the config says, the last one are of order 1."""
        config = self.schedule.config
        now, later = float(self.sigmas[index]), float(self.sigmas[index + 1])
        alpha, alpha_next = _alpha_of(now), _alpha_of(later)
        clean, _ = split_prediction(self.kind, output, sample, alpha**2)
        self._clean = [*self._clean[-1:], clean]
        total = len(self.timesteps)
        careful = config.euler_at_final or config.final_sigmas_type == "zero"
        first_order_last = careful or (config.lower_order_final and total < 15)
        first = config.solver_order == 1 or len(self._clean) < 2 or (index == total - 1 and first_order_last)
        # h is the step in lambda = log(alpha / sigma_t) = -log(sigma), and exp(-h) = sigma_next / sigma.
        shrink = later / now
        moved = np.float32(alpha_next / alpha * shrink) * sample + np.float32(alpha_next * (1 - shrink)) * clean
        if first:
            return moved
        before = float(self.sigmas[index - 1])
        h = np.log(now) - np.log(later) if later > 0.0 else np.inf
        ratio = (np.log(before) - np.log(now)) / h
        slope = (self._clean[-1] - self._clean[-2]) / np.float32(ratio)
        if config.solver_type == "heun":
            weight = alpha_next * ((np.exp(-h) - 1) / h + 1)
        else:
            weight = 0.5 * alpha_next * (1 - shrink)
        bent: FloatArray = moved + np.float32(weight) * slope
        return bent


def _alpha_of(sigma: float) -> float:
    """sqrt(alphas_cumprod) at sigma."""
    return float((sigma**2 + 1) ** -0.5)


def _dpm_plan(schedule: NoiseSchedule, steps: int) -> tuple[FloatArray, NDArray[np.float64]]:
    """Return timesteps [S] and sigmas [S] as diffusers' DPMSolverMultistepScheduler spaces them."""
    config = schedule.config
    if config.use_karras_sigmas:
        sigmas = karras_sigmas(float(schedule.sigmas[-1]), float(schedule.sigmas[0]), steps)
        timesteps = timestep_of_sigma(sigmas, schedule)
        if config.beta_schedule != "squaredcos_cap_v2":
            timesteps = np.round(timesteps)
        return np.trunc(timesteps).astype(np.float32), sigmas
    lambdas = -np.log(schedule.sigmas)[::-1]  # rising
    last = config.num_train_timesteps - int(np.searchsorted(lambdas, config.lambda_min_clipped))
    spacing = config.timestep_spacing or "linspace"
    if spacing == "linspace":
        timesteps = np.round(np.linspace(0, last - 1, steps + 1))[::-1][:-1]
    elif spacing == "leading":
        stride = last // (steps + 1)
        timesteps = np.arange(steps + 1, dtype=np.float64)[::-1][:-1] * stride + config.steps_offset
    else:
        timesteps = np.round(np.arange(last, 0, -config.num_train_timesteps / steps)) - 1
    return timesteps.astype(np.float32), schedule.sigma_at(timesteps)
