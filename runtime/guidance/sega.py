"""The method `sega`: concepts steer a diffusion model while it makes a picture, or makes a given one again.

A picture from a text and a seed takes the published guidance (`diffusion.concepts`). A given picture is first turned
into noise maps that give it back exactly (`diffusion.edit_friendly`), then made again with each concept inside its
own mask (`diffusion.masks`, LEDITS++). Rows of the UNet that cannot change the result are left out.

In a recipe the texts of `prompts` are the concepts: "glasses" with strength 5 adds them, with -5 takes them away. A
concept without a strength takes the parameters' `scale`, and `away` turns it round.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from limner.runtime.diffusion.edit_friendly import SOURCE_GUIDANCE, NoiseMaps, edit_friendly_invert
from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.diffusion.previews import watch
from limner.runtime.diffusion.sampling import denoise, new_sampler
from limner.runtime.diffusion.sources import DiffusionStart
from limner.runtime.guidance.concepts import Concept
from limner.runtime.guidance.masks import enlarged
from limner.runtime.guidance.steering import Base, MaskedSteering, SemanticSteering, Steering
from limner.runtime.methods.sega import ConceptOptions, SegaParameters, concept_scale
from limner.runtime.outcome import Outcome
from limner.runtime.recipe import PromptEdit, Recipe
from limner.runtime.settings import DiffusionInversionParameters
from limner.runtime.storage.later import Later
from limner.runtime.timing import Progress, Timer

__all__ = ["edited_latents", "run"]

FloatArray = NDArray[np.float32]
MOST_WARMUP = 10  # of the published guidance, for its 50 steps; the masked one has none


def run(
    networks: DiffusionNetworks,
    starts: Sequence[DiffusionStart],
    recipes: Sequence[Recipe],
    timer: Timer,
    progress: Progress | None,
) -> list[Outcome]:
    """Edit N prompts, or N pictures, in one batch; the concepts of each are its own."""
    recipes = [_filled(recipe) for recipe in recipes]
    prepared: list[NoiseMaps] | None = None
    if starts[0].clean is not None:
        with timer.stage("inversion"):
            prepared = _inverted(networks, starts, recipes, progress)
    with timer.stage("sampling"):
        latents, masks = edited_latents(networks, starts, recipes, prepared, progress)
    with timer.stage("decode"):
        images = networks.decode(latents)
    clean = [start.clean for start in starts if start.clean is not None]
    plain = Later(lambda: networks.decode(np.concatenate(clean)))
    return [
        _outcome(
            networks,
            start,
            recipe,
            images[row : row + 1],
            Later(partial(_row, plain, row)) if clean else None,
            None if prepared is None else prepared[row],
            masks[row],
        )
        for row, (start, recipe) in enumerate(zip(starts, recipes, strict=True))
    ]


def edited_latents(
    networks: DiffusionNetworks,
    starts: Sequence[DiffusionStart],
    recipes: Sequence[Recipe],
    prepared: Sequence[NoiseMaps] | None,  # of pictures, one a row
    progress: Progress | None,
) -> tuple[FloatArray, list[dict[str, FloatArray]]]:
    """Return latents [N,C,h,w] and, each concept's mean mask [h,w]."""
    parameters: SegaParameters = recipes[0].parameters
    if prepared is None:
        sampler, first = new_sampler(networks, parameters), 0
        draws = [start.draws() for start in starts]
        latents = np.concatenate([draw() for draw in draws]) * np.float32(sampler.init_noise_sigma)
        steps = len(sampler.timesteps)
    else:
        sampler, first, steps = prepared[0].sampler, prepared[0].first, prepared[0].steps
        draws = [maps.replay() for maps in prepared]  # type: ignore[misc]
        latents = np.concatenate([maps.start for maps in prepared])
    base = _base(networks, starts, recipes[0], steps)
    networks = base.networks
    names = [[prompt.text for prompt in recipe.prompts] for recipe in recipes]
    concepts = [[_concept(prompt, parameters) for prompt in recipe.prompts] for recipe in recipes]
    steering: Steering
    if parameters.guidance == "semantic":
        momentum = (parameters.momentum_scale, parameters.momentum_beta)
        steering = SemanticSteering(networks, base, names, concepts, steps, momentum, first)
    else:
        steering = MaskedSteering(networks, base, names, concepts, parameters.masks, first)
    latents = denoise(
        sampler,
        latents,
        steering.estimate,
        draw=lambda: np.concatenate([draw() for draw in draws]),
        first=first,
        progress=progress,
        watch=watch(networks, progress),
    )
    return latents, steering.mean_masks()


