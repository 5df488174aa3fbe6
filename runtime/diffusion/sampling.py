"""From noise to latents: draws, classifier-free guidance, the loop, plain generation.

    eps = eps_uncond + w (eps_text - eps_uncond)        Ho & Salimans 2022, eq. 6; w <= 1 leaves it out

Every picture of a batch has a seed and a stream of random numbers of its own, so that it is the same picture in
any batch up to the rounding of the graphs.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from limner.runtime.diffusion import resident
from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.diffusion.previews import Watch, predicted_clean, watch
from limner.runtime.diffusion.samplers.by_name import Sampler, default_sampler, make_sampler
from limner.runtime.errors import GraphError, InputError, NonFiniteError
from limner.runtime.settings import SamplingParameters
from limner.runtime.timing import Previews, Progress

__all__ = ["Draws", "Estimate", "checked_output", "denoise", "generate", "guided", "new_sampler", "plain_estimate"]

FloatArray = NDArray[np.float32]
Estimate = Callable[[FloatArray, float, int], FloatArray]
"""estimate(sample, timestep, index) -> guided output: `sample` is scaled for the network."""
AfterStep = Callable[[int, FloatArray], FloatArray]
"""after(index, latents) -> latents: what a method changes after a step."""


class Draws:
    """Standard normal float32 draws, one stream a picture: numpy's RandomState(seed)."""

    def __init__(self, seeds: Sequence[int], shape: tuple[int, ...]) -> None:
        self.shape = shape  # of one picture's latents
        self._streams = [np.random.RandomState(seed) for seed in seeds]

    def __call__(self) -> FloatArray:
        """Return the next draw, [N,*shape]."""
        return np.stack([stream.standard_normal(self.shape) for stream in self._streams]).astype(np.float32)


def new_sampler(networks: DiffusionNetworks, parameters: SamplingParameters) -> Sampler:
    """Return a fresh sampler for one run."""
    name = parameters.sampler or default_sampler(networks.scheduler)
    return make_sampler(networks.scheduler, name, parameters.steps, parameters.eta)


def guided(uncond: FloatArray, text: FloatArray, scale: float) -> FloatArray:
    """uncond + scale (text - uncond)."""
    return uncond + np.float32(scale) * (text - uncond)


def plain_estimate(
    networks: DiffusionNetworks,
    text: FloatArray,  # [N,77,D]
    uncond: FloatArray | None,  # [N,77,D]; not read where scale <= 1
    scale: float,
    until: int | None = None,  # the step that guidance ends at
) -> Estimate:
    """Classifier-free guidance with 2N rows, or N where there is nothing to guide.

    Guidance that ends early: Kynkäänniemi et al. 2024, "Applying guidance in a limited interval".
    """
    if scale <= 1.0 or uncond is None:
        return lambda sample, timestep, index: networks.unet(sample, timestep, text).output
    states = np.concatenate([uncond, text])  # [2N,77,D]

    def estimate(sample: FloatArray, timestep: float, index: int) -> FloatArray:
        if until is not None and index >= until:
            return networks.unet(sample, timestep, text).output
        output = networks.unet(np.concatenate([sample, sample]), timestep, states).output
        return guided(output[: len(sample)], output[len(sample) :], scale)

    return estimate


def denoise(
    sampler: Sampler,
    latents: FloatArray,  # [N,C,h,w] at the step `first`
    estimate: Estimate,
    *,
    draw: Callable[[], FloatArray] | None = None,  # standard normal draws, for a sampler that takes them
    after: AfterStep | None = None,
    first: int = 0,
    progress: Progress | None = None,
    watch: Watch | None = None,  # sees the clean latents on the way
) -> FloatArray:
    """Walk from step `first` to the end; InputError naming the step if the UNet gives NaN or infinity."""
    total = len(sampler.timesteps)
    if sampler.draws_noise and draw is None:
        raise InputError("noise", "nothing", "a source of draws for a sampler that takes noise")
    for index in range(first, total):
        timestep = float(sampler.timesteps[index])
        sample = sampler.scale_input(latents, index)
        output = checked_output(estimate, sample, timestep, index, total)
        if watch is not None:
            watch(index + 1, total, partial(predicted_clean, sampler, output, sample, timestep))
        noise = draw() if draw is not None and sampler.draws_noise else None
        latents = sampler.step(output, index, latents, noise).astype(np.float32, copy=False)
        if after is not None:
            latents = after(index, latents)
        if progress is not None:
            progress(index + 1, total, {})
    return latents


def checked_output(estimate: Estimate, sample: FloatArray, timestep: float, index: int, total: int) -> FloatArray:
    """Return the estimate if it is finite."""
    given = f"NaN or infinity at step {index + 1} of {total} (timestep {timestep:g})"
    hint = "lower the scales, or take a bundle of higher precision"
    try:
        output = estimate(sample, timestep, index)
    except NonFiniteError as reason:
        raise InputError("unet", given, "finite numbers", hint) from reason
    except GraphError as reason:
        raise GraphError(f"step {index + 1} of {total}: {reason}") from reason
    if not np.isfinite(output).all():
        raise InputError("unet", given, "finite numbers", hint)
    return output


def generate(
    networks: DiffusionNetworks,
    prompts: Sequence[str],
    seeds: Sequence[int],  # one a prompt
    parameters: SamplingParameters,
    *,
    negative: str = "",
    latents: FloatArray | None = None,  # [N,C,h,w] unit noise in place of the seeds' first draw
    progress: Progress | None = None,
) -> FloatArray:
    """Make N pictures from text; return latents [N,C,h,w], for `networks.decode`."""
    if len(prompts) != len(seeds):
        raise InputError("seeds", f"{len(seeds)} seeds", f"{len(prompts)}, one a prompt")
    shape = networks.latent_shape(parameters.height, parameters.width)
    sampler = new_sampler(networks, parameters)
    draw = Draws(seeds, shape)
    start = draw() if latents is None else latents
    text = networks.token_states(prompts)
    uncond = networks.token_states([negative] * len(prompts), "negative_prompt")
    start = start * np.float32(sampler.init_noise_sigma)
    if parameters.exact and not isinstance(progress, Previews) and resident.can_stay(networks.graphs, sampler):
        states = np.concatenate([uncond, text]) if parameters.guidance_scale > 1.0 else text
        scale = parameters.guidance_scale
        return resident.denoise_resident(networks, sampler, start, states, scale, draw=draw, progress=progress)
    until = parameters.guided_steps(len(sampler.timesteps))
    shared = networks.sharing(parameters.cache_interval)
    estimate = plain_estimate(shared, text, uncond, parameters.guidance_scale, until)
    return denoise(sampler, start, estimate, draw=draw, progress=progress, watch=watch(networks, progress))
