"""The method `global-directions` as it is declared; what it does is in `stylegan2.global_directions`."""

from dataclasses import dataclass
from typing import ClassVar

from limner.runtime.errors import InputError
from limner.runtime.grammar import plain_text
from limner.runtime.methods.registry import Method
from limner.runtime.recipe import PromptEdit, Recipe, check_text
from limner.runtime.schema import require_number
from limner.runtime.settings import Settings, setting

__all__ = ["MAX_ALPHA", "NEUTRAL", "DirectionOptions", "GlobalDirectionsParameters", "check_neutral", "method"]

MAX_ALPHA = 30.0
NEUTRAL = "what the text is compared with; derived from it if not said"


@dataclass(frozen=True)
class GlobalDirectionsParameters(Settings):
    """The published defaults; alpha and beta hold for texts without a strength and a beta of their own."""

    alpha: float = setting(
        4.1, "standard deviations that the strongest channel moves (paper: -10 to 10)", -MAX_ALPHA, MAX_ALPHA
    )
    beta: float = setting(0.15, "relevance that a channel needs (paper: 0.08 to 0.3)", 0.0, 1.0)
    channels: int = setting(0, "keep so many of the most relevant channels and leave beta alone; 0: beta", 0, 1_000_000)
    templates: tuple[str, ...] | None = setting(None, 'texts with "{}" where the words go; StyleCLIP\'s 79 if not said')

    def __post_init__(self) -> None:
        super().__post_init__()
        for template in self.templates or ():
            if "{}" not in template:
                raise InputError("parameters.templates", repr(template), "texts with {} where the words go")
        if self.templates == ():
            raise InputError("parameters.templates", "an empty list", "at least one text, or null for the usual 79")


@dataclass(frozen=True)
class DirectionOptions(Settings):
    """What belongs to one text; None takes the parameters'."""

    where: ClassVar[str] = "prompts.options"
    neutral: str | None = setting(None, NEUTRAL)
    beta: float | None = setting(None, "relevance that a channel needs; the parameters' if not said", 0.0, 1.0)


def check_neutral(prompt: PromptEdit) -> None:
    """InputError for a neutral text that is none, or the text itself."""
    neutral = prompt.options.neutral
    if neutral is None:
        return
    check_text("prompts.options.neutral", neutral)
    if plain_text(neutral) == plain_text(prompt.text):
        raise InputError("prompts.options.neutral", repr(neutral), "a text other than the target text")


def check(recipe: Recipe) -> None:
    """Refuse strengths out of range, and texts that are compared with themselves."""
    for prompt in recipe.prompts:
        if prompt.strength is not None:
            require_number("prompts.strength", prompt.strength, -MAX_ALPHA, MAX_ALPHA, "4.1 is the usual alpha")
        check_neutral(prompt)


def idle(recipe: Recipe) -> dict[str, str]:
    """Return the parameters that have no say."""
    found = {}
    if all(prompt.strength is not None for prompt in recipe.prompts):
        found["parameters.alpha"] = "the strength of each text"
    if all(prompt.options.beta is not None for prompt in recipe.prompts):
        found |= dict.fromkeys(("parameters.beta", "parameters.channels"), "the beta of each text")
    elif recipe.parameters.channels > 0:
        found["parameters.beta"] = f"channels, which is {recipe.parameters.channels}"
    return found


method = Method(
    name="global-directions",
    summary="a direction in style space from two texts: a picture in milliseconds, many prompts at once",
    parameters=GlobalDirectionsParameters,
    graphs=("affine", "synthesis_s", "clip_text"),
    check=check,
    run="limner.runtime.stylegan2.global_directions:run",
    options=DirectionOptions,
    usual=True,
    idle=idle,
)
