"""The form as a recipe, and a recipe as the form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from limner.runtime.errors import InputError
from limner.runtime.methods.registry import Method
from limner.runtime.page.fields import Field, read_field
from limner.runtime.recipe import PromptEdit, Recipe, Source
from limner.runtime.schema import said, to_dict
from limner.runtime.wording.concepts import parse_concepts

__all__ = ["LATENTS", "Start", "recipe_of", "stacked", "with_drawn", "words_of"]

LATENTS = ".npy"


@dataclass(frozen=True)
class Start:
    """What an edit starts from, before it is known by which method."""

    kind: str  # "file", "seed", "words"
    path: str | None = None
    source: Source | None = None  # of a seed, of words
    shows: str = ""  # what a file shows, as far as words say it

    @property
    def latents(self) -> bool:
        """Whether it is a file of latents, which is no picture."""
        return self.path is not None and Path(self.path).suffix.lower() == LATENTS

    def source_for(self, method: Method) -> Source:
        """The source of a recipe; InputError where the method cannot start from it."""
        if self.kind == "file":
            assert self.path is not None
            if self.latents:
                return Source.from_w_plus(self.path)
            shows = self.shows.strip() if method.family == "diffusion" else ""
            return Source.from_image(self.path, shows or None)
        assert self.source is not None
        if self.kind == "seed" and method.family == "diffusion":
            raise InputError("source", f"a seed of StyleGAN2 with {method.name}", "words and a seed, or a picture")
        if self.kind == "words" and method.family == "stylegan2":
            raise InputError("source", f"words with {method.name}", "a seed of the generator, or a picture")
        return self.source


def recipe_of(
    method: Method,
    source: Source,
    words: str,  # a text a line
    mappers: Sequence[str],
    values: Mapping[Field, Any],  # of the method's own fields
) -> Recipe:
    """The recipe that the form asks for; InputError naming what it does not allow."""
    groups: dict[str, dict[str, Any]] = {"options": {}, "parameters": {}, "inversion": {}}
    for one, value in values.items():
        meant = read_field(one, value)
        if meant is not None:
            groups[one.group][one.name] = meant
    if source.kind != "image":
        groups["inversion"] = {}
    texts = list(mappers) if method.texts == "mapper" else [line.strip() for line in words.splitlines() if line.strip()]
    if not texts:
        raise InputError("words", "nothing", "what the picture is to show" if method.texts != "mapper" else "a mapper")
    if method.texts == "concept":
        prompts: tuple[PromptEdit, ...] = parse_concepts(texts, [None] * len(texts))
        prompts = tuple(replace(one, options=groups["options"] | dict(one.options)) for one in prompts)
    else:
        texts = [" ".join(texts)] if method.texts == "prompt" else texts
        prompts = tuple(PromptEdit(text, options=groups["options"]) for text in texts)
    parameters = groups["parameters"]
    if method.has("maps") and hasattr(method.parameters(), "maps"):
        parameters = {"maps": True} | parameters  # where words look is what the page shows
    return Recipe(method.name, source, prompts, parameters, groups["inversion"])


def words_of(recipe: Recipe, method: Method) -> str:
    """The texts of a recipe as the form shows them."""
    if method.texts != "concept":
        return "\n".join(prompt.text for prompt in recipe.prompts)
    return "\n".join(_concept(prompt) for prompt in recipe.prompts)


def _concept(prompt: PromptEdit) -> str:
    given = {name: value for name, value in to_dict(prompt.options).items() if name in said(prompt.options)}
    away = given.pop("away", False) if prompt.strength is None else prompt.strength < 0
    scale = {} if prompt.strength is None else {"scale": abs(prompt.strength)}
    kept = {name: value for name, value in given.items() if value is not None and not name.startswith("mask_")}
    settings = ",".join(f"{name}={value:.12g}" for name, value in (scale | kept).items())
    return f"{'-' if away else '+'}{prompt.text}{':' + settings if settings else ''}"


def stacked(before: Recipe, asked: Recipe, method: Method) -> Recipe | None:
    """Both edits as one recipe on the source of the first, which loses nothing by being inverted again; None where the
    method takes one text or other settings are asked for.
    """
    if before.method != asked.method or method.texts == "prompt":
        return None
    if len(before.prompts) + len(asked.prompts) > method.max_prompts:
        return None
    if (before.parameters, before.inversion, before.seed) != (asked.parameters, asked.inversion, asked.seed):
        return None
    known = {prompt.text for prompt in asked.prompts}
    kept = tuple(prompt for prompt in before.prompts if prompt.text not in known)
    return replace(before, prompts=(*kept, *asked.prompts))


def with_drawn(recipe: Recipe, drawn: Mapping[str, str]) -> Recipe:
    """The recipe with places added to the masks of all its texts and taken from them."""
    prompts = (replace(one, options=_said(one.options) | dict(drawn)) for one in recipe.prompts)
    return replace(recipe, prompts=tuple(prompts))


def _said(options: Any) -> dict[str, Any]:
    data: dict[str, Any] = to_dict(options)
    return {name: value for name, value in data.items() if not name.startswith("mask_")}
