"""What scheduler_config.json says: the noise schedule of a diffusion model, read as diffusers reads it.

    alphas_cumprod[t] = prod_{s<=t} (1 - beta_s)            the signal's share of the variance (Ho et al. 2020, eq. 4)
    sigma(t) = sqrt((1 - alphas_cumprod) / alphas_cumprod)   noise per signal (Karras et al. 2022)

A key that the file leaves out has the default of the scheduler that runs, which is what diffusers does when
one scheduler is made from another one's file.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.loading import Bundle
from limner.runtime.errors import BundleError
from limner.runtime.schema import convert
from limner.runtime.storage.files import read_plain

__all__ = [
    "NoiseSchedule",
    "SchedulerConfig",
    "bundle_scheduler",
    "karras_sigmas",
    "read_scheduler_config",
    "spaced",
    "timestep_of_sigma",
]

MAX_BYTES = 1_000_000
MAX_TIMESTEPS = 100_000
MAX_NUMBER = 1e6
FloatArray = NDArray[np.float32]
Float64Array = NDArray[np.float64]

# Keys that change what is computed and are not supported, with the values that leave them off.
OFF: dict[str, tuple[Any, ...]] = {
    "thresholding": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "use_flow_sigmas": (False, None),
    "use_dynamic_shifting": (False, None),
    "variance_type": (None, "fixed_small", "fixed_large"),
    "shift_terminal": (None,),
    "solver_p": (None,),
    "flow_shift": (None, 1.0, 1),
    "timestep_type": ("discrete", None),
    "interpolation_type": ("linear", None),
}
CHOICES: dict[str, tuple[Any, ...]] = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "v_prediction", "sample"),
    "timestep_spacing": ("linspace", "leading", "trailing", None),
    "final_sigmas_type": ("zero", "sigma_min"),
    "solver_type": ("midpoint", "heun", "bh1", "bh2", "logrho"),
    "solver_order": (1, 2, 3),
    "algorithm_type": ("dpmsolver++", "sde-dpmsolver++", "deis"),
}
SMALLEST_SIGNAL = 2.0**-24  # diffusers' stand-in for a signal of zero, so that the first sigma is finite


@dataclass(frozen=True)
class SchedulerConfig:
    """The keys of scheduler_config.json that matter here; None takes the running sampler's own default."""

    class_name: str = ""  # "_class_name" in the file
    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    prediction_type: str = "epsilon"
    timestep_spacing: str | None = None
    steps_offset: int = 0
    rescale_betas_zero_snr: bool = False
    set_alpha_to_one: bool | None = None
    clip_sample: bool | None = None  # of x0; None is true for DDIM and DDPM, false for the others that read it
    clip_sample_range: float = 1.0
    skip_prk_steps: bool = False
    use_karras_sigmas: bool = False
    sigma_min: float | None = None
    sigma_max: float | None = None
    final_sigmas_type: str = "zero"
    algorithm_type: str = "dpmsolver++"
    solver_order: int = 2
    solver_type: str = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    lambda_min_clipped: float = -math.inf
    predict_x0: bool = True  # UniPC
    disable_corrector: tuple[int, ...] = ()  # UniPC: steps
    original_inference_steps: int = 50  # LCM, TCD
    timestep_scaling: float = 10.0  # LCM
    variance_type: str | None = None  # DDPM
    given: frozenset[str] = frozenset()  # keys that the file has

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "scheduler_config.json") -> "SchedulerConfig":
        """Take the known keys; BundleError for a value or a feature that is not supported."""
        for key, allowed in OFF.items():
            if key in data and data[key] not in allowed:
                raise BundleError(f"{where}.{key}", repr(data[key]), " or ".join(map(repr, allowed)))
        known = {one.name for one in fields(cls)}
        values = {key: value for key, value in data.items() if key in known}
        values |= {"class_name": str(data.get("_class_name", "")), "given": frozenset(values)}
        for key, allowed in CHOICES.items():
            if key in values and values[key] not in allowed:
                raise BundleError(f"{where}.{key}", repr(values[key]), ", ".join(map(repr, allowed)))
        _check_zero_snr(values, str(data.get("_class_name", "")), where)
        values = {key: value for key, value in values.items() if value is not None or key in _NULLABLE}
        hints = get_type_hints(cls)
        for key in values.keys() - {"given"}:
            if not (key == "lambda_min_clipped" and values[key] == -math.inf):  # the one infinity that files hold
                values[key] = convert(hints[key], values[key], f"{where}.{key}", BundleError)
        found = cls(**values)
        _check_ranges(found, where)
        return found

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """The keys of the file that are read, be it to refuse them."""
        own = (one.name for one in fields(cls) if one.name not in ("class_name", "given"))
        return (*own, *OFF, *CHOICES)

    def as_pipeline(self, two_encoders: bool) -> "SchedulerConfig":
        """As diffusers' pipelines change it: latents are never clipped, and StableDiffusionPipeline, which has one
        text encoder, takes an offset of one step whatever the file says."""
        offset = self.steps_offset if two_encoders else 1
        return replace(self, clip_sample=False, steps_offset=offset)

    def with_defaults(self, own: Mapping[str, Any]) -> "SchedulerConfig":
        """The config with a sampler's own defaults for keys that the file leaves out."""
        return replace(self, **{key: value for key, value in own.items() if key not in self.given})

    def clips(self, by_default: bool) -> bool:
        """Whether x0 is clipped, by a sampler that reads clip_sample."""
        return by_default if self.clip_sample is None else self.clip_sample

    def clipped(self, clean: FloatArray, by_default: bool) -> FloatArray:
        """x0, within clip_sample_range where it is clipped."""
        if not self.clips(by_default):
            return clean
        return np.clip(clean, -self.clip_sample_range, self.clip_sample_range)


