"""A recipe for each edit of a sample, by what a method's texts are (`Method.texts`).

A method of a study is the name of a method, or that of a variant: Prompt-to-Prompt as a local edit besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from limner.runtime.bundle.loading import Bundle
from limner.runtime.completing import completed, idle_settings, without_idle
from limner.runtime.errors import InputError, nearest
from limner.runtime.methods.registry import Family, Method, find_method, methods_of
from limner.runtime.recipe import PromptEdit, Recipe, Source
from limner.runtime.settings import options_of
from limner.runtime.study.samples import Asked, EditSpec, Sample

__all__ = ["INVERSION", "VARIANTS", "edits_of", "method_of", "recipe_of", "require_study_method", "study_methods"]

VARIANTS = {"prompt-to-prompt-local": "prompt-to-prompt"}  # with one word of each text as the place (`blend`)
INVERSION = "inversion."  # before the names of an inversion's settings


def study_methods(family: Family) -> tuple[str, ...]:
    """The names that a study on a bundle of that family knows."""
    known = methods_of(family)
    return (*known, *(name for name, base in VARIANTS.items() if base in known))


def method_of(name: str) -> Method:
    """The method of a name or of a variant's."""
    return find_method(VARIANTS.get(name, name))


def require_study_method(name: str, family: Family) -> str:
    """Return the name if a study on such a bundle knows it; InputError lists those that it does."""
    known = study_methods(family)
    if name not in known:
        raise InputError("method", repr(name), f"{', '.join(known)} on this bundle", nearest(name, known))
    return name


def edits_of(name: str, bundle: Bundle, edits: tuple[EditSpec, ...]) -> tuple[EditSpec, ...]:
    """The edits that the method can be asked for: of the mapper's, those that the bundle has one for."""
    if method_of(name).texts != "mapper":
        return edits
    return tuple(edit for edit in edits if edit.name in bundle.manifest.mappers)


def recipe_of(
    bundle: Bundle,
    name: str,
    edit: EditSpec,
    sample: Sample,
    picture: str | None,  # its file; None for a picture that is generated
    settings: Mapping[str, Any],  # of the method, and of its inversion as inversion.NAME
) -> Recipe:
    """One edit of one sample: what is given goes before the edit's own settings, and those before the bundle's presets.

    Settings that have no say for such a source are left out.
    """
    method, part = method_of(name), "generated" if picture is None else "real"
    own = {key: value for key, value in edit.settings(name, part).items() if key not in settings}
    prompts = _prompts(method, name, edit, sample.edits[edit.name], own)
    if method.texts == "concept":  # which has what it can of its own settings on its text
        own = {key: value for key, value in own.items() if key not in ("scale", *options_of(method.options))}
    whole_run = {**own, **settings}
    parameters = {key: value for key, value in whole_run.items() if not key.startswith(INVERSION)}
    inversion = {key[len(INVERSION) :]: value for key, value in whole_run.items() if key.startswith(INVERSION)}
    source = _source(method, sample, sample.edits[edit.name], picture)
    recipe = Recipe(method.name, source, prompts, parameters, {} if picture is None else inversion)
    whole = completed(bundle, recipe)
    if _has_neutral(method, whole):
        recipe = replace(recipe, prompts=tuple(prompt.with_options(neutral=edit.neutral) for prompt in recipe.prompts))
    return without_idle(recipe, idle_settings(whole))


def _has_neutral(method: Method, whole: Recipe) -> bool:
    """Whether texts are compared with a neutral one: latent optimization towards a text alone has no use for it."""
    return "neutral" in options_of(method.options) and getattr(whole.parameters, "objective", "") != "text"


def _source(method: Method, sample: Sample, asked: Asked, picture: str | None) -> Source:
    described = method.family == "diffusion"
    text = (asked.source if method.texts == "concept" else "") or sample.description
    if picture is not None:
        return Source.from_image(picture, prompt=text if described else None)
    return Source.from_prompt(text, sample.seed) if described else Source.from_seed(sample.seed)


def _prompts(method: Method, name: str, edit: EditSpec, asked: Asked, own: Mapping[str, Any]) -> tuple[PromptEdit, ...]:
    if method.texts == "mapper":
        return (PromptEdit(edit.name),)
    if method.texts == "prompt":
        return (PromptEdit(asked.target, options={"blend": [asked.blend]} if name in VARIANTS else {}),)
    known = options_of(method.options)
    if method.texts == "concept":
        options = {key: value for key, value in own.items() if key in known}
        return tuple(_concept(text, own.get("scale"), options) for text in asked.concepts)
    return (PromptEdit(edit.text),)


def _concept(text: str, scale: float | None, options: Mapping[str, Any]) -> PromptEdit:
    away = text.startswith("-")
    return PromptEdit(text.lstrip("+-"), strength=scale, options={**options, "away": True} if away else options)
