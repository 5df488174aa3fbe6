"""The samplers by name, and what every one of them can do.

    sampler = make_sampler(config, "ddim", steps=50)     # a new one for every run: multistep samplers remember
    latents = noise * sampler.init_noise_sigma
    for index, timestep in enumerate(sampler.timesteps):
        output = unet(sampler.scale_input(latents, index), timestep)
        latents = sampler.step(output, index, latents, noise=draw() if sampler.draws_noise else None)

They equal diffusers' schedulers step by step; the tests compare them.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from limner.runtime.diffusion.samplers.alpha import DDIM, PNDM
from limner.runtime.diffusion.samplers.few_step import DDPM, LCM, TCD
from limner.runtime.diffusion.samplers.multistep import DEIS, DPMSolverPP, DPMSolverSDE, UniPC
from limner.runtime.diffusion.samplers.schedule import NoiseSchedule, SchedulerConfig
from limner.runtime.diffusion.samplers.sigma import LMS, Euler, EulerAncestral, Heun
from limner.runtime.errors import BundleError, InputError, nearest
from limner.runtime.schema import require_int, require_number
from limner.runtime.settings import TAKES_ETA, SamplerName, require_sampler

__all__ = ["DIFFUSERS_CLASSES", "SAMPLERS", "Sampler", "default_sampler", "make_sampler"]

FloatArray = NDArray[np.float32]


class Sampler(Protocol):
    """One run's plan and memory."""

    timesteps: FloatArray  # [S], what the network is told at each of the S calls
    init_noise_sigma: float  # what standard normal noise is multiplied with to start
    schedule: NoiseSchedule
    draws_noise: bool  # whether `step` takes a standard normal draw

    def scale_input(self, sample: FloatArray, index: int) -> FloatArray:
        """Latents [N,C,h,w] as the network takes them at step `index`."""
        ...

    def step(self, output: FloatArray, index: int, sample: FloatArray, noise: FloatArray | None = None) -> FloatArray:
        """Latents of the next step from the network's output at this one."""
        ...

    def add_noise(self, clean: FloatArray, noise: FloatArray, index: int) -> FloatArray:
        """Clean latents with the noise of step `index`."""
        ...


SAMPLERS: dict[str, Callable[[NoiseSchedule, int], Sampler]] = {
    "ddim": DDIM,
    "pndm": PNDM,
    "euler": Euler,
    "euler-ancestral": EulerAncestral,
    "dpm-solver++": DPMSolverPP,
    "lms": LMS,
    "heun": Heun,
    "ddpm": DDPM,
    "unipc": UniPC,
    "deis": DEIS,
    "dpm-solver++-sde": DPMSolverSDE,
    "lcm": LCM,
    "tcd": TCD,
}
NO_ZERO_SNR = ("pndm", "lms", "heun", "deis")
DIFFUSERS_CLASSES: dict[str, SamplerName] = {
    "DDIMScheduler": "ddim",
    "PNDMScheduler": "pndm",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler-ancestral",
    "DPMSolverMultistepScheduler": "dpm-solver++",
    "LMSDiscreteScheduler": "lms",
    "HeunDiscreteScheduler": "heun",
    "DDPMScheduler": "ddpm",
    "UniPCMultistepScheduler": "unipc",
    "DEISMultistepScheduler": "deis",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
}
# What a sampler's scheduler takes where the file leaves a key out, if it is not what most take.
OWN_DEFAULTS: dict[str, dict[str, object]] = {
    "heun": {"beta_start": 0.00085, "beta_end": 0.012},
    "lcm": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    "tcd": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
}


def default_sampler(config: SchedulerConfig) -> SamplerName:
    """Return the sampler that scheduler_config.json names; BundleError lists the known ones for another class."""
    if config.class_name not in DIFFUSERS_CLASSES:
        raise BundleError(
            "scheduler_config.json._class_name", repr(config.class_name), ", ".join(DIFFUSERS_CLASSES),
            nearest(config.class_name, DIFFUSERS_CLASSES),
        )  # fmt: skip
    name = DIFFUSERS_CLASSES[config.class_name]
    return "dpm-solver++-sde" if name == "dpm-solver++" and config.algorithm_type == "sde-dpmsolver++" else name


def make_sampler(
    config: SchedulerConfig,
    name: str,  # a key of SAMPLERS
    steps: int,  # 1 to config.num_train_timesteps
    eta: float = 0.0,  # noise of DDIM and TCD, 0 to 1; the others do not take it
) -> Sampler:
    """Return a fresh sampler; InputError for an unknown name or a number of steps that cannot be."""
    require_sampler("sampler", name)
    require_int("steps", steps, 1, config.num_train_timesteps)
    require_number("eta", eta, 0.0, 1.0)
    config = config.with_defaults(OWN_DEFAULTS.get(name, {}))
    if name in NO_ZERO_SNR:  # as diffusers' schedulers of these names, which do not know the key
        config = replace(config, rescale_betas_zero_snr=False)
    schedule = NoiseSchedule(config)
    if name in TAKES_ETA:
        return (DDIM if name == "ddim" else TCD)(schedule, steps, eta)
    if eta != 0.0:
        raise InputError("eta", f"{eta:g} with {name!r}", "0, except with 'ddim' and 'tcd'")
    return SAMPLERS[name](schedule, steps)
