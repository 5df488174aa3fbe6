"""The method `sega` as it is declared; what it does is in `guidance.sega`.

In a recipe the texts of `prompts` are the concepts: "glasses" with strength 5 adds them, with -5 takes them away. A
concept without a strength takes the parameters' `scale`, and `away` turns it round.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from limner.runtime.errors import InputError
from limner.runtime.grammar import plain_text
from limner.runtime.methods.drawing import DrawnOptions
from limner.runtime.methods.registry import Method
from limner.runtime.recipe import STRENGTH_LIMIT, PromptEdit, Recipe
from limner.runtime.settings import SamplingParameters, idle_sampling, setting

__all__ = ["ConceptOptions", "MaskKind", "SegaParameters", "concept_scale", "method"]

MAX_CONCEPTS = 64
MaskKind = Literal["intersect", "attention", "noise"]


@dataclass(frozen=True)
class ConceptOptions(DrawnOptions):
    """What a concept may set beside its scale; None takes the parameters'."""

    where: ClassVar[str] = "prompts.options"
    threshold: float | None = setting(None, "part of the latent's pixels that the concept leaves alone", 0.0, 1.0)
    warmup: int | None = setting(None, "steps before it is added", 0, 1000)
    cooldown: int | None = setting(None, "the step that it stops at; never if not said", 1, 1000)
    weight: float = setting(1.0, "against the other concepts; 0 and less is no influence", -1000.0, 1000.0)
    away: bool = setting(False, "guide away from it, as a scale below 0 does")


@dataclass(frozen=True)
class SegaParameters(SamplingParameters):
    """`guidance` None is "semantic" for a prompt and "masked" for a picture.

    `guidance_scale`, `sampler`, `eta` and `negative_prompt` belong to a prompt; a picture is made again by DDPM steps
    with the guidance of its inversion.
    """

    negative_prompt: str = setting("", "what a prompt's picture is not to show")
    scale: float = setting(5.0, "of a concept without a strength", -STRENGTH_LIMIT, STRENGTH_LIMIT)
    threshold: float = setting(0.9, "of a concept that names none", 0.0, 1.0)
    warmup: int | None = setting(None, "the same; a fifth of the steps up to 10 if not said, 0 if masked", 0, 1000)
    momentum_scale: float = setting(0.1, "s_m of the published guidance", 0.0, 100.0)
    momentum_beta: float = setting(0.4, "beta of the published guidance", 0.0, 1.0)
    guidance: Literal["semantic", "masked"] | None = setting(None, "semantic for a prompt, masked for a picture")
    masks: MaskKind = setting("intersect", "of the masked guidance: attention and noise, or one of them")


def check(recipe: Recipe) -> None:
    """Refuse concepts that contradict each other, and a guidance that would leave them out."""
    parameters = recipe.parameters
    if recipe.source.kind == "prompt" and parameters.guidance_scale <= 1.0:
        given = f"{parameters.guidance_scale:g} with concepts"
        raise InputError("parameters.guidance_scale", given, "more than 1", "7.5 is usual")
    kind = recipe.inversion.kind
    if kind not in (None, "edit-friendly"):
        raise InputError("inversion.kind", repr(kind), "'edit-friendly' for the method 'sega'")
    seen: dict[str, float] = {}
    for prompt in recipe.prompts:
        _check_concept(prompt, parameters)
        text, scale = plain_text(prompt.text), concept_scale(prompt, parameters)
        if text in seen:
            opposed = seen[text] * scale < 0.0
            given = f"the concept {prompt.text!r} {'both added and taken away' if opposed else 'twice'}"
            raise InputError("prompts.text", given, "each concept once")
        seen[text] = scale
    if all(prompt.options.weight <= 0.0 for prompt in recipe.prompts):
        raise InputError("prompts.options.weight", "no weight above 0", "one concept or more with a weight above 0")


def concept_scale(prompt: PromptEdit, parameters: SegaParameters) -> float:
    """The signed scale of a concept."""
    scale = parameters.scale if prompt.strength is None else prompt.strength
    return -scale if prompt.options.away else scale


def _check_concept(prompt: PromptEdit, parameters: SegaParameters) -> None:
    options: ConceptOptions = prompt.options
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


def idle(recipe: Recipe) -> dict[str, str]:
    """Return the parameters that have no say."""
    found = idle_sampling(recipe.parameters)
    if recipe.source.kind == "image":
        names = ("guidance_scale", "sampler", "eta", "negative_prompt")
        reason = "the source, a picture, which is made again by DDPM steps with the guidance of its inversion"
        found |= {f"parameters.{name}": reason for name in names}
    guidance = recipe.parameters.guidance or ("masked" if recipe.source.kind == "image" else "semantic")
    of_others = ("masks",) if guidance == "semantic" else ("momentum_scale", "momentum_beta")
    found |= {f"parameters.{name}": f"guidance, which is {guidance!r}" for name in of_others}
    if all(prompt.strength is not None for prompt in recipe.prompts):
        found["parameters.scale"] = "the scale of each concept"
    for name in ("threshold", "warmup"):
        if all(getattr(prompt.options, name) is not None for prompt in recipe.prompts):
            found[f"parameters.{name}"] = f"the {name} of each concept"
    return found


method = Method(
    name="sega",
    summary="concepts added to or taken from a picture that a diffusion model makes, or makes again",
    parameters=SegaParameters,
    graphs=("text_encoder", "unet", "vae_decoder"),
    check=check,
    run="limner.runtime.guidance.sega:run",
    family="diffusion",
    options=ConceptOptions,
    max_prompts=MAX_CONCEPTS,
    texts="concept",
    usual=True,
    takes=("maps", "seed"),
    idle=idle,
)