_NULLABLE = {
    "trained_betas",
    "timestep_spacing",
    "set_alpha_to_one",
    "sigma_min",
    "sigma_max",
    "clip_sample",
    "variance_type",
}


def bundle_scheduler(bundle: Bundle) -> SchedulerConfig:
    """Return a diffusion bundle's scheduler, set as diffusers' pipelines set it."""
    meta = bundle.diffusion
    found = read_scheduler_config(bundle.file(meta.scheduler), meta.scheduler)
    return found.as_pipeline(two_encoders=meta.pooled > 0)


def read_scheduler_config(path: Path, where: str = "scheduler_config.json") -> SchedulerConfig:
    """Read diffusers' file (which may hold -Infinity); BundleError names what is wrong with it."""
    allowed = "diffusers' scheduler_config.json"
    try:
        data = json.loads(read_plain(path, where, MAX_BYTES, allowed, BundleError))
    except (ValueError, RecursionError) as reason:
        raise BundleError(where, f"a file that does not read ({reason})", allowed) from reason
    if not isinstance(data, dict):
        raise BundleError(where, "JSON that is not an object", "diffusers' scheduler_config.json")
    return SchedulerConfig.from_dict(data, where)


def _check_ranges(config: SchedulerConfig, where: str) -> None:
    """BundleError for numbers that no schedule can be made of."""
    count = config.num_train_timesteps
    if not 1 <= count <= MAX_TIMESTEPS:
        raise BundleError(f"{where}.num_train_timesteps", count, f"1 to {MAX_TIMESTEPS}")
    for key in ("beta_start", "beta_end"):
        if not 0.0 < getattr(config, key) < 1.0:
            raise BundleError(f"{where}.{key}", f"{getattr(config, key):g}", "a number between 0 and 1")
    betas = config.trained_betas
    if betas is not None and (len(betas) != count or not all(0.0 < beta < 1.0 for beta in betas)):
        raise BundleError(f"{where}.trained_betas", f"{len(betas)} numbers", f"{count} between 0 and 1")
    for key in ("steps_offset", "original_inference_steps"):
        if not 0 <= getattr(config, key) <= count:
            raise BundleError(f"{where}.{key}", getattr(config, key), f"0 to {count}")
    for key in ("clip_sample_range", "timestep_scaling", "sigma_min", "sigma_max"):
        value = getattr(config, key)
        if value is not None and not 0.0 < value <= MAX_NUMBER:
            raise BundleError(f"{where}.{key}", f"{value:g}", f"a number above 0, at most {MAX_NUMBER:g}")


