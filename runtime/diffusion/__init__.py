"""Latent diffusion without torch: the graphs of a diffusion bundle, samplers, guidance, inversion.

Reading order:

1. `schedule`, `samplers` (`alpha_samplers`, `sigma_samplers`): the noise schedule and how to walk along it
2. `control`, `networks`: the UNet's attention-control inputs, the graphs as functions of arrays
3. `sampling`: noise, classifier-free guidance, the loop, plain generation
4. `ddim_inversion`, `edit_friendly`: from a picture back to noise
5. `concepts`, `masks`: semantic guidance (SEGA) and the masks of LEDITS++
6. `sources`, `engine`: recipes of a diffusion bundle

The methods that use it are `limner.runtime.methods.sega` and `limner.runtime.methods.prompt_to_prompt`.
"""
