"""The denoising loop with latents that stay where the UNet runs.

A sampler's step is a weighted sum of latents, outputs of the network and draws, of this step and of earlier ones; the
weights hang on the step alone. So the sampler itself, fed with unit vectors in place of pictures, tells them, and the
loop runs on the device as the UNet and one small graph by turns (`limner.runtime.graphs.binding`): per step the host
sends a timestep and some weights, and reads one number, which is not finite if the latents are not. Classifier-free
guidance is a weighted sum as well:

    eps = (1 - w) eps_uncond + w eps_text

Edits look into the latents between steps (masks, attention, concepts) and keep the loop of `sampling.denoise`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limner.runtime.diffusion.networks import DiffusionNetworks, Graphs
from limner.runtime.diffusion.samplers.alpha import DDIM
from limner.runtime.diffusion.samplers.by_name import Sampler
from limner.runtime.diffusion.samplers.few_step import DDPM
from limner.runtime.errors import InputError
from limner.runtime.graphs.binding import BoundGraph, Linear, to_device
from limner.runtime.graphs.sessions import Sessions
from limner.runtime.timing import Progress

__all__ = ["LinearStep", "can_stay", "denoise_resident", "linear_steps"]

FloatArray = NDArray[np.float32]
Key = tuple[str, int]  # "latents", "output" or "noise"; of which step
KINDS = ("latents", "output", "noise")


@dataclass(frozen=True)
class LinearStep:
    """One step: the latents after it as a weighted sum."""

    scale: float  # of the latents before it, for the network
    terms: dict[Key, float]


def can_stay(graphs: Graphs, sampler: Sampler) -> bool:
    """Whether the graphs run on a device that can keep arrays, other than the CPU, and the sampler is linear."""
    clips = sampler.schedule.config.clips(isinstance(sampler, (DDIM, DDPM)))
    return isinstance(graphs, Sessions) and graphs.device not in (None, "cpu") and not clips


def linear_steps(sampler: Sampler) -> list[LinearStep]:
    """The weights of all steps, by a run of the sampler (a fresh one, used up by this) on unit vectors."""
    total = len(sampler.timesteps)
    units = np.eye(len(KINDS) * total, dtype=np.float32)
    found = []
    for index in range(total):
        latents, output, noise = units[len(KINDS) * index : len(KINDS) * (index + 1)]
        after = sampler.step(output, index, latents, noise if sampler.draws_noise else None)
        terms = {(KINDS[k % len(KINDS)], int(k) // len(KINDS)): float(after[k]) for k in np.flatnonzero(after)}
        scale = float(sampler.scale_input(np.ones(1, np.float32), index)[0])
        found.append(LinearStep(scale, terms))
    return found


def denoise_resident(
    networks: DiffusionNetworks,
    sampler: Sampler,
    latents: FloatArray,  # [N,C,h,w], times init_noise_sigma
    states: FloatArray,  # [2N,77,D], unconditional rows first, or [N,77,D] without guidance
    scale: float,  # w
    *,
    draw: Callable[[], FloatArray] | None = None,
    progress: Progress | None = None,
) -> FloatArray:
    """Walk to the end; InputError naming the step if latents are NaN or infinite after it."""
    sessions = networks.graphs
    if not isinstance(sessions, Sessions) or sessions.device is None:
        raise InputError("provider", "one that keeps no arrays", "cpu, cuda or tensorrt")
    if sampler.draws_noise and draw is None:
        raise InputError("noise", "nothing", "a source of draws for a sampler that takes noise")
    steps, device = linear_steps(sampler), sessions.device
    copies, total = len(states) // len(latents), len(steps)
    sample: object = np.concatenate([latents * np.float32(steps[0].scale)] * copies)
    fixed = networks.unet_inputs(np.asarray(sample), float(sampler.timesteps[0]), states)
    unet = sessions.bind("unet", ["noise_pred"], fixed)
    linear, kept = Linear(device), {("latents", 0): to_device(latents, device)}
    last_use = {key: index for index, step in enumerate(steps) for key in step.terms}
    for index, step in enumerate(steps):
        networks.count_rows(len(states))
        kept["output", index] = _output(unet, sample, float(sampler.timesteps[index]), len(states))
        if sampler.draws_noise and draw is not None:
            kept["noise", index] = to_device(draw(), device)
        halves = [("output", j) for kind, j in step.terms if kind == "output" and copies == 2]
        plain = [(kept[key], weight) for key, weight in step.terms.items() if key not in halves]
        pairs = [(kept[key], (1 - scale) * step.terms[key], scale * step.terms[key]) for key in halves]
        following = steps[min(index + 1, total - 1)].scale
        made, sample, square = linear(plain, pairs, following, copies)
        if not np.isfinite(square):
            given = f"NaN or infinity at step {index + 1} of {total} (timestep {sampler.timesteps[index]:g})"
            raise InputError("unet", given, "finite numbers", "lower the scales, or take a bundle of higher precision")
        kept["latents", index + 1] = made
        kept = {key: value for key, value in kept.items() if last_use.get(key, -1) > index or key[1] > index}
        if progress is not None:
            progress(index + 1, total, {})
    found: FloatArray = kept["latents", total].numpy()
    return found


def _output(unet: BoundGraph, sample: object, timestep: float, rows: int) -> object:
    found: object = unet(sample=sample, timestep=np.full(rows, timestep, np.float32))[0]
    return found
