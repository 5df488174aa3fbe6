"""The method `prompt-to-prompt` (Hertz et al. 2022): a picture is made again from another text, with the attention of
the first one, so that what the two texts share stays where it is.

The source's prompt is that of the picture: the text and seed that it is made from, or what a picture file shows. Edits
of one source share it in one batch: `Editor.edit_batch` with recipes that differ in their prompts alone. A picture
file is inverted without gradients, `inversion.kind`:

    direct            the source's latents are replayed as they were found (Ju et al. 2023); taken if none is named
    negative-prompt   the source's text in place of the unconditional one (Miyake et al. 2023)
    ddim              plain DDIM inversion

Files take DDIM without noise, whatever `sampler` and `eta` say. A prompt's strength mixes the latents that come out,
0 for the source's and 1 for the edit's; how strong a word is, its weight says.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from limner.runtime.attention.aligners import Compat, Kind
from limner.runtime.attention.editing import Edited, Guidance, edit_latents
from limner.runtime.attention.keep import feathered
from limner.runtime.attention.maps import map_pictures
from limner.runtime.attention.plan import Plan, plan_edits
from limner.runtime.attention.settings import ControlSettings
from limner.runtime.attention.words import read_prompt
from limner.runtime.bundle.loading import Bundle
from limner.runtime.bundle.presets import picture_section, resolve_parameters
from limner.runtime.checks import require_number
from limner.runtime.diffusion.ddim_inversion import InvertedPath, invert_with_prompts
from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.diffusion.parameters import DiffusionInversionParameters
from limner.runtime.diffusion.sampling import SamplingParameters, idle_sampling, new_sampler
from limner.runtime.diffusion.sources import DiffusionStart
from limner.runtime.errors import InputError
from limner.runtime.guidance.masks import enlarged
from limner.runtime.methods.registry import Method, Outcome, Progress
from limner.runtime.pictures.images import to_u8
from limner.runtime.recipe import PromptEdit, Recipe
from limner.runtime.schema import from_dict, to_dict
from limner.runtime.text.tokenizer import Tokenizer
from limner.runtime.timing import Timer

__all__ = ["EditOptions", "PromptToPromptParameters", "method"]

NAME = "prompt-to-prompt"
INVERSIONS = ("direct", "negative-prompt", "ddim")
MAX_STRENGTH = 2.0
FloatArray = NDArray[np.float32]
ImageU8 = NDArray[np.uint8]


@dataclass(frozen=True)
class PromptToPromptParameters(SamplingParameters):
    """What holds for all edits of a run; the published defaults. Windows are parts of all steps, 0 to 1: (first,
    last), or `last` alone.
    """

    negative_prompt: str = ""
    cross_replace: float | tuple[float, ...] = 0.8  # while words take the source's attention
    self_replace: float | tuple[float, ...] = 0.4  # while the layout is the source's
    blend_start: float = 0.2  # part of the steps after which a local edit starts
    blend_threshold: float = 0.3  # of the strongest attention, 0 to 1
    subtract_threshold: float = 0.3
    keep_outside: bool = True  # pixels outside a local edit's mask are the source's; False leaves the decoder's spill
    compat: Compat = "correct"  # published: with the quirks of the published aligners
    maps: bool = False  # draw where each word looks, in all and per step

    def __post_init__(self) -> None:
        super().__post_init__()
        _settings(self, EditOptions())


@dataclass(frozen=True)
class EditOptions:
    """What belongs to one edit; see `limner.runtime.attention.settings` for how words are written."""

    kind: Literal["auto", "replace", "refine", "reweight"] = "auto"  # auto: what the two prompts are
    weights: dict[str, float] = field(default_factory=dict)  # word of the edit -> c
    word_windows: dict[str, float | tuple[float, ...]] = field(default_factory=dict)  # word of the edit -> window
    blend: tuple[str, ...] = ()  # a local edit: the words that may change the picture
    subtract: tuple[str, ...] = ()  # the words whose place stays as it is
    cross_replace: float | tuple[float, ...] | None = None  # None takes the parameters'
    self_replace: float | tuple[float, ...] | None = None


def check(recipe: Recipe) -> None:
    """Refuse what no bundle could run."""
    parameters = from_dict(PromptToPromptParameters, recipe.parameters, "parameters")
    if len(recipe.prompts) != 1:
        hint = "several edits of one source are several recipes, which share a batch"
        raise InputError("prompts", f"{len(recipe.prompts)} texts", f"one text with {NAME}", hint)
    prompt = recipe.prompts[0]
    _settings(parameters, from_dict(EditOptions, prompt.options, "prompts.options"))
    if not parameters.guidance_scale > 1.0:
        given = f"{parameters.guidance_scale:g} with an edit"
        raise InputError("parameters.guidance_scale", given, "more than 1", "7.5 is usual")
    if prompt.strength is not None:
        hint = "weights make a word stronger or weaker"
        require_number("prompts.strength", prompt.strength, 0.0, MAX_STRENGTH, hint)
    if recipe.source.kind == "image" and not recipe.source.prompt:
        raise InputError("source.prompt", "nothing", "a text that says what the picture shows", "--source-prompt")
    inversion = from_dict(DiffusionInversionParameters, recipe.inversion, "inversion")
    if inversion.kind is not None and inversion.kind not in INVERSIONS:
        raise InputError("inversion.kind", repr(inversion.kind), f"{', '.join(INVERSIONS)} for the method {NAME!r}")
    if inversion.kind == "negative-prompt" and parameters.negative_prompt:
        given = f"{parameters.negative_prompt!r} with negative-prompt inversion"
        raise InputError("parameters.negative_prompt", given, "nothing, since the source's text takes its place")


def idle(recipe: Recipe) -> dict[str, str]:
    """Return the settings that have no say."""
    options = from_dict(EditOptions, recipe.prompts[0].options, "prompts.options")
    found = idle_sampling(recipe)
    if recipe.source.kind == "image":
        found |= dict.fromkeys(("parameters.sampler", "parameters.eta"), "the source, a picture, which takes DDIM")
        kind = recipe.inversion.get("kind") or "direct"
        found["inversion.skip"] = f"the inversion's kind, which is {kind!r}"
        if kind == "negative-prompt":
            found["parameters.negative_prompt"] = "negative-prompt inversion, where the source's text takes its place"
    local = ("blend_start", "blend_threshold", "keep_outside")
    if not options.blend:
        found |= {f"parameters.{name}": "an edit without words to blend" for name in local}
    if not options.subtract:
        found["parameters.subtract_threshold"] = "an edit without words to subtract"
    for name in ("cross_replace", "self_replace"):
        if getattr(options, name) is not None:
            found[f"parameters.{name}"] = f"the text's own {name}"
    return found


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
    parameters = from_dict(PromptToPromptParameters, recipes[0].parameters, "parameters")
    inversion = from_dict(DiffusionInversionParameters, recipes[0].inversion, "inversion")
    scale = 1.0 if inversion.guidance_scale is None else inversion.guidance_scale
    inversion = replace(inversion, kind=inversion.kind or "direct", guidance_scale=scale)
    if start.clean is not None:
        parameters = replace(parameters, sampler="ddim", eta=0.0)
    with timer.stage("text"):
        plan = _plan(networks.tokenizer, start.prompt, recipes, parameters)
    path: InvertedPath | None = None
    if start.clean is not None:
        with timer.stage("inversion"):
            path = invert_with_prompts(networks, start.clean, [start.prompt], parameters.steps, scale, progress)
    with timer.stage("sampling"):
        edited = _sample(networks, start, plan, parameters, inversion, path, progress)
    with timer.stage("decode"):
        source = networks.decode(edited.latents[:1])
    settings = {} if path is None else to_dict(inversion)
    resolved = [
        replace(recipe, prompts=(_resolved(recipe, edit.kind),), parameters=to_dict(parameters), inversion=settings)
        for recipe, edit in zip(recipes, plan.edits, strict=True)
    ]
    return [_outcome(networks, recipe, edited, member, source) for member, recipe in enumerate(resolved, start=1)]


def needed(bundle: Bundle, recipe: Recipe) -> tuple[str, ...]:
    """Return what a picture file needs beside the method's graphs; InputError for words that are not in their prompts,
    before anything is loaded.
    """
    more = picture_section(NAME, recipe.source.kind)
    parameters = resolve_parameters(bundle, NAME, PromptToPromptParameters, recipe.parameters, more)
    _plan(Tokenizer.from_bundle(bundle), recipe.source.prompt or "", [recipe], parameters)
    return ("vae_encoder",) if recipe.source.kind == "image" else ()


def _plan(
    tokenizer: Tokenizer, source_prompt: str, recipes: Sequence[Recipe], parameters: PromptToPromptParameters
) -> Plan:
    targets = []
    for recipe in recipes:
        options = from_dict(EditOptions, recipe.prompts[0].options, "prompts.options")
        prompt = read_prompt(tokenizer, recipe.prompts[0].text, "prompts.text")
        targets.append((prompt, _settings(parameters, options)))
    source = read_prompt(tokenizer, source_prompt, "source.prompt")
    return plan_edits(source, targets, parameters.steps, tokenizer.context_length)


def _sample(
    networks: DiffusionNetworks,
    start: DiffusionStart,
    plan: Plan,
    parameters: PromptToPromptParameters,
    inversion: DiffusionInversionParameters,
    path: InvertedPath | None,
    progress: Progress | None,
) -> Edited:
    sampler = new_sampler(networks, parameters)
    same = path is not None and inversion.kind == "negative-prompt"
    uncond = networks.token_states([start.prompt if same else parameters.negative_prompt], "negative_prompt")[0]
    replay = path.latents[1:, 0] if path is not None and inversion.kind == "direct" else None
    draw = start.draws()
    first = draw() * np.float32(sampler.init_noise_sigma) if path is None else path.noise
    guidance = Guidance(parameters.guidance_scale, uncond, same, replay)
    return edit_latents(
        networks, sampler, plan, first[0], guidance, draw=draw, want_maps=parameters.maps, progress=progress
    )


def _settings(parameters: PromptToPromptParameters, options: EditOptions) -> ControlSettings:
    """The settings of one edit, checked."""
    own = {name: getattr(options, name) for name in ("cross_replace", "self_replace")}
    common = ("cross_replace", "self_replace", "blend_start", "blend_threshold", "subtract_threshold", "compat")
    values = {name: getattr(parameters, name) for name in common}
    values |= {name: value for name, value in own.items() if value is not None}
    return ControlSettings(
        kind=options.kind,
        weights=options.weights,
        word_windows=options.word_windows,
        blend=options.blend,
        subtract=options.subtract,
        **values,
    )


def _resolved(recipe: Recipe, kind: Kind) -> PromptEdit:
    prompt = recipe.prompts[0]
    options = from_dict(EditOptions, prompt.options, "prompts.options")
    strength = 1.0 if prompt.strength is None else prompt.strength
    return replace(prompt, strength=strength, options=to_dict(replace(options, kind=kind)))


def _outcome(networks: DiffusionNetworks, recipe: Recipe, edited: Edited, member: int, source: FloatArray) -> Outcome:
    before, after = edited.latents[:1], edited.latents[member : member + 1]
    mask = edited.masks[member - 1]
    whole = None if mask is None else enlarged(mask, source.shape[-2:])
    keep = from_dict(PromptToPromptParameters, recipe.parameters, "parameters").keep_outside
    share = None if whole is None or mask is None or not keep else feathered(whole, whole.shape[0] // mask.shape[0])

    def render(changed: Recipe) -> FloatArray:
        strength = changed.prompts[0].strength
        mixed = after if strength in (None, 1.0) else before + np.float32(strength) * (after - before)
        image = networks.decode(mixed)
        return image if share is None else source + share * (image - source)

    pictures: dict[str, ImageU8] = {}
    if whole is not None:
        pictures["mask"] = np.repeat((whole * np.uint8(255))[:, :, None], 3, axis=2)
    if edited.maps:
        shown = (to_u8(source)[0], to_u8(networks.decode(after))[0])
        pictures |= map_pictures(edited.maps[0], edited.maps[member], shown)
    return Outcome(recipe, render, reconstruction=source, pictures=pictures)


method = Method(
    name=NAME,
    summary="another text for a picture that a diffusion model made, or makes again, with the first one's attention",
    parameters=PromptToPromptParameters,
    graphs=("text_encoder", "unet", "vae_decoder"),
    check=check,
    run=run,
    family="diffusion",
    prompt_options=EditOptions,
    graphs_of=needed,
    takes=("words", "maps"),
    idle=idle,
)
