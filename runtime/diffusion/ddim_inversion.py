"""From a picture back to noise by DDIM, and three ways to come back from there. No gradients.

ddim              walk from the noise again; errors add up
negative-prompt   the same with the source's text in place of the unconditional one (Miyake et al. 2023): guidance
                  of the source is then no guidance, at any scale
direct            the source's latents are not computed again but replayed (Ju et al. 2023, "PnP inversion"): the
                  source branch is exact, its attention too
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.diffusion.samplers.alpha import DDIM, ddim_inverse_step
from limner.runtime.diffusion.samplers.schedule import NoiseSchedule
from limner.runtime.diffusion.sampling import Estimate, checked_output, plain_estimate
from limner.runtime.timing import Progress

__all__ = ["InvertedPath", "ddim_invert", "invert_with_prompts"]

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class InvertedPath:
    """The latents of an inversion: row k of `latents` is what step k of the sampler starts from.

    The last row is the picture itself, the first one its noise.
    """

    latents: FloatArray  # [S+1,N,C,h,w]
    steps: int  # S

    @property
    def noise(self) -> FloatArray:
        """Where sampling starts, [N,C,h,w]."""
        start: FloatArray = self.latents[0]
        return start

    @property
    def clean(self) -> FloatArray:
        """The picture's own latents, [N,C,h,w]."""
        end: FloatArray = self.latents[-1]
        return end


def ddim_invert(
    sampler: DDIM,
    clean: FloatArray,  # [N,C,h,w]
    estimate: Estimate,  # usually without guidance: with it the way back differs more
    progress: Progress | None = None,
) -> InvertedPath:
    """Run DDIM backwards, each step with the estimate at the timestep that the forward step will ask for."""
    total = len(sampler.timesteps)
    latents = [clean]
    for done, index in enumerate(reversed(range(total))):
        timestep = float(sampler.timesteps[index])
        output = checked_output(estimate, latents[-1], timestep, index, total)
        latents.append(ddim_inverse_step(sampler, output, index, latents[-1]))
        if progress is not None:
            progress(done + 1, total, {})
    return InvertedPath(np.stack(latents[::-1]), total)


def invert_with_prompts(
    networks: DiffusionNetworks,
    clean: FloatArray,  # [N,C,h,w]
    prompts: Sequence[str],  # what the pictures show, N of them; "" where nothing is known
    steps: int,
    guidance_scale: float = 1.0,
    progress: Progress | None = None,
) -> InvertedPath:
    """Invert N pictures with their prompts, at guidance 1 unless asked otherwise."""
    text = networks.token_states(prompts, "source.prompt")
    uncond = networks.token_states([""] * len(prompts)) if guidance_scale > 1.0 else None
    sampler = DDIM(NoiseSchedule(networks.scheduler), steps)
    return ddim_invert(sampler, clean, plain_estimate(networks, text, uncond, guidance_scale), progress)
