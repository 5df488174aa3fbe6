"""The method `sega`: concepts steer a diffusion model while it makes a picture, or makes a given one again.

A picture from a text and a seed takes the published guidance (`diffusion.concepts`). A given picture is first turned
into noise maps that give it back exactly (`diffusion.edit_friendly`), then made again with each concept inside its
own mask (`diffusion.masks`, LEDITS++). Rows of the UNet that cannot change the result are left out.

In a recipe the texts of `prompts` are the concepts: "glasses" with strength 5 adds them, with -5 takes them away. A
concept without a strength takes the parameters' `scale`, and `away` turns it round.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from limner.runtime.checks import require_int, require_number
from limner.runtime.diffusion.edit_friendly import NoiseMaps, edit_friendly_invert
from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.diffusion.parameters import DiffusionInversionParameters
from limner.runtime.diffusion.sampling import SamplingParameters, denoise, idle_sampling, new_sampler
from limner.runtime.diffusion.sources import DiffusionStart
from limner.runtime.errors import InputError
from limner.runtime.guidance.concepts import Concept
from limner.runtime.guidance.masks import MaskKind, enlarged
from limner.runtime.guidance.steering import Base, MaskedSteering, SemanticSteering, Steering
from limner.runtime.methods.registry import Method, Outcome, Progress
from limner.runtime.recipe import STRENGTH_LIMIT, PromptEdit, Recipe, plain_text
from limner.runtime.schema import from_dict, to_dict
from limner.runtime.timing import Timer

__all__ = ["ConceptOptions", "SegaParameters", "edited_latents", "method"]

FloatArray = NDArray[np.float32]
MOST_WARMUP = 10  # of the published guidance, for its 50 steps; the masked one has none
SOURCE_GUIDANCE = 3.5  # of a picture's prompt, as in LEDITS++
MAX_CONCEPTS = 64


@dataclass(frozen=True)
class ConceptOptions:
    """What a concept may set beside its scale; None takes the parameters'."""

    threshold: float | None = None  # 0 to 1, the part of the latent's pixels that the concept leaves alone
    warmup: int | None = None  # steps before it is added
    cooldown: int | None = None  # the step that it stops at; None is never
    weight: float = 1.0  # against the other concepts; 0 and less is no influence
    away: bool = False  # guide away from it, as a scale below 0 does

    def __post_init__(self) -> None:
        if self.threshold is not None:
            require_number("prompts.options.threshold", self.threshold, 0.0, 1.0)
        require_number("prompts.options.weight", self.weight, -1000.0, 1000.0)
        if self.warmup is not None:
            require_int("prompts.options.warmup", self.warmup, 0, 1000)
        if self.cooldown is not None:
            require_int("prompts.options.cooldown", self.cooldown, 1, 1000)


@dataclass(frozen=True)
class SegaParameters(SamplingParameters):
    """`guidance` None is "semantic" for a prompt and "masked" for a picture.

    `guidance_scale`, `sampler`, `eta` and `negative_prompt` belong to a prompt; a picture is made again by DDPM steps
    with the guidance of its inversion.
    """

    negative_prompt: str = ""
    scale: float = 5.0  # of a concept without a strength
    threshold: float = 0.9  # of a concept that names none
    warmup: int | None = None  # the same; None is a fifth of the steps up to the published 10, and 0 if masked
    momentum_scale: float = 0.1  # s_m of the published guidance
    momentum_beta: float = 0.4
    guidance: Literal["semantic", "masked"] | None = None
    masks: MaskKind = "intersect"  # of the masked guidance: attention and noise, or one of them

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("parameters.scale", self.scale, -STRENGTH_LIMIT, STRENGTH_LIMIT)
        require_number("parameters.threshold", self.threshold, 0.0, 1.0)
        if self.warmup is not None:
            require_int("parameters.warmup", self.warmup, 0, 1000)
        require_number("parameters.momentum_scale", self.momentum_scale, 0.0, 100.0)
        require_number("parameters.momentum_beta", self.momentum_beta, 0.0, 1.0)


