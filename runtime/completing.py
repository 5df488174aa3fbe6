"""Settings that cannot act: refused where they were given, and left out of the recipe that comes back.

A method says which of its settings have no say beside the others (`Method.idle`), as {field: what decides instead};
a field is "parameters.NAME" or "inversion.NAME".
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from limner.runtime.bundle.loading import Bundle
from limner.runtime.bundle.presets import picture_section, resolve_parameters
from limner.runtime.errors import InputError
from limner.runtime.methods.registry import find_method
from limner.runtime.recipe import Recipe
from limner.runtime.schema import to_dict

__all__ = ["completed", "idle_settings", "refuse_idle", "without_idle"]


def completed(bundle: Bundle, recipe: Recipe) -> Recipe:
    """Return the recipe with the bundle's presets, the defaults and the sampler's name filled in.

    Raises InputError for a value out of range.
    """
    method = find_method(recipe.method)
    more = picture_section(method.name, recipe.source.kind) if method.family == "diffusion" else ""
    parameters = resolve_parameters(bundle, method.name, method.parameters, recipe.parameters, more)
    found = to_dict(parameters)
    if found.get("sampler", "") is None:
        found["sampler"] = _usual_sampler(bundle)
    recipe = replace(recipe, parameters=found)
    if recipe.source.kind != "image":
        return recipe
    section = "inversion" if method.family == "stylegan2" else f"{method.name}.inversion"
    inversion = resolve_parameters(bundle, section, method.inversion_parameters, recipe.inversion)
    return replace(recipe, inversion=to_dict(inversion))


def _usual_sampler(bundle: Bundle) -> str:
    from limner.runtime.diffusion.samplers.by_name import default_sampler
    from limner.runtime.diffusion.samplers.schedule import bundle_scheduler

    return default_sampler(bundle_scheduler(bundle))


def idle_settings(bundle: Bundle, recipe: Recipe) -> dict[str, str]:
    """Return the settings of a recipe that cannot act on this bundle, each with what decides instead."""
    method = find_method(recipe.method)
    whole = completed(bundle, recipe)
    found = {} if method.idle is None else dict(method.idle(whole))
    if method.family == "stylegan2" and whole.inversion.get("refine_steps") == 0:
        names = [one.name for one in fields(method.inversion_parameters) if one.name != "refine_steps"]
        found |= {f"inversion.{name}": "refine_steps, which is 0" for name in names}
    return found


def refuse_idle(recipe: Recipe, idle: Mapping[str, str]) -> None:
    """Raise InputError for the first setting that was given and cannot act."""
    for where, reason in idle.items():
        section, _, name = where.partition(".")
        given: dict[str, Any] = getattr(recipe, section)
        if name in given:
            raise InputError(where, repr(given[name]), f"nothing beside {reason}", "it would change nothing")


def without_idle(recipe: Recipe, idle: Mapping[str, str]) -> Recipe:
    """Return the recipe without what cannot act."""
    parts = {
        section: {name: value for name, value in getattr(recipe, section).items() if f"{section}.{name}" not in idle}
        for section in ("parameters", "inversion")
    }
    return replace(recipe, **parts)  # type: ignore[arg-type]
