"""StyleCLIP global directions (Patashnik et al. 2021, section 6): a text becomes a direction in S, at once.

    dt = unit(mean of unit CLIP(template(target)) - the same of neutral)   text direction, 79 templates
    r  = relevance dt                                                     what each channel has to do with it
    ds = sigma * r / max|r|, where |r| >= beta, else 0                    the direction in standard deviations
    s' = s + alpha ds                                                     to-RGB channels are never edited

Several prompts add up. Upstream divides zero by zero when no channel passes beta or both texts are one; here
that is an error which says what would do.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.loading import Bundle
from limner.runtime.bundle.presets import derive_neutral, neutral_texts
from limner.runtime.critics import unit
from limner.runtime.errors import InputError
from limner.runtime.methods.global_directions import DirectionOptions, GlobalDirectionsParameters
from limner.runtime.outcome import Outcome
from limner.runtime.recipe import PromptEdit, Recipe
from limner.runtime.stylegan2.networks import Models
from limner.runtime.text.templates import STYLECLIP_TEMPLATES, fill_templates
from limner.runtime.timing import Progress, Timer

__all__ = [
    "channel_direction",
    "edit_styles",
    "editable_channels",
    "templated_features",
    "text_direction",
]

NAME = "global-directions"
FloatArray = NDArray[np.float32]
SAME_TEXT = 1e-4  # two unit vectors closer than this are one text up to fp32 rounding


def editable_channels(bundle: Bundle) -> NDArray[np.bool_]:
    """Return bool [S], true for the channels of convolutions and false for those of to-RGB layers."""
    layers = bundle.generator.layers
    parts: list[NDArray[np.bool_]] = [np.full(layer.channels, layer.kind == "conv", dtype=bool) for layer in layers]
    return np.concatenate(parts)


def text_direction(target: FloatArray, neutral: FloatArray) -> FloatArray:
    """Return dt [C], the unit vector from `neutral` to `target`, both unit [C]; InputError if they are one
    text.
    """
    difference = target.astype(np.float64) - neutral.astype(np.float64)
    length = float(np.linalg.norm(difference))
    if length < SAME_TEXT:
        raise InputError(
            "prompts.options.neutral", "a text that CLIP cannot tell from the target", "a text that differs"
        )
    return (difference / length).astype(np.float32)


def channel_direction(
    relevance: FloatArray,  # [S,C], unit rows, zero rows for to-RGB
    style_std: FloatArray,  # [S], sigma
    direction: FloatArray,  # [C], unit
    editable: NDArray[np.bool_],  # [S]
    *,
    beta: float = 0.15,
    channels: int = 0,
) -> FloatArray:
    """Return ds [S], the direction in the style space at alpha 1; the channels that stay are exactly 0.

    With `channels` above 0 that many of the most relevant channels are kept, else those with |r| >= beta.
    Raises InputError naming beta, and the largest beta that would do, if no channel is left.
    """
    r = np.where(editable, relevance @ direction, 0.0).astype(np.float64)  # [S]
    size = np.abs(r)
    largest = float(size.max(initial=0.0))
    if channels > 0:
        order = np.argsort(-size, kind="stable")
        r[order[channels:]] = 0.0
    else:
        r[size < beta] = 0.0
    if not r.any():
        if largest == 0.0:
            raise InputError("prompts.text", "a text that no channel has to do with", "another text")
        limit = np.floor(largest * 1e4) / 1e4 or largest
        given = f"{beta:g}, which leaves no channel"
        raise InputError("beta", given, f"at most {limit:g} for this text", "0.08 to 0.3 are usual")
    scaled: FloatArray = (style_std * (r / np.abs(r).max())).astype(np.float32)
    return scaled


def edit_styles(
    style_channels: FloatArray,  # [N,S]
    directions: Sequence[FloatArray],  # each [S]
    alphas: Sequence[float],
) -> FloatArray:
    """Return s' = s + sum of alpha ds, [N,S], for a battery or a single picture."""
    moved = style_channels.astype(np.float32)
    for direction, alpha in zip(directions, alphas, strict=True):
        moved = moved + np.float32(alpha) * direction
    return moved


def run(
    models: Models, w_plus: FloatArray, recipes: Sequence[Recipe], timer: Timer, progress: Progress | None
) -> list[Outcome]:
    """Run recipes of equal parameters on the sources w_plus [N,L,D]; the method has no steps to report."""
    parameters: GlobalDirectionsParameters = recipes[0].parameters
    with timer.stage("text"):
        resolved = [_resolve(models.bundle, recipe, parameters) for recipe in recipes]
        directions = [[_direction(models, p, parameters) for p in recipe.prompts] for recipe in resolved]
    with timer.stage("affine"):
        styles = models.affine(w_plus)  # [N,S]
    rows = zip(resolved, directions, styles, strict=True)
    return [_outcome(models, recipe, each, style[None]) for recipe, each, style in rows]


def _resolve(bundle: Bundle, recipe: Recipe, parameters: GlobalDirectionsParameters) -> Recipe:
    """Fill in neutral text and strength of every prompt, and beta where it is what selects the channels."""
    table = neutral_texts(bundle)
    prompts = []
    for prompt in recipe.prompts:
        given: DirectionOptions = prompt.options
        neutral = derive_neutral(prompt.text, table) if given.neutral is None else given.neutral
        strength = parameters.alpha if prompt.strength is None else prompt.strength
        beta = parameters.beta if given.beta is None and parameters.channels == 0 else given.beta
        prompts.append(PromptEdit(prompt.text, strength, DirectionOptions(neutral, beta)))
    return replace(recipe, prompts=tuple(prompts))


def _direction(models: Models, prompt: PromptEdit, parameters: GlobalDirectionsParameters) -> FloatArray:
    """Return ds [S] of a resolved prompt; text features and the direction are remembered."""
    templates = parameters.templates or STYLECLIP_TEMPLATES
    options: DirectionOptions = prompt.options
    neutral = options.neutral or ""
    beta, channels = (0.0, parameters.channels) if options.beta is None else (options.beta, 0)

    def make() -> FloatArray:
        target_features = templated_features(models, prompt.text, templates, "prompts.text")
        neutral_features = templated_features(models, neutral, templates, "prompts.options.neutral")
        tensors = models.bundle.relevance
        return channel_direction(
            tensors["relevance"],
            tensors["style_std"],
            text_direction(target_features, neutral_features),
            editable_channels(models.bundle),
            beta=beta,
            channels=channels,
        )

    return models.cached((NAME, prompt.text, neutral, templates, beta, channels), make)


def templated_features(models: Models, text: str, templates: tuple[str, ...], field: str) -> FloatArray:
    """Return the unit mean [C] of a text's unit features over the templates."""

    def make() -> FloatArray:
        features = unit(models.clip_text(fill_templates(text, templates), field))  # [T,C]
        return unit(features.mean(axis=0))

    return models.cached(("templates", text, templates), make)


def _outcome(models: Models, recipe: Recipe, directions: list[FloatArray], style: FloatArray) -> Outcome:
    def render(changed: Recipe) -> FloatArray:
        alphas = [0.0 if prompt.strength is None else prompt.strength for prompt in changed.prompts]
        return models.synthesis_from_styles(edit_styles(style, directions, alphas))

    total = sum(np.count_nonzero(direction) for direction in directions)
    return Outcome(recipe, render, {"channels": float(total)})