def _check_zero_snr(values: Mapping[str, Any], class_name: str, where: str) -> None:
    """BundleError for a last step of pure noise that the scheduler divides by, or that says nothing of x0."""
    if not values.get("rescale_betas_zero_snr"):
        return
    if class_name in ("PNDMScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler", "DEISMultistepScheduler"):
        raise BundleError(f"{where}.rescale_betas_zero_snr", "true", f"false with {class_name}")
    if values.get("prediction_type", "epsilon") == "epsilon":
        raise BundleError(f"{where}.rescale_betas_zero_snr", "true with prediction_type 'epsilon'",
                          "with 'v_prediction' or 'sample': the noise of pure noise says nothing")  # fmt: skip


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The schedule that a config makes: `alphas_cumprod` float32 [T], as torch computes it."""

    config: SchedulerConfig
    alphas_cumprod: FloatArray = field(init=False)
    sigmas: FloatArray = field(init=False)  # float32 [T], rising

    def __post_init__(self) -> None:
        alphas_cumprod = _cumulative(_betas(self.config))
        if self.config.rescale_betas_zero_snr:
            alphas_cumprod = _cumulative(_zero_snr(_betas(self.config)))
        object.__setattr__(self, "alphas_cumprod", alphas_cumprod)
        nothing = alphas_cumprod <= 0
        nothing[-1] &= not self.config.rescale_betas_zero_snr
        gone = int(nothing.sum())
        if gone or not np.isfinite(alphas_cumprod).all():
            given = f"noise that leaves nothing of a picture at {gone} of {len(alphas_cumprod)} timesteps"
            raise BundleError("scheduler_config.json", given, "smaller beta_end, or another beta_schedule")
        safe = alphas_cumprod.copy()
        if self.config.rescale_betas_zero_snr:
            safe[-1] = SMALLEST_SIGNAL
        object.__setattr__(self, "sigmas", np.sqrt((1 - safe) / safe).astype(np.float32))

    def alpha(self, timestep: int, beyond: float = 1.0) -> float:
        """alphas_cumprod at `timestep`, or `beyond` below 0."""
        return float(self.alphas_cumprod[timestep]) if timestep >= 0 else beyond

    def sigma_at(self, timesteps: NDArray[Any]) -> Float64Array:
        """sigma at timesteps that may lie between the trained ones, linear in between."""
        positions = np.arange(len(self.sigmas))
        result: Float64Array = np.interp(timesteps, positions, self.sigmas)
        return result


def spaced(config: SchedulerConfig, steps: int, default: str) -> Float64Array:
    """Return `steps` falling timesteps (Lin et al. 2023, table 2), not rounded for "linspace"."""
    spacing, total = config.timestep_spacing or default, config.num_train_timesteps
    if spacing == "linspace":
        return np.linspace(0, total - 1, steps)[::-1].copy()
    if spacing == "leading":
        return np.arange(steps, dtype=np.float64)[::-1] * (total // steps) + config.steps_offset
    return np.round(np.arange(total, 0, -total / steps)) - 1


def karras_sigmas(sigma_max: float, sigma_min: float, steps: int, rho: float = 7.0) -> Float64Array:
    """Return `steps` falling sigmas (Karras et al. 2022, eq. 5)."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    result: Float64Array = (high + np.linspace(0, 1, steps) * (low - high)) ** rho
    return result


def timestep_of_sigma(sigmas: NDArray[Any], schedule: NoiseSchedule) -> Float64Array:
    """Return the timesteps, linear in log sigma between the trained ones, at which the noise is `sigmas`."""
    logs = np.log(schedule.sigmas)
    result: Float64Array = np.interp(np.log(np.maximum(sigmas, 1e-10)), logs, np.arange(len(logs)))
    return result


def _betas(config: SchedulerConfig) -> FloatArray:
    count = config.num_train_timesteps
    if config.trained_betas is not None:
        return np.asarray(config.trained_betas, dtype=np.float32)
    if config.beta_schedule == "linear":
        return _linspace(config.beta_start, config.beta_end, count)
    if config.beta_schedule == "scaled_linear":
        return _linspace(config.beta_start**0.5, config.beta_end**0.5, count) ** 2
    bars = [math.cos((i / count + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(count + 1)]  # Nichol & Dhariwal
    return np.array([min(1 - bars[i + 1] / bars[i], 0.999) for i in range(count)], dtype=np.float32)


def _linspace(start: float, end: float, count: int) -> FloatArray:
    """torch.linspace in float32: from both ends to the middle."""
    if count == 1:
        return np.full(1, start, dtype=np.float32)
    step = (np.float32(end) - np.float32(start)) / np.float32(count - 1)
    index = np.arange(count, dtype=np.float32)
    rising, falling = np.float32(start) + step * index, np.float32(end) - step * (np.float32(count - 1) - index)
    return np.where(index < count // 2, rising, falling).astype(np.float32)


def _cumulative(betas: FloatArray) -> FloatArray:
    return np.cumprod((np.float32(1) - betas).astype(np.float64)).astype(np.float32)


def _zero_snr(betas: FloatArray) -> FloatArray:
    """Betas whose last step holds no signal at all (Lin et al. 2023, algorithm 1)."""
    root = np.sqrt(_cumulative(betas))
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    bar = root**2
    alphas = np.concatenate([bar[:1], bar[1:] / bar[:-1]])
    return (np.float32(1) - alphas).astype(np.float32)
