"""StyleCLIP latent mappers (Patashnik et al. 2021, section 5): a network trained for one text says where to go.

    w' = w + sum of strength_i step_i(w),   step(w) = 0.1 M(w), the bundle's graph "mapper_NAME"

A prompt's text is the name of a mapper, or the text that one was trained for. Every step is taken at the source, so
that mappers add up in any order and a strength costs no more than a picture. Mappers of the style space join in
behind the affine layers: s' = A w' + sum of strength_j step_j(A w).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.loading import Bundle
from limner.runtime.bundle.mappers import MapperMeta, graph_name
from limner.runtime.errors import BundleError, InputError, nearest
from limner.runtime.grammar import plain_text
from limner.runtime.methods.latent_mapper import LatentMapperParameters
from limner.runtime.outcome import Outcome
from limner.runtime.recipe import Recipe
from limner.runtime.stylegan2.networks import Models
from limner.runtime.timing import Progress, Timer

__all__ = ["find_mapper", "graphs_of", "mapper_steps", "render_steps", "run"]

NAME = "latent-mapper"
FloatArray = NDArray[np.float32]


def find_mapper(bundle: Bundle, text: str) -> tuple[str, MapperMeta]:
    """Return the mapper of that name, or the one that was trained for that text.

    Raises BundleError if the bundle has none at all, InputError that lists the known ones if it has others.
    """
    mappers = bundle.manifest.mappers
    if not mappers:
        given = f"no latent mapper in the bundle {bundle.manifest.name!r}"
        raise BundleError("mappers", given, "a bundle exported with mappers", "see `limner train mapper --help`")
    plain = plain_text(text)
    if plain in mappers:
        return plain, mappers[plain]
    for name, mapper in mappers.items():
        if plain_text(mapper.prompt) == plain:
            return name, mapper
    hint = nearest(plain, [*mappers, *(mapper.prompt for mapper in mappers.values())])
    raise InputError("mapper", repr(text), ", ".join(sorted(mappers)), hint)


def mapper_steps(models: Models, names: Sequence[str], w_plus: FloatArray) -> dict[str, FloatArray]:
    """Return what each mapper adds at strength 1 to the sources w_plus [N,L,D]: [N,L,D], or [N,S] in the style
    space.
    """
    mappers = models.bundle.manifest.mappers
    in_styles = [name for name in names if mappers[name].space == "style_channels"]
    source = {"w_plus": w_plus} | ({"style_channels": models.affine(w_plus)} if in_styles else {})
    return {name: models.mapper(graph_name(name), mappers[name].space, source[mappers[name].space]) for name in names}


def render_steps(
    models: Models, w_plus: FloatArray, steps: Mapping[str, FloatArray], strengths: Mapping[str, float]
) -> FloatArray:
    """Return the edited pictures [N,3,H,W] of w_plus [N,L,D]."""
    mappers = models.bundle.manifest.mappers
    spaces = {name: mappers[name].space for name in steps}
    for name, space in spaces.items():
        if space == "w_plus":
            w_plus = w_plus + np.float32(strengths[name]) * steps[name]
    if "style_channels" not in spaces.values():
        return models.synthesis(w_plus)
    styles = models.affine(w_plus)
    for name, space in spaces.items():
        if space == "style_channels":
            styles = styles + np.float32(strengths[name]) * steps[name]
    return models.synthesis_from_styles(styles)


def graphs_of(bundle: Bundle, recipe: Recipe) -> tuple[str, ...]:
    """Return the graphs that a recipe needs beside the method's own; InputError for an unknown mapper."""
    found = _chosen(bundle, recipe)
    styles = any(mapper.space == "style_channels" for mapper in found.values())
    return (*(graph_name(name) for name in found), *(("affine", "synthesis_s") if styles else ()))


def run(
    models: Models, w_plus: FloatArray, recipes: Sequence[Recipe], timer: Timer, progress: Progress | None
) -> list[Outcome]:
    """Run recipes of equal parameters on the sources w_plus [N,L,D]; the method has no steps to report."""
    parameters: LatentMapperParameters = recipes[0].parameters
    chosen = [_chosen(models.bundle, recipe) for recipe in recipes]
    with timer.stage("mapper"):
        steps = [mapper_steps(models, list(names), w[None]) for names, w in zip(chosen, w_plus, strict=True)]
    rows = zip(recipes, chosen, steps, w_plus, strict=True)
    return [_outcome(models, recipe, found, step, w[None], parameters) for recipe, found, step, w in rows]


def _chosen(bundle: Bundle, recipe: Recipe) -> dict[str, MapperMeta]:
    """The mappers of a recipe's prompts by name, in their order; InputError for one that is there twice."""
    found = [find_mapper(bundle, prompt.text) for prompt in recipe.prompts]
    names = [name for name, _ in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError("mapper", f"{twice!r} twice", "each mapper once", "a higher strength goes further")
    return dict(found)


def _outcome(
    models: Models,
    recipe: Recipe,
    mappers: dict[str, MapperMeta],
    steps: dict[str, FloatArray],
    w_plus: FloatArray,  # [1,L,D]
    parameters: LatentMapperParameters,
) -> Outcome:
    prompts = []
    for prompt, (name, mapper) in zip(recipe.prompts, mappers.items(), strict=True):
        default = mapper.strength if parameters.strength is None else parameters.strength
        prompts.append(replace(prompt, text=name, strength=default if prompt.strength is None else prompt.strength))
    resolved = replace(recipe, prompts=tuple(prompts))

    def render(changed: Recipe) -> FloatArray:
        strengths = {p.text: 0.0 if p.strength is None else p.strength for p in changed.prompts}
        return render_steps(models, w_plus, steps, strengths)

    sizes = {f"step_{name}": float(np.sqrt(np.mean(step**2))) for name, step in steps.items()}
    return Outcome(resolved, render, sizes, texts=tuple(mapper.prompt for mapper in mappers.values()))
