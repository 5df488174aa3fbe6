"""From words to a Recipe, as a command line and the page say them."""

from collections.abc import Sequence
from typing import Any, TypeVar

from limner.runtime.errors import InputError
from limner.runtime.methods.registry import find_method, methods_of, methods_with
from limner.runtime.recipe import TRUNCATION, PromptEdit, Recipe, Source
from limner.runtime.schema import read_value
from limner.runtime.wording.concepts import parse_concepts

__all__ = ["make_recipe", "make_source", "parse_settings", "require_use"]

SEED = "seed:"
T = TypeVar("T")


def make_source(text: str, truncation: float | None = None, prompt: str | None = None) -> Source:
    """Return the source that SOURCE means: seed:NUMBER, latents in a .npy file, or a picture file.

    With a prompt the seed is that of a diffusion model, and a picture is one that the prompt describes.
    InputError for a truncation of anything but a seed of StyleGAN2.
    """
    if truncation is not None and (prompt is not None or not text.startswith(SEED)):
        raise InputError("truncation", f"{truncation:g} for {text!r}", "--truncation with seed:NUMBER of a StyleGAN2")
    truncation = TRUNCATION if truncation is None else truncation
    if text.startswith(SEED):
        number = text[len(SEED) :]
        if not number.isascii() or not number.isdigit():
            raise InputError("source", repr(text), f"{SEED} and a whole number, as in {SEED}7")
        return Source.from_seed(int(number), truncation) if prompt is None else Source.from_prompt(prompt, int(number))
    if text.lower().endswith(".npy"):
        return Source("w_plus", path=text, prompt=prompt)
    return Source.from_image(text, prompt)


def make_recipe(
    source: Source,
    texts: Sequence[str],
    method: str,
    neutral: Sequence[str] | None,
    strength: Sequence[float] | None,
    beta: Sequence[float] | None,
    parameters: Sequence[str] | None,
    refine: int | None,
    inversion: Sequence[str] | None = None,
    seed: int = 0,
) -> Recipe:
    """Return the recipe; neutral, strength and beta hold one value for all texts, or one a text.

    Concepts have a sign and options of their own.
    """
    count = len(texts)
    if not count:
        raise InputError("TEXT", "nothing", "one text or more, --mapper NAME, --concept +WORDS or --prompt TEXT")
    strengths = _each("strength", strength, count)
    if neutral:
        require_use(method, "neutral", "neutral")
    if beta:
        require_use(method, "beta", "beta")
    if find_method(method).texts == "concept":
        prompts = parse_concepts(texts, strengths)
    else:
        columns = (texts, strengths, _each("neutral", neutral, count), _each("beta", beta, count))
        prompts = tuple(_prompt(*column) for column in zip(*columns, strict=True))
    settings = parse_settings(inversion or (), "inversion")
    if refine is not None:
        if find_method(method).family != "stylegan2" or source.kind != "image":
            allowed = "a picture file with a method on StyleGAN2: " + ", ".join(methods_of("stylegan2"))
            raise InputError("refine", f"{refine} with the method {method!r} from {_named(source)}", allowed)
        settings["refine_steps"] = refine
    return Recipe(method, source, prompts, parse_settings(parameters or ()), settings, seed)


def _prompt(text: str, strength: float | None, neutral: str | None, beta: float | None) -> PromptEdit:
    options = {"neutral": neutral, "beta": beta}
    return PromptEdit(text, strength, {name: value for name, value in options.items() if value is not None})


def require_use(method: str, use: str, option: str) -> None:
    """Raise InputError naming the methods that have use for an option, unless this one has."""
    if not find_method(method).has(use):
        raise InputError(
            option, f"--{option} with the method {method!r}", f"--{option} with {', '.join(methods_with(use))}"
        )


def _named(source: Source) -> str:
    return {"seed": "a seed", "prompt": "a seed and a prompt", "w_plus": "latents"}.get(source.kind, "a picture file")


def parse_settings(settings: Sequence[str], option: str = "set") -> dict[str, Any]:
    """["steps=40", "x=fine"] -> {"steps": 40, "x": "fine"}: values are JSON, or else texts."""
    result: dict[str, Any] = {}
    for setting in settings:
        name, sign, value = setting.partition("=")
        name = name.strip()
        if not sign or not name:
            raise InputError(option, repr(setting), "NAME=VALUE, as in steps=40")
        if name in result:
            raise InputError(option, f"{name!r} twice", "each parameter once")
        result[name] = read_value(value, option)
    return result


def _each(field: str, values: Sequence[T] | None, count: int) -> list[T | None]:
    if not values:
        return [None] * count
    if len(values) not in (1, count):
        raise InputError(field, f"{len(values)} values for {count} texts", f"one value, or {count}, one a text")
    return [*values] * count if len(values) == 1 else [*values]
