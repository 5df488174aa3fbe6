"""Multistep samplers in lambda = log(alpha / sigma_t) that keep unit variance: DPM-Solver++ and its SDE, UniPC, DEIS.

DPM-Solver++     Lu et al. 2022, "DPM-Solver++", algorithm 2 and, of order 3, appendix A; SDE: eq. 5.9 there
UniPC            Zhao et al. 2023, "UniPC", algorithms 5 to 8: a predictor, and a corrector from the output after it
DEIS             Zhang & Chen 2023, "Fast sampling of diffusion models with exponential integrator", rho-AB (log rho)

Every one of them works with sigma = sigma_t / alpha as its time, float32 [S+1], falling.
"""

import math

import numpy as np
from numpy.typing import NDArray

from limner.runtime.diffusion.samplers.alpha import split_prediction
from limner.runtime.diffusion.samplers.schedule import NoiseSchedule, karras_sigmas, timestep_of_sigma
from limner.runtime.errors import BundleError

__all__ = ["DEIS", "DPMSolverPP", "DPMSolverSDE", "UniPC"]

FloatArray = NDArray[np.float32]
FEW_STEPS = 15  # below them lower orders end the run


class _Multistep:
    """What they share: the plan, latents as the network takes them, the outputs of earlier steps."""

    draws_noise = False
    init_noise_sigma = 1.0
    last_is_smallest = False  # whether the last sigma is that of timestep 0 whatever the config says

    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        config = schedule.config
        self.schedule, self.kind, self.order = schedule, config.prediction_type, config.solver_order
        self.timesteps, sigmas = _plan(schedule, steps, self.cuts_lambda)
        smallest = self.last_is_smallest or config.final_sigmas_type == "sigma_min"
        last = (float(sigmas[-1]) if config.use_karras_sigmas and self.karras_ends_itself else
                float(schedule.sigmas[0])) if smallest else 0.0  # fmt: skip
        self.sigmas: FloatArray = np.append(sigmas, last).astype(np.float32)
        self._kept: list[FloatArray] = []

    cuts_lambda = False  # whether lambda_min_clipped is read
    karras_ends_itself = True  # whether a last sigma under Karras' spacing is the one before it

    def scale_input(self, sample: FloatArray, index: int) -> FloatArray:
        """The network takes the latents as they are."""
        return sample

    def add_noise(self, clean: FloatArray, noise: FloatArray, index: int) -> FloatArray:
        """Return alpha x0 + alpha sigma noise at the step `index`."""
        alpha = np.float32(alpha_of(float(self.sigmas[index])))
        noisy: FloatArray = alpha * clean + alpha * self.sigmas[index] * noise
        return noisy

    def split(self, output: FloatArray, index: int, sample: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(x0, eps) of an output at the step `index`."""
        return split_prediction(self.kind, output, sample, alpha_of(float(self.sigmas[index])) ** 2)

    def keep(self, value: FloatArray) -> None:
        self._kept = [*self._kept[-(self.order - 1) :], value] if self.order > 1 else [value]

    def order_at(self, index: int, first_order_last: bool) -> int:
        """The order of a step: few outputs are known at first, and a short run ends with lower orders."""
        total, config = len(self.timesteps), self.schedule.config
        order = min(self.order, len(self._kept))
        if index == total - 1 and first_order_last:
            return 1
        if index == total - 2 and config.lower_order_final and total < FEW_STEPS:
            return min(order, 2)
        return order

    def lambdas(self, index: int, count: int) -> list[float]:
        """lambda behind the step, at it, and at `count` steps before it; infinite where sigma is 0."""
        values = [float(self.sigmas[index + 1 - k]) for k in range(count + 2)]
        return [-math.log(value) if value > 0.0 else math.inf for value in values]


class DPMSolverPP(_Multistep):
    """DPM-Solver++ of order 1 to 3, on predictions of x0."""

    cuts_lambda = True
    karras_ends_itself = False

    def step(self, output: FloatArray, index: int, sample: FloatArray, noise: FloatArray | None = None) -> FloatArray:
        """Steps must be taken in order; the first one and, as the config says, the last one are of order 1."""
        clean, _ = self.split(output, index, sample)
        self.keep(clean)
        order = self.order_at(index, self._first_order_last())
        now, later = float(self.sigmas[index]), float(self.sigmas[index + 1])
        # h is the step in lambda, and exp(-h) = sigma_next / sigma.
        shrink, alpha, alpha_next = later / now, alpha_of(now), alpha_of(later)
        moved = np.float32(alpha_next / alpha * shrink) * sample + np.float32(alpha_next * (1 - shrink)) * clean
        if order == 1:
            return moved
        h, slope, bend = self._differences(index, order)
        if order == 2:
            moved = moved + np.float32(self._slope_weight(alpha_next, shrink, h)) * slope
        else:
            moved = moved + np.float32(alpha_next * ((math.exp(-h) - 1) / h + 1)) * slope
            moved = moved - np.float32(alpha_next * ((math.exp(-h) - 1 + h) / h**2 - 0.5)) * bend
        return np.asarray(moved, dtype=np.float32)

    def _first_order_last(self) -> bool:
        config = self.schedule.config
        short = config.lower_order_final and len(self.timesteps) < FEW_STEPS
        return config.euler_at_final or config.final_sigmas_type == "zero" or short

    def _slope_weight(self, alpha_next: float, shrink: float, h: float) -> float:
        """Of the first difference, in order 2."""
        if self.schedule.config.solver_type == "heun":
            return alpha_next * ((math.exp(-h) - 1) / h + 1)
        return 0.5 * alpha_next * (1 - shrink)

    def _differences(self, index: int, order: int) -> tuple[float, FloatArray, FloatArray]:
        """h, and the first and second differences of x0 over it (zero where the order needs none)."""
        times = self.lambdas(index, order - 1)
        h = times[0] - times[1]
        ratio = (times[1] - times[2]) / h
        first = (self._kept[-1] - self._kept[-2]) / np.float32(ratio)
        if order == 2:
            return h, first, np.zeros_like(first)
        before = (times[2] - times[3]) / h
        second = (self._kept[-2] - self._kept[-3]) / np.float32(before)
        bend = np.float32(1 / (ratio + before)) * (first - second)
        return h, first + np.float32(ratio) * bend, bend


class DPMSolverSDE(DPMSolverPP):
    """DPM-Solver++ of the reverse SDE, of order 1 or 2: each step draws noise."""

    draws_noise = True

    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        super().__init__(schedule, steps)
        if self.order > 2:
            raise BundleError("scheduler_config.json.solver_order", self.order, "1 or 2 with dpm-solver++-sde")

    def step(self, output: FloatArray, index: int, sample: FloatArray, noise: FloatArray | None = None) -> FloatArray:
        """`noise` is a standard normal draw."""
        clean, _ = self.split(output, index, sample)
        self.keep(clean)
        order = self.order_at(index, self._first_order_last())
        now, later = float(self.sigmas[index]), float(self.sigmas[index + 1])
        shrink, alpha, alpha_next = later / now, alpha_of(now), alpha_of(later)
        kept = 1 - shrink**2  # 1 - exp(-2 h)
        moved = np.float32(alpha_next / alpha * shrink**2) * sample + np.float32(alpha_next * kept) * clean
        if order > 1:
            h, slope, _ = self._differences(index, 2)
            heun = self.schedule.config.solver_type == "heun"
            weight = alpha_next * (kept / (-2.0 * h) + 1.0) if heun else 0.5 * alpha_next * kept
            moved = moved + np.float32(weight) * slope
        if noise is not None:
            moved = moved + np.float32(alpha_next * later * kept**0.5) * noise
        return np.asarray(moved, dtype=np.float32)


class UniPC(_Multistep):
    """A predictor of order 1 to 3 and, from the second step on, a corrector of the latents that it gave."""

    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        super().__init__(schedule, steps)
        self._sample: FloatArray | None = None  # latents before the last predictor
        self._order = 1  # of the last predictor

    def step(self, output: FloatArray, index: int, sample: FloatArray, noise: FloatArray | None = None) -> FloatArray:
        """Steps must be taken in order."""
        config = self.schedule.config
        found = self.split(output, index, sample)[0 if config.predict_x0 else 1]
        if index > 0 and self._sample is not None and (index - 1) not in config.disable_corrector:
            sample = self._moved(index - 1, self._order, self._sample, found)
        self.keep(found)
        left = len(self.timesteps) - index if config.lower_order_final else self.order
        self._order = min(self.order, left, len(self._kept))
        self._sample = sample
        return self._moved(index, self._order, sample, None)

    def _moved(self, index: int, order: int, sample: FloatArray, reached: FloatArray | None) -> FloatArray:
        """From step `index` to the next one; with the network's word on the latents `reached`, corrected by it."""
        config = self.schedule.config
        now, later = float(self.sigmas[index]), float(self.sigmas[index + 1])
        alpha, alpha_next = alpha_of(now), alpha_of(later)
        times = self.lambdas(index, order - 1)
        h = times[0] - times[1]
        hh = -h if config.predict_x0 else h
        grown = math.expm1(hh)  # h phi_1
        base = hh if config.solver_type == "bh1" else grown
        ratios = [(times[k + 1] - times[1]) / h for k in range(1, order)]
        newest = self._kept[-1]
        slopes = [(self._kept[-(k + 1)] - newest) / np.float32(ratio) for k, ratio in enumerate(ratios, 1)]
        weights = _uni_weights(ratios, order, hh, base, corrects=reached is not None)
        total = sum((np.float32(w) * s for w, s in zip(weights, slopes, strict=False)), np.zeros_like(newest))
        if reached is not None:
            total = total + np.float32(weights[-1]) * (reached - newest)
        if config.predict_x0:
            kept, outer = alpha_next * later / (alpha * now), alpha_next
        else:
            kept, outer = alpha_next / alpha, alpha_next * later
        moved = np.float32(kept) * sample - np.float32(outer * grown) * newest - np.float32(outer * base) * total
        return np.asarray(moved, dtype=np.float32)


def _uni_weights(ratios: list[float], order: int, hh: float, base: float, corrects: bool) -> list[float]:
    """The weights rho of the differences, the last one of the corrector (Zhao et al. 2023, eq. 5 and theorem 3.1)."""
    if corrects and order == 1:
        return [0.5]
    if not corrects and order == 1:
        return []
    if not corrects and order == 2:
        return [0.5]
    phi, factorial = math.expm1(hh) / hh - 1 if math.isfinite(hh) else -1.0, 1
    nodes, rows, right = [*ratios, 1.0], [], []
    for power in range(order):
        rows.append([node**power for node in nodes])
        right.append(phi * factorial / base)
        factorial *= power + 2
        phi = phi / hh - 1 / factorial
    if corrects:
        return [float(x) for x in np.linalg.solve(np.array(rows), np.array(right))]
    return [float(x) for x in np.linalg.solve(np.array(rows)[:-1, :-1], np.array(right)[:-1])]


class DEIS(_Multistep):
    """Adams-Bashforth in log rho, of order 1 to 3, on predictions of the noise."""

    last_is_smallest = True

    def step(self, output: FloatArray, index: int, sample: FloatArray, noise: FloatArray | None = None) -> FloatArray:
        """Steps must be taken in order."""
        config = self.schedule.config
        _, eps = self.split(output, index, sample)
        self.keep(eps)
        order = self.order_at(index, config.lower_order_final and len(self.timesteps) < FEW_STEPS)
        rhos = [float(self.sigmas[index + 1 - k]) for k in range(order + 1)]
        alpha, alpha_next = alpha_of(rhos[1]), alpha_of(rhos[0])
        if order == 1:
            weights = [rhos[0] - rhos[1]]
        else:
            weights = [_log_integral(rhos[0], rhos[1], rhos[1:], k) for k in range(order)]
        total = sum((np.float32(w) * e for w, e in zip(weights, reversed(self._kept), strict=False)),
                    np.zeros_like(eps))  # fmt: skip
        return np.asarray(np.float32(alpha_next) * (sample / np.float32(alpha) + total), dtype=np.float32)


def _log_integral(end: float, start: float, nodes: list[float], which: int) -> float:
    """Integral over rho from `start` to `end` of the Lagrange polynomial in log rho that is 1 at nodes[which]."""
    logs = [math.log(node) for node in nodes]
    others = [log for k, log in enumerate(logs) if k != which]
    scale = math.prod(logs[which] - other for other in others)
    if len(others) == 1:

        def integral(rho: float) -> float:  # of (log rho - b)
            return rho * (math.log(rho) - 1 - others[0])
    else:
        b, c = others

        def integral(rho: float) -> float:  # of (log rho - b) (log rho - c)
            log = math.log(rho)
            return rho * (log**2 - 2 * log + 2 - (b + c) * (log - 1) + b * c)

    return (integral(end) - integral(start)) / scale


def alpha_of(sigma: float) -> float:
    """sqrt(alphas_cumprod) at sigma."""
    return float((sigma**2 + 1) ** -0.5)


def _plan(schedule: NoiseSchedule, steps: int, cuts_lambda: bool) -> tuple[FloatArray, NDArray[np.float64]]:
    """Timesteps [S] and sigmas [S] as diffusers' multistep schedulers space them."""
    config = schedule.config
    if config.use_karras_sigmas:
        high = float(schedule.sigmas[-1]) if config.sigma_max is None or cuts_lambda else config.sigma_max
        low = float(schedule.sigmas[0]) if config.sigma_min is None or cuts_lambda else config.sigma_min
        sigmas = karras_sigmas(high, low, steps)
        timesteps = timestep_of_sigma(sigmas, schedule)
        if config.beta_schedule != "squaredcos_cap_v2" or not cuts_lambda:
            timesteps = np.round(timesteps)
        return np.trunc(timesteps).astype(np.float32), sigmas
    last = config.num_train_timesteps
    if cuts_lambda:
        lambdas = -np.log(schedule.sigmas)[::-1]  # rising
        last -= int(np.searchsorted(lambdas, config.lambda_min_clipped))
    spacing = config.timestep_spacing or "linspace"
    if spacing == "linspace":
        timesteps = np.round(np.linspace(0, last - 1, steps + 1))[::-1][:-1]
    elif spacing == "leading":
        stride = last // (steps + 1)
        timesteps = np.arange(steps + 1, dtype=np.float64)[::-1][:-1] * stride + config.steps_offset
    else:
        timesteps = np.round(np.arange(last, 0, -config.num_train_timesteps / steps)) - 1
    return timesteps.astype(np.float32), schedule.sigma_at(timesteps)
