"""What the battery compares: the methods, and Prompt-to-Prompt as a local edit besides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from limner.export.battery import BatteryEdit
from limner.export.diffusion.battery.words import Words, blend_word, concepts, describe
from limner.runtime.errors import InputError, nearest
from limner.runtime.recipe import PromptEdit, Recipe, Source

PROMPT_TO_PROMPT, LOCAL, SEGA = "prompt-to-prompt", "prompt-to-prompt-local", "sega"
METHODS = (PROMPT_TO_PROMPT, LOCAL, SEGA)
INVERSION = "inversion."
Settings = Mapping[str, Any]  # names of the method's parameters, and of its inversion's as inversion.NAME


def battery_recipe(
    name: str,
    edit: BatteryEdit,
    before: Words,  # the avatar's attributes
    seed: int | None,  # of a generated picture; None for a picture that is handed over
    settings: Settings,
) -> Recipe:
    """One edit of one avatar, as a description with its seed or as a picture."""
    prompt = describe(before, edit.attribute if name == SEGA else "")
    source = Source("image", prompt=prompt) if seed is None else Source.from_prompt(prompt, seed)
    parameters = {key: value for key, value in settings.items() if not key.startswith(INVERSION)}
    inversion = {key[len(INVERSION) :]: value for key, value in settings.items() if key.startswith(INVERSION)}
    if name == SEGA:
        texts: tuple[PromptEdit, ...] = concepts(edit, before, own=seed is not None)
    else:
        options = {"blend": [blend_word(edit, before)]} if name == LOCAL else {}
        texts = (PromptEdit(describe({**before, edit.attribute: edit.value}), options=options),)
    method = SEGA if name == SEGA else PROMPT_TO_PROMPT
    return Recipe(method, source, texts, parameters, inversion if seed is None else {})


def parse_settings(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """["sega.steps=30"] -> {"sega": {"steps": 30}}; InputError for what is not METHOD.NAME=VALUE."""
    found: dict[str, dict[str, Any]] = {}
    for item in given:
        key, sign, value = item.partition("=")
        method, dot, name = key.partition(".")
        if not sign or not dot or method not in METHODS:
            raise InputError("set", repr(item), "METHOD.NAME=VALUE, as in sega.steps=30")
        found.setdefault(method, {})[name] = parse_value(value)
    return found


def parse_value(text: str) -> Any:
    """JSON, or else the word itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_names(field: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Names with commas between, all of them for an empty text; InputError naming one that is not known."""
    names = tuple(part.strip() for part in text.split(",")) if text.strip() else tuple(known)
    for name in names:
        if name not in known:
            raise InputError(field, repr(name), ", ".join(known), nearest(name, known))
    return names
