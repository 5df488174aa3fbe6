"""A recipe as it runs: what it leaves open filled in, what cannot act refused, and left out of what comes back.

A method says which of its settings have no say beside the others (`Method.idle`), as {field: what decides instead};
a field is "parameters.NAME" or "inversion.NAME", or "seed".
"""

from collections.abc import Mapping
from dataclasses import replace

from limner.runtime.bundle.loading import Bundle
from limner.runtime.bundle.presets import picture_section, resolved
from limner.runtime.errors import InputError
from limner.runtime.methods.registry import Method, find_method, loaded, methods_of
from limner.runtime.recipe import Recipe
from limner.runtime.schema import said
from limner.runtime.settings import InversionParameters, SamplerName, SamplingParameters, without

__all__ = ["completed", "idle_settings", "needed_graphs", "refuse_idle", "require_family", "without_idle"]

STAGES = {  # of a picture's inversion: steps, and the settings that count nothing without any
    "refine_steps": ("learning_rate", "pixel_weight", "clip_weight", "identity_weight", "l2_weight", "patience"),
    "feature_steps": ("feature_fade",),
}


def completed(bundle: Bundle, recipe: Recipe) -> Recipe:
    """Return the recipe with the bundle's presets, the defaults and the sampler's name filled in.

    Raises InputError for a value out of range.
    """
    method = find_method(recipe.method)
    more = picture_section(method.name, recipe.source.kind) if method.family == "diffusion" else ""
    parameters = resolved(bundle, recipe.parameters, method.name, more)
    if isinstance(parameters, SamplingParameters) and parameters.sampler is None:
        parameters = replace(parameters, sampler=_usual_sampler(bundle))
    if recipe.source.kind != "image":
        return replace(recipe, parameters=parameters)
    section = "inversion" if method.family == "stylegan2" else f"{method.name}.inversion"
    inversion = resolved(bundle, recipe.inversion, section)
    if isinstance(inversion, InversionParameters):
        inversion = _with_feature_steps(bundle, inversion, recipe.inversion)
    return replace(recipe, parameters=parameters, inversion=inversion)


def _with_feature_steps(bundle: Bundle, whole: InversionParameters, given: InversionParameters) -> InversionParameters:
    from limner.runtime.stylegan2.features import with_feature_steps

    return with_feature_steps(bundle, whole, given)


def _usual_sampler(bundle: Bundle) -> SamplerName:
    from limner.runtime.diffusion.samplers.by_name import default_sampler
    from limner.runtime.diffusion.samplers.schedule import bundle_scheduler

    return default_sampler(bundle_scheduler(bundle))


def idle_settings(whole: Recipe) -> dict[str, str]:
    """Return the settings of a completed recipe that cannot act, each with what decides instead."""
    method = find_method(whole.method)
    found = {} if method.idle is None else dict(method.idle(whole))
    if method.family == "stylegan2" and whole.source.kind == "image":
        for steps, names in STAGES.items():
            if getattr(whole.inversion, steps) == 0:
                found |= {f"inversion.{name}": f"{steps}, which is 0" for name in names}
    return found


def refuse_idle(recipe: Recipe, idle: Mapping[str, str]) -> None:
    """Raise InputError for the first setting that was given and cannot act."""
    for where, reason in idle.items():
        section, _, name = where.partition(".")
        settings = getattr(recipe, section)
        if where == "seed":
            if settings:
                raise InputError(where, str(settings), f"0 beside {reason}", "it would change nothing")
        elif name in said(settings):
            raise InputError(
                where, repr(getattr(settings, name)), f"nothing beside {reason}", "it would change nothing"
            )


def without_idle(recipe: Recipe, idle: Mapping[str, str]) -> Recipe:
    """Return the recipe without what cannot act."""
    return replace(
        recipe,
        parameters=without(recipe.parameters, _of(idle, "parameters")),
        inversion=without(recipe.inversion, _of(idle, "inversion")),
    )


def _of(idle: Mapping[str, str], section: str) -> list[str]:
    return [where.partition(".")[2] for where in idle if where.partition(".")[0] == section]


def needed_graphs(method: Method, bundle: Bundle, recipe: Recipe) -> tuple[str, ...]:
    """Return the graphs that a completed recipe runs on a bundle; InputError for what the bundle does not have."""
    return (*method.graphs, *(loaded(method.graphs_of)(bundle, recipe) if method.graphs_of is not None else ()))


def require_family(method: Method, bundle: Bundle) -> None:
    """InputError naming the methods that fit, unless `method` runs on bundles of this bundle's family."""
    family = bundle.manifest.family
    if method.family != family:
        fitting = ", ".join(methods_of(family))
        given = f"{method.name!r}, a method for bundles of the family {method.family!r}"
        allowed = f"{fitting} on the bundle {bundle.manifest.name!r}"
        raise InputError("method", given, allowed, "or name another bundle")