def _base(networks: DiffusionNetworks, starts: Sequence[DiffusionStart], recipe: Recipe, steps: int) -> Base:
    """The estimate that concepts are added to, for a run of so many steps."""
    parameters: SegaParameters = recipe.parameters
    inversion: DiffusionInversionParameters = recipe.inversion
    prompts, guided = [start.prompt for start in starts], parameters.guided_steps(steps)
    shared = networks.sharing(parameters.cache_interval)
    if recipe.source.kind == "prompt":
        return Base(shared, prompts, parameters.negative_prompt, parameters.guidance_scale, guided)
    return Base(shared, prompts, "", inversion.guidance_scale or 0.0, guided)


def _inverted(
    networks: DiffusionNetworks,
    starts: Sequence[DiffusionStart],
    recipes: Sequence[Recipe],
    progress: Progress | None,
) -> list[NoiseMaps]:
    """The noise maps of each picture; edits of one picture share them."""
    parameters: SegaParameters = recipes[0].parameters
    inversion: DiffusionInversionParameters = recipes[0].inversion
    keys = [(start.recipe.source.sha256, start.place, start.prompt, start.seed, start.shape) for start in starts]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    once = [starts[keys.index(key)] for key in places]
    base = _base(networks, once, recipes[0], parameters.steps)
    clean = np.concatenate([start.clean for start in once if start.clean is not None])
    draws = [start.draws() for start in once]
    found = edit_friendly_invert(
        networks,
        clean,
        base.estimate,
        parameters.steps,
        inversion.skip,
        lambda: np.concatenate([draw() for draw in draws]),
        progress,
    )
    return [
        replace(
            found,
            start=found.start[row : row + 1],
            maps=found.maps[:, row : row + 1],
            path=found.path[:, row : row + 1],
        )
        for row in (places[key] for key in keys)
    ]


def _outcome(
    networks: DiffusionNetworks,
    start: DiffusionStart,
    recipe: Recipe,
    image: FloatArray,
    reconstruction: Later[FloatArray] | None,
    prepared: NoiseMaps | None,
    masks: dict[str, FloatArray],
) -> Outcome:
    def render(changed: Recipe) -> FloatArray:
        """The picture at other strengths: the whole way again, but for the inversion."""
        if changed == recipe:
            return image
        maps = None if prepared is None else [prepared]
        latents, _ = edited_latents(networks, [start], [changed], maps, None)
        return networks.decode(latents)

    height, width = image.shape[-2:]
    pictures = {f"mask-{name}": _mask_picture(mask, height, width) for name, mask in masks.items()}
    return Outcome(recipe, render, reconstruction=reconstruction, pictures=pictures)


def _row(pictures: Later[FloatArray], row: int) -> FloatArray:
    return pictures()[row : row + 1]


def _mask_picture(mask: FloatArray, height: int, width: int) -> NDArray[np.uint8]:
    """Mask [h,w] in 0 to 1 -> uint8 [H,W,3]."""
    grey = np.round(enlarged(mask, (height, width)) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _filled(recipe: Recipe) -> Recipe:
    """Write what the recipe leaves to the method into it."""
    parameters: SegaParameters = recipe.parameters
    picture = recipe.source.kind == "image"
    if parameters.guidance is None:
        parameters = replace(parameters, guidance="masked" if picture else "semantic")
    prompts = []
    for prompt in recipe.prompts:
        options: ConceptOptions = prompt.options
        warmup, threshold = _warmup(options, parameters), options.threshold
        threshold = parameters.threshold if threshold is None else threshold
        own = replace(options, warmup=warmup, threshold=threshold, away=False)
        prompts.append(replace(prompt, strength=concept_scale(prompt, parameters), options=own))
    inversion: DiffusionInversionParameters = recipe.inversion
    if picture:
        scale = SOURCE_GUIDANCE if inversion.guidance_scale is None else inversion.guidance_scale
        inversion = replace(inversion, kind="edit-friendly", guidance_scale=scale)
    return replace(recipe, prompts=tuple(prompts), parameters=parameters, inversion=inversion)


def _warmup(options: ConceptOptions, parameters: SegaParameters) -> int:
    """The concept's own, the parameters', or the published one."""
    for own in (options.warmup, parameters.warmup):
        if own is not None:
            return own
    return min(MOST_WARMUP, parameters.steps // 5) if parameters.guidance == "semantic" else 0


def _concept(prompt: PromptEdit, parameters: SegaParameters) -> Concept:
    options: ConceptOptions = prompt.options
    threshold = parameters.threshold if options.threshold is None else options.threshold
    warmup = _warmup(options, parameters)
    return Concept(
        concept_scale(prompt, parameters), threshold, warmup, options.cooldown, options.weight, options.drawn
    )
