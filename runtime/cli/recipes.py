"""Recipes of the command line: what would run, and where their sources lie."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from limner.runtime.bundle.loading import Bundle
from limner.runtime.completing import completed, idle_settings, needed_graphs, refuse_idle, require_family
from limner.runtime.errors import InputError
from limner.runtime.faces.face import Face
from limner.runtime.methods.registry import find_method
from limner.runtime.recipe import Recipe, Source

__all__ = [
    "plan",
    "source_beside",
    "suggested_output",
    "with_face",
    "with_source",
]


def suggested_output(source: Source) -> Path:
    """Return "<source>-edited.png" in the working folder."""
    stem = f"seed-{source.seed}" if source.path is None else Path(source.path).stem
    return Path(f"{stem}-edited.png")


def source_beside(recipe: Recipe, file: Path, given: Path | None) -> Path | None:
    """Return where a recipe's source file is: as given, else where the recipe says, else beside the recipe's own file.

    InputError naming --source if it is nowhere. None for a source without a file.
    """
    path = recipe.source.path
    if given is not None or path is None or Path(path).is_file():
        return given
    for found in (file.parent / path, file.parent / Path(path).name):
        if found.is_file():
            return found
    raise InputError("source", f"no file at {path!r}, nor beside {file.name!r}", "--source FILE, where it is now")


def with_source(recipe: Recipe, path: Path | None) -> Recipe:
    """Return the recipe with its source file at `path`; InputError if it starts from a seed."""
    if path is None:
        return recipe
    if recipe.source.kind in ("seed", "prompt"):
        raise InputError("source", repr(str(path)), "nothing, since the recipe starts from a seed")
    return replace(recipe, source=replace(recipe.source, path=str(path)))


def with_face(recipe: Recipe, face: Face | None) -> Recipe:
    """Return the recipe with the part of its picture that is edited."""
    return recipe if face is None else replace(recipe, source=replace(recipe.source, face=face))


def plan(recipe: Recipe, bundle: Bundle, provider: str) -> dict[str, Any]:
    """Return what would run, after checking everything that can be checked without running a graph."""
    from limner.runtime.faces.reading import read_source
    from limner.runtime.graphs.providers import check_provider

    check_provider(provider)
    method = find_method(recipe.method)
    require_family(method, bundle)
    whole = completed(bundle, recipe)
    refuse_idle(recipe, idle_settings(whole))
    graphs = needed_graphs(method, bundle, whole)
    for graph in graphs:
        bundle.graph(graph)
    source = recipe.source
    if source.kind == "image" and source.path is not None:
        read_source(source.path, bundle.image_size, source.face)
    elif source.path is not None and not Path(source.path).is_file():
        raise InputError("source", f"no file at {source.path!r}", "a .npy file")
    return {
        "recipe": recipe.to_dict(),
        "bundle": {"name": bundle.manifest.name, "path": str(bundle.root), "digest": bundle.digest},
        "graphs": list(graphs),
        "provider": provider,
    }
