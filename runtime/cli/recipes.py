"""From words on the command line to a Recipe."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from limner.runtime.bundle import Bundle
from limner.runtime.errors import InputError
from limner.runtime.methods import find_method, needed_graphs
from limner.runtime.recipe import PromptEdit, Recipe, Source

__all__ = ["choose_method", "make_recipe", "make_source", "plan", "suggested_output", "with_source"]

SEED = "seed:"
USUAL_METHOD, MAPPER_METHOD = "global-directions", "latent-mapper"
T = TypeVar("T")


def make_source(text: str, truncation: float = 0.7) -> Source:
    """Return the source that SOURCE means: seed:NUMBER, latents in a .npy file, or a picture file."""
    if text.startswith(SEED):
        number = text[len(SEED) :]
        if not number.isascii() or not number.isdigit():
            raise InputError("source", repr(text), f"{SEED} and a whole number, as in {SEED}7")
        return Source.from_seed(int(number), truncation)
    if text.lower().endswith(".npy"):
        return Source.from_w_plus(text)
    return Source.from_image(text)


def choose_method(method: str | None, mappers: Sequence[str] | None) -> str:
    """Return the method that was asked for, or the usual one; InputError for mappers with another."""
    if mappers and method not in (None, MAPPER_METHOD):
        raise InputError("mapper", f"{mappers[0]!r} with the method {method!r}", f"mappers with {MAPPER_METHOD} alone")
    return method or (MAPPER_METHOD if mappers else USUAL_METHOD)


def make_recipe(
    source: Source,
    texts: Sequence[str],
    method: str,
    neutral: Sequence[str] | None,
    strength: Sequence[float] | None,
    beta: Sequence[float] | None,
    parameters: Sequence[str] | None,
    refine: int | None,
) -> Recipe:
    """Return the recipe; neutral, strength and beta hold one value for all texts, or one a text."""
    count = len(texts)
    if not count:
        raise InputError("TEXT", "nothing", "one text or more, or --mapper NAME")
    columns = zip(
        texts,
        _each("neutral", neutral, count),
        _each("strength", strength, count),
        _each("beta", beta, count),
        strict=True,
    )
    prompts = tuple(PromptEdit(*column) for column in columns)
    inversion = {} if refine is None else {"refine_steps": refine}
    return Recipe(method, source, prompts, parse_settings(parameters or ()), inversion)


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """["steps=40", "x=fine"] -> {"steps": 40, "x": "fine"}: values are JSON, or else texts."""
    result: dict[str, Any] = {}
    for setting in settings:
        name, sign, value = setting.partition("=")
        if not sign or not name.strip():
            raise InputError("set", repr(setting), "NAME=VALUE, as in steps=40")
        if name in result:
            raise InputError("set", f"{name!r} twice", "each parameter once")
        try:
            result[name.strip()] = json.loads(value)
        except ValueError:
            result[name.strip()] = value
    return result


def suggested_output(source: Source) -> Path:
    """Return "<source>-edited.png" in the working folder."""
    stem = f"seed-{source.seed}" if source.path is None else Path(source.path).stem
    return Path(f"{stem}-edited.png")


def with_source(recipe: Recipe, path: Path | None) -> Recipe:
    """Return the recipe with its source file at `path`; InputError if it starts from a seed."""
    if path is None:
        return recipe
    if recipe.source.kind == "seed":
        raise InputError("source", repr(str(path)), "nothing, since the recipe starts from a seed")
    return replace(recipe, source=replace(recipe.source, path=str(path)))


def plan(recipe: Recipe, bundle: Bundle, provider: str) -> dict[str, Any]:
    """Return what would run, after checking everything that can be checked without running a graph."""
    from limner.runtime.images import read_picture
    from limner.runtime.providers import check_provider

    check_provider(provider)
    method = find_method(recipe.method)
    graphs = needed_graphs(method, bundle, recipe)
    for graph in graphs:
        bundle.graph(graph)
    source = recipe.source
    if source.kind == "image" and source.path is not None:
        read_picture(source.path, bundle.image_size, field="source")
    elif source.path is not None and not Path(source.path).is_file():
        raise InputError("source", f"no file at {source.path!r}", "a .npy file")
    return {
        "recipe": recipe.to_dict(),
        "bundle": {"name": bundle.manifest.name, "path": str(bundle.root), "digest": bundle.digest},
        "graphs": list(graphs),
        "provider": provider,
    }


def _each(field: str, values: Sequence[T] | None, count: int) -> list[T | None]:
    if not values:
        return [None] * count
    if len(values) not in (1, count):
        raise InputError(field, f"{len(values)} values for {count} texts", f"one value, or {count}, one a text")
    return [*values] * count if len(values) == 1 else [*values]