def check(recipe: Recipe) -> None:
    """Refuse concepts that contradict each other, and a guidance that would leave them out."""
    parameters = from_dict(SegaParameters, recipe.parameters, "parameters")
    if recipe.source.kind == "prompt" and parameters.guidance_scale <= 1.0:
        given = f"{parameters.guidance_scale:g} with concepts"
        raise InputError("parameters.guidance_scale", given, "more than 1", "7.5 is usual")
    kind = recipe.inversion.get("kind")
    if kind not in (None, "edit-friendly"):
        raise InputError("inversion.kind", repr(kind), "'edit-friendly' for the method 'sega'")
    seen: dict[str, float] = {}
    for prompt in recipe.prompts:
        _check_concept(prompt, parameters)
        text, scale = plain_text(prompt.text), _scale(prompt, parameters)
        if text in seen:
            opposed = seen[text] * scale < 0.0
            given = f"the concept {prompt.text!r} {'both added and taken away' if opposed else 'twice'}"
            raise InputError("prompts.text", given, "each concept once")
        seen[text] = scale
    if all(from_dict(ConceptOptions, p.options, "prompts.options").weight <= 0.0 for p in recipe.prompts):
        raise InputError("prompts.options.weight", "no weight above 0", "one concept or more with a weight above 0")


def idle(recipe: Recipe) -> dict[str, str]:
    """Return the parameters that have no say."""
    found = idle_sampling(recipe)
    if recipe.source.kind == "image":
        names = ("guidance_scale", "sampler", "eta", "negative_prompt")
        reason = "the source, a picture, which is made again by DDPM steps with the guidance of its inversion"
        found |= {f"parameters.{name}": reason for name in names}
    guidance = recipe.parameters["guidance"] or ("masked" if recipe.source.kind == "image" else "semantic")
    of_others = ("masks",) if guidance == "semantic" else ("momentum_scale", "momentum_beta")
    found |= {f"parameters.{name}": f"guidance, which is {guidance!r}" for name in of_others}
    options = [from_dict(ConceptOptions, prompt.options, "prompts.options") for prompt in recipe.prompts]
    if all(prompt.strength is not None for prompt in recipe.prompts):
        found["parameters.scale"] = "the scale of each concept"
    for name in ("threshold", "warmup"):
        if all(getattr(one, name) is not None for one in options):
            found[f"parameters.{name}"] = f"the {name} of each concept"
    return found


def run(
    networks: DiffusionNetworks,
    starts: Sequence[DiffusionStart],
    recipes: Sequence[Recipe],
    timer: Timer,
    progress: Progress | None,
) -> list[Outcome]:
    """Edit N prompts, or N pictures, in one batch; the concepts of each are its own."""
    recipes = [_filled(recipe) for recipe in recipes]
    for recipe in recipes:
        check(recipe)
    prepared: list[NoiseMaps] | None = None
    if starts[0].clean is not None:
        with timer.stage("inversion"):
            prepared = _inverted(networks, starts, recipes, progress)
    with timer.stage("sampling"):
        latents, masks = edited_latents(networks, starts, recipes, prepared, progress)
    with timer.stage("decode"):
        images = networks.decode(latents)
        clean = [start.clean for start in starts if start.clean is not None]
        plain = networks.decode(np.concatenate(clean)) if clean else None
    return [
        _outcome(
            networks,
            start,
            recipe,
            images[row : row + 1],
            None if plain is None else plain[row : row + 1],
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
    """Return latents [N,C,h,w] and, of the masked guidance, each concept's mean mask [h,w]."""
    parameters = from_dict(SegaParameters, recipes[0].parameters, "parameters")
    base = _base(networks, starts, recipes[0], parameters)
    if prepared is None:
        sampler, first = new_sampler(networks, parameters), 0
        draws = [start.draws() for start in starts]
        latents = np.concatenate([draw() for draw in draws]) * np.float32(sampler.init_noise_sigma)
        steps = len(sampler.timesteps)
    else:
        sampler, first, steps = prepared[0].sampler, prepared[0].first, prepared[0].steps
        draws = [maps.replay() for maps in prepared]  # type: ignore[misc]
        latents = np.concatenate([maps.start for maps in prepared])
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
    )
    return latents, steering.mean_masks()


def _base(
    networks: DiffusionNetworks, starts: Sequence[DiffusionStart], recipe: Recipe, parameters: SegaParameters
) -> Base:
    """The estimate that concepts are added to."""
    prompts = [start.prompt for start in starts]
    if recipe.source.kind == "prompt":
        return Base(networks, prompts, parameters.negative_prompt, parameters.guidance_scale)
    inversion = from_dict(DiffusionInversionParameters, recipe.inversion, "inversion")
    return Base(networks, prompts, "", 0.0 if inversion.guidance_scale is None else inversion.guidance_scale)


def _inverted(
    networks: DiffusionNetworks,
    starts: Sequence[DiffusionStart],
    recipes: Sequence[Recipe],
    progress: Progress | None,
) -> list[NoiseMaps]:
    """The noise maps of each picture; edits of one picture share them."""
    parameters = from_dict(SegaParameters, recipes[0].parameters, "parameters")
    inversion = from_dict(DiffusionInversionParameters, recipes[0].inversion, "inversion")
    keys = [(start.recipe.source.sha256, start.place, start.prompt, start.seed, start.shape) for start in starts]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    once = [starts[keys.index(key)] for key in places]
    base = _base(networks, once, recipes[0], parameters)
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
        replace(found, start=found.start[row : row + 1], maps=found.maps[:, row : row + 1])
        for row in (places[key] for key in keys)
    ]


