"""The method `prompt-to-prompt` (Hertz et al. 2022): a picture is made again from another text, with the attention of
the first one, so that what the two texts share stays where it is.

The source's prompt is that of the picture: the text and seed that it is made from, or what a picture file shows. Edits
of one source share it in one batch: `Editor.edit_batch` with recipes that differ in their prompts alone. A picture
file is inverted without gradients, `inversion.kind`:

    direct            the source's latents are replayed as they were found (Ju et al. 2023); taken if none is named
    negative-prompt   the source's text in place of the unconditional one (Miyake et al. 2023)
    ddim              plain DDIM inversion
    edit-friendly     noise maps that give the picture back, drawn step by step (Huberman-Spiegelglas et al. 2023)

Files take DDIM without noise, edit-friendly ones with all of it (eta 1), whatever `sampler` and `eta` say. A prompt's
strength mixes the latents that come out, 0 for the source's and 1 for the edit's; how strong a word is, its weight
says.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.attention.aligners import Kind
from limner.runtime.attention.editing import Edited, Guidance, edit_latents
from limner.runtime.attention.keep import feathered
from limner.runtime.attention.maps import map_pictures
from limner.runtime.attention.plan import Control, Plan, plan_edits
from limner.runtime.attention.words import read_prompt
from limner.runtime.bundle.loading import Bundle
from limner.runtime.diffusion.ddim_inversion import InvertedPath, invert_with_prompts
from limner.runtime.diffusion.edit_friendly import SOURCE_GUIDANCE, NoiseMaps, edit_friendly_invert
from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.diffusion.sampling import generate, new_sampler, plain_estimate
from limner.runtime.diffusion.sources import DiffusionStart
from limner.runtime.guidance.masks import enlarged
from limner.runtime.methods.prompt_to_prompt import PromptToPromptParameters
from limner.runtime.outcome import Outcome
from limner.runtime.pictures.images import to_u8
from limner.runtime.recipe import PromptEdit, Recipe
from limner.runtime.settings import DiffusionInversionParameters
from limner.runtime.storage.later import Later
from limner.runtime.text.tokenizer import Tokenizer
from limner.runtime.timing import Progress, Timer

__all__ = ["needed", "run"]

FloatArray = NDArray[np.float32]
ImageU8 = NDArray[np.uint8]


def run(
    networks: DiffusionNetworks,
    starts: Sequence[DiffusionStart],
    recipes: Sequence[Recipe],
    timer: Timer,
    progress: Progress | None,
) -> list[Outcome]:
    """Run recipes of equal parameters; those of one source share a batch with it."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for row, start in enumerate(starts):
        digest = start.recipe.source.sha256
        groups.setdefault((start.prompt, start.seed, start.shape, digest, start.place), []).append(row)
    found: dict[int, Outcome] = {}
    for rows in groups.values():
        outcomes = _run_source(networks, starts[rows[0]], [recipes[row] for row in rows], timer, progress)
        found |= dict(zip(rows, outcomes, strict=True))
    return [found[row] for row in range(len(starts))]


def _run_source(
    networks: DiffusionNetworks,
    start: DiffusionStart,
    recipes: Sequence[Recipe],
    timer: Timer,
    progress: Progress | None,
) -> list[Outcome]:
    """Run all edits of one source."""
    parameters: PromptToPromptParameters = recipes[0].parameters
    inversion: DiffusionInversionParameters = recipes[0].inversion
    kind = inversion.kind or "direct"
    usual = SOURCE_GUIDANCE if kind == "edit-friendly" else 1.0
    scale = usual if inversion.guidance_scale is None else inversion.guidance_scale
    inversion = replace(inversion, kind=kind, guidance_scale=scale)
    if start.clean is not None:
        parameters = replace(parameters, sampler="ddim", eta=1.0 if kind == "edit-friendly" else 0.0)
    with timer.stage("text"):
        plan = _plan(networks.tokenizer, start.prompt, recipes, parameters)
    path: InvertedPath | NoiseMaps | None = None
    if start.clean is not None:
        with timer.stage("inversion"):
            path = _inverted(networks, start, parameters.steps, inversion, progress)
    kept = (
        start.compare
        or start.clean is not None
        or parameters.maps
        or any(edit.blend is not None for edit in plan.edits)
    )
    with timer.stage("sampling"):
        edited = _sample(networks, start, plan, parameters, inversion, path, kept, progress)
    before = Later(lambda: edited.latents[:1] if kept else _plain(networks, start, parameters))
    source = Later(lambda: networks.decode(before()))
    resolved = [
        replace(
            recipe,
            prompts=(_resolved(recipe, edit.kind),),
            parameters=parameters,
            inversion=recipe.inversion if path is None else inversion,
        )
        for recipe, edit in zip(recipes, plan.edits, strict=True)
    ]
    return [
        _outcome(networks, recipe, edited, member, before, source) for member, recipe in enumerate(resolved, start=1)
    ]


