"""The method `prompt-to-prompt` as it is declared; what it does is in `attention.prompt_to_prompt`.

A word is found as `limner.runtime.attention.words` says; "hair#2" is the second "hair" alone. Where words of both
prompts are asked for (`blend`, `subtract`), "cat:dog" is "cat" in the source and "dog" in the edit, "cat:" and ":dog"
one of the two, and "hair" is both, where it stands.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from limner.runtime.errors import InputError
from limner.runtime.methods.drawing import DrawnOptions
from limner.runtime.methods.registry import Method
from limner.runtime.recipe import Recipe
from limner.runtime.schema import require_number
from limner.runtime.settings import SamplingParameters, Settings, idle_sampling, setting

__all__ = ["Compat", "ControlParameters", "EditOptions", "PromptToPromptParameters", "Window", "method", "read_window"]

NAME = "prompt-to-prompt"
INVERSIONS = ("direct", "negative-prompt", "ddim", "edit-friendly")
MAX_STRENGTH = 2.0
MAX_WEIGHT = 100.0
Compat = Literal["correct", "published"]
Window = tuple[float, float]


def read_window(field: str, value: object) -> Window:
    """Return (first, last); InputError naming `field` for anything outside 0 to 1 or in the wrong order."""
    numbers = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [0.0, value]
    plain = [float(n) for n in numbers if isinstance(n, (int, float)) and not isinstance(n, bool)]
    if len(numbers) == 1 and len(plain) == 1:
        plain.insert(0, 0.0)
    if len(plain) != 2 or len(numbers) > 2 or not 0.0 <= plain[0] <= plain[1] <= 1.0:
        raise InputError(field, repr(value), "a number from 0 to 1, or two of them in ascending order")
    return plain[0], plain[1]


@dataclass(frozen=True)
class ControlParameters(Settings):
    """How attention is controlled, for all edits of a run; the published defaults. Windows are parts of all steps, 0 to
    1: (first, last), or `last` alone.
    """

    cross_replace: float | tuple[float, ...] = setting(0.8, "window in which words take the source's attention")
    self_replace: float | tuple[float, ...] = setting(0.4, "window in which the layout is the source's")
    blend_start: float = setting(0.2, "part of the steps after which a local edit starts", 0.0, 1.0)
    blend_threshold: float = setting(0.3, "of the strongest attention", 0.0, 1.0)
    subtract_threshold: float = setting(0.3, "of the strongest attention", 0.0, 1.0)
    compat: Compat = setting("correct", "published: with the quirks of the published aligners")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("cross_replace", "self_replace"):
            read_window(f"parameters.{name}", getattr(self, name))


@dataclass(frozen=True)
class PromptToPromptParameters(ControlParameters, SamplingParameters):
    """What holds for all edits of a run."""

    negative_prompt: str = setting("", "what the pictures are not to show")
    keep_outside: bool = setting(True, "pixels outside a local edit's mask are the source's")
    maps: bool = setting(False, "draw where each word looks, in all and per step")


@dataclass(frozen=True)
class EditOptions(DrawnOptions):
    """What belongs to one edit. Places that are drawn make it a local one, as blend words do."""

    where: ClassVar[str] = "prompts.options"
    kind: Literal["auto", "replace", "refine", "reweight"] = setting("auto", "auto: what the two prompts are")
    weights: dict[str, float] = setting({}, "word of the edit -> how strong it is (paper: -2 to 2)")
    word_windows: dict[str, float | tuple[float, ...]] = setting({}, "word of the edit -> a window of its own")
    blend: tuple[str, ...] = setting((), "a local edit: the words that may change the picture")
    subtract: tuple[str, ...] = setting((), "the words whose place stays as it is, within the blend words'")
    cross_replace: float | tuple[float, ...] | None = setting(None, "the parameters' if not said")
    self_replace: float | tuple[float, ...] | None = setting(None, "the parameters' if not said")

    def __post_init__(self) -> None:
        super().__post_init__()
        for word, weight in self.weights.items():
            hint = "1 leaves the word as it is, the paper takes -2 to 2"
            require_number(f"prompts.options.weights.{word}", weight, -MAX_WEIGHT, MAX_WEIGHT, hint)
        for name in ("cross_replace", "self_replace"):
            if getattr(self, name) is not None:
                read_window(f"prompts.options.{name}", getattr(self, name))
        for word, window in self.word_windows.items():
            read_window(f"prompts.options.word_windows.{word}", window)
        if self.subtract and not self.blend:
            raise InputError("prompts.options.subtract", list(self.subtract), "nothing without blend words")


def check(recipe: Recipe) -> None:
    """Refuse what no bundle could run."""
    parameters, inversion = recipe.parameters, recipe.inversion
    if len(recipe.prompts) != 1:
        hint = "several edits of one source are several recipes, which share a batch"
        raise InputError("prompts", f"{len(recipe.prompts)} texts", f"one text with {NAME}", hint)
    prompt = recipe.prompts[0]
    if not parameters.guidance_scale > 1.0:
        given = f"{parameters.guidance_scale:g} with an edit"
        raise InputError("parameters.guidance_scale", given, "more than 1", "7.5 is usual")
    if prompt.strength is not None:
        hint = "weights make a word stronger or weaker"
        require_number("prompts.strength", prompt.strength, 0.0, MAX_STRENGTH, hint)
    if recipe.source.kind == "image" and not recipe.source.prompt:
        raise InputError("source.prompt", "nothing", "a text that says what the picture shows", "--source-prompt")
    if inversion.kind is not None and inversion.kind not in INVERSIONS:
        raise InputError("inversion.kind", repr(inversion.kind), f"{', '.join(INVERSIONS)} for the method {NAME!r}")
    if inversion.kind == "negative-prompt" and parameters.negative_prompt:
        given = f"{parameters.negative_prompt!r} with negative-prompt inversion"
        raise InputError("parameters.negative_prompt", given, "nothing, since the source's text takes its place")


def idle(recipe: Recipe) -> dict[str, str]:
    """Return the settings that have no say."""
    options: EditOptions = recipe.prompts[0].options
    found = idle_sampling(recipe.parameters)
    if recipe.source.kind == "image":
        found |= dict.fromkeys(("parameters.sampler", "parameters.eta"), "the source, a picture, which takes DDIM")
        kind = recipe.inversion.kind or "direct"
        found["inversion.skip"] = f"the inversion's kind, which is {kind!r}"
        if kind == "negative-prompt":
            found["parameters.negative_prompt"] = "negative-prompt inversion, where the source's text takes its place"
        if kind == "edit-friendly":
            del found["inversion.skip"]
        else:
            found["seed"] = f"the inversion's kind, which is {kind!r} and draws nothing"
    local = ("blend_start", "blend_threshold", "keep_outside")
    if not options.blend:
        found |= {f"parameters.{name}": "an edit without words to blend" for name in local}
    if not options.subtract:
        found["parameters.subtract_threshold"] = "an edit without words to subtract"
    for name in ("cross_replace", "self_replace"):
        if getattr(options, name) is not None:
            found[f"parameters.{name}"] = f"the text's own {name}"
    return found


method = Method(
    name=NAME,
    summary="another text for a picture that a diffusion model made, or makes again, with the first one's attention",
    parameters=PromptToPromptParameters,
    graphs=("text_encoder", "unet", "vae_decoder"),
    check=check,
    run="limner.runtime.attention.prompt_to_prompt:run",
    family="diffusion",
    options=EditOptions,
    graphs_of="limner.runtime.attention.prompt_to_prompt:needed",
    texts="prompt",
    usual=True,
    takes=("maps", "seed"),
    idle=idle,
)