def _outcome(
    networks: DiffusionNetworks,
    start: DiffusionStart,
    recipe: Recipe,
    image: FloatArray,
    reconstruction: FloatArray | None,
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


def _mask_picture(mask: FloatArray, height: int, width: int) -> NDArray[np.uint8]:
    """Mask [h,w] in 0 to 1 -> uint8 [H,W,3]."""
    grey = np.round(enlarged(mask, (height, width)) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _filled(recipe: Recipe) -> Recipe:
    """Write what the recipe leaves to the method into it."""
    parameters = from_dict(SegaParameters, recipe.parameters, "parameters")
    picture = recipe.source.kind == "image"
    if parameters.guidance is None:
        parameters = replace(parameters, guidance="masked" if picture else "semantic")
    prompts = []
    for prompt in recipe.prompts:
        options = from_dict(ConceptOptions, prompt.options, "prompts.options")
        warmup, threshold = _warmup(options, parameters), options.threshold
        threshold = parameters.threshold if threshold is None else threshold
        options = replace(options, warmup=warmup, threshold=threshold, away=False)
        prompts.append(replace(prompt, strength=_scale(prompt, parameters), options=to_dict(options)))
    inversion = recipe.inversion
    if picture:
        found = from_dict(DiffusionInversionParameters, recipe.inversion, "inversion")
        scale = SOURCE_GUIDANCE if found.guidance_scale is None else found.guidance_scale
        inversion = to_dict(replace(found, kind="edit-friendly", guidance_scale=scale))
    return replace(recipe, prompts=tuple(prompts), parameters=to_dict(parameters), inversion=inversion)


def _scale(prompt: PromptEdit, parameters: SegaParameters) -> float:
    scale = parameters.scale if prompt.strength is None else prompt.strength
    return -scale if from_dict(ConceptOptions, prompt.options, "prompts.options").away else scale


def _warmup(options: ConceptOptions, parameters: SegaParameters) -> int:
    """The concept's own, the parameters', or the published one."""
    for own in (options.warmup, parameters.warmup):
        if own is not None:
            return own
    return min(MOST_WARMUP, parameters.steps // 5) if parameters.guidance == "semantic" else 0


def _concept(prompt: PromptEdit, parameters: SegaParameters) -> Concept:
    options = from_dict(ConceptOptions, prompt.options, "prompts.options")
    threshold = parameters.threshold if options.threshold is None else options.threshold
    warmup = _warmup(options, parameters)
    return Concept(_scale(prompt, parameters), threshold, warmup, options.cooldown, options.weight)


def _check_concept(prompt: PromptEdit, parameters: SegaParameters) -> None:
    options = from_dict(ConceptOptions, prompt.options, "prompts.options")
    warmup = parameters.warmup if options.warmup is None else options.warmup
    if warmup is not None and warmup >= parameters.steps:
        given = f"{warmup} for {prompt.text!r} with {parameters.steps} steps"
        hint = "the concept would never be added"
        raise InputError("prompts.options.warmup", given, f"0 to {parameters.steps - 1}", hint)
    if options.cooldown is not None and options.cooldown >= parameters.steps:
        given = f"{options.cooldown} for {prompt.text!r} with {parameters.steps} steps"
        hint = "without one the concept goes on to the end"
        raise InputError("prompts.options.cooldown", given, f"1 to {parameters.steps - 1}", hint)
    if warmup is not None and options.cooldown is not None and options.cooldown <= warmup:
        given = f"{options.cooldown} for {prompt.text!r} after a warm-up of {warmup}"
        raise InputError("prompts.options.cooldown", given, f"{warmup + 1} and more")


method = Method(
    name="sega",
    summary="concepts added to or taken from a picture that a diffusion model makes, or makes again",
    parameters=SegaParameters,
    graphs=("text_encoder", "unet", "vae_decoder"),
    check=check,
    run=run,
    family="diffusion",
    prompt_options=ConceptOptions,
    max_prompts=MAX_CONCEPTS,
    takes=("maps", "seed"),
    idle=idle,
)
