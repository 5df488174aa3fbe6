"""The method `latent-mapper` as it is declared; what it does is in `stylegan2.latent_mapper`."""

from dataclasses import dataclass

from limner.runtime.methods.registry import Method
from limner.runtime.recipe import Recipe
from limner.runtime.schema import require_number
from limner.runtime.settings import Settings, setting

__all__ = ["MAX_STRENGTH", "LatentMapperParameters", "method"]

MAX_STRENGTH = 2.0


@dataclass(frozen=True)
class LatentMapperParameters(Settings):
    """What holds for every mapper of a recipe."""

    strength: float | None = setting(
        None, "of mappers that have none of their own; what each suggests if not said", 0.0, MAX_STRENGTH
    )


def check(recipe: Recipe) -> None:
    """Refuse strengths out of range."""
    for prompt in recipe.prompts:
        if prompt.strength is not None:
            require_number("prompts.strength", prompt.strength, 0.0, MAX_STRENGTH, "1 is the step as it was trained")


def idle(recipe: Recipe) -> dict[str, str]:
    """Return the parameters that have no say."""
    own = all(prompt.strength is not None for prompt in recipe.prompts)
    return {"parameters.strength": "the strength of each mapper"} if own else {}


method = Method(
    name="latent-mapper",
    summary="networks trained for one text each: a picture in milliseconds, several at once",
    parameters=LatentMapperParameters,
    graphs=("synthesis_w",),
    check=check,
    run="limner.runtime.stylegan2.latent_mapper:run",
    graphs_of="limner.runtime.stylegan2.latent_mapper:graphs_of",
    texts="mapper",
    usual=True,
    idle=idle,
)