def _inverted(
    networks: DiffusionNetworks,
    start: DiffusionStart,
    steps: int,
    inversion: DiffusionInversionParameters,
    progress: Progress | None,
) -> InvertedPath | NoiseMaps:
    """The way from the picture to noise, as `inversion` says."""
    assert start.clean is not None and inversion.guidance_scale is not None
    if inversion.kind != "edit-friendly":
        return invert_with_prompts(networks, start.clean, [start.prompt], steps, inversion.guidance_scale, progress)
    text, uncond = networks.token_states([start.prompt], "source.prompt"), networks.token_states([""])
    estimate = plain_estimate(networks, text, uncond, inversion.guidance_scale)
    return edit_friendly_invert(networks, start.clean, estimate, steps, inversion.skip, start.draws(), progress)


def needed(bundle: Bundle, recipe: Recipe) -> tuple[str, ...]:
    """Return what a picture file needs beside the method's graphs; InputError for words that are not in their prompts,
    before anything is loaded.
    """
    _plan(Tokenizer.from_bundle(bundle), recipe.source.prompt or "", [recipe], recipe.parameters)
    return ("vae_encoder",) if recipe.source.kind == "image" else ()


def _plan(
    tokenizer: Tokenizer, source_prompt: str, recipes: Sequence[Recipe], parameters: PromptToPromptParameters
) -> Plan:
    targets = []
    for recipe in recipes:
        prompt = read_prompt(tokenizer, recipe.prompts[0].text, "prompts.text")
        targets.append((prompt, Control(parameters, recipe.prompts[0].options)))
    source = read_prompt(tokenizer, source_prompt, "source.prompt")
    return plan_edits(source, targets, parameters.steps, tokenizer.context_length)


def _sample(
    networks: DiffusionNetworks,
    start: DiffusionStart,
    plan: Plan,
    parameters: PromptToPromptParameters,
    inversion: DiffusionInversionParameters,
    path: InvertedPath | NoiseMaps | None,
    want_source: bool,
    progress: Progress | None,
) -> Edited:
    sampler, first = new_sampler(networks, parameters), 0
    same = path is not None and inversion.kind == "negative-prompt"
    uncond = networks.token_states([start.prompt if same else parameters.negative_prompt], "negative_prompt")[0]
    draw: Callable[[], FloatArray] = start.draws()
    replay: FloatArray | None = None
    if path is None:
        noise = draw() * np.float32(sampler.init_noise_sigma)
    elif isinstance(path, NoiseMaps):
        sampler, first, draw = path.sampler, path.first, path.replay()
        noise, replay = path.start, path.path[:, 0]
    else:
        noise = path.noise
        replay = path.latents[1:, 0] if inversion.kind == "direct" else None
    guided = parameters.guided_steps(len(sampler.timesteps) - first)
    guidance = Guidance(parameters.guidance_scale, uncond, guided, same, replay)
    shared = networks.sharing(parameters.cache_interval)
    return edit_latents(
        shared,
        sampler,
        plan,
        noise[0],
        guidance,
        first=first,
        draw=draw,
        want_source=want_source,
        want_maps=parameters.maps,
        progress=progress,
    )


def _plain(networks: DiffusionNetworks, start: DiffusionStart, parameters: PromptToPromptParameters) -> FloatArray:
    """The source's own latents [1,C,h,w], where the edit left them out once it needed their attention no more."""
    return generate(networks, [start.prompt], [start.seed], parameters, negative=parameters.negative_prompt)


def _resolved(recipe: Recipe, kind: Kind) -> PromptEdit:
    prompt = recipe.prompts[0]
    strength = 1.0 if prompt.strength is None else prompt.strength
    return replace(prompt, strength=strength).with_options(kind=kind)


def _outcome(
    networks: DiffusionNetworks,
    recipe: Recipe,
    edited: Edited,
    member: int,
    before: Later[FloatArray],  # [1,C,h,w], the source's latents
    source: Later[FloatArray],  # their picture
) -> Outcome:
    after = edited.latents[member : member + 1]
    mask = edited.masks[member - 1]
    factor = networks.meta.vae_factor
    whole = None if mask is None else enlarged(mask, (factor * after.shape[-2], factor * after.shape[-1]))
    keep = recipe.parameters.keep_outside
    share = None if whole is None or mask is None or not keep else feathered(whole, whole.shape[0] // mask.shape[0])

    def render(changed: Recipe) -> FloatArray:
        strength = changed.prompts[0].strength
        mixed = after if strength in (None, 1.0) else before() + np.float32(strength) * (after - before())
        image = networks.decode(mixed)
        return image if share is None else source() + share * (image - source())

    pictures: dict[str, ImageU8] = {}
    if whole is not None:
        pictures["mask"] = np.repeat((whole * np.uint8(255))[:, :, None], 3, axis=2)
    if edited.maps:
        shown = (to_u8(source())[0], to_u8(networks.decode(after))[0])
        pictures |= map_pictures(edited.maps[0], edited.maps[member], shown)
    maps = (edited.maps[0], edited.maps[member]) if edited.maps else ()
    return Outcome(recipe, render, reconstruction=source, pictures=pictures, maps=maps)
