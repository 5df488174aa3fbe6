"""A method's settings as fields of a form, read from its declaration; a field that is left empty says nothing."""

import re
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin

import gradio as gr

from limner.runtime.bundle.loading import Bundle
from limner.runtime.bundle.presets import presets
from limner.runtime.declarations import setting_rows
from limner.runtime.errors import InputError
from limner.runtime.methods.registry import Method
from limner.runtime.schema import parse_json
from limner.runtime.settings import Settings, number_types

__all__ = ["FRONT", "GROUPS", "Field", "field_of", "names_of", "read_field", "shown_value", "usual_values"]

GROUPS = ("options", "parameters", "inversion")
FRONT = ("blend", "weights")  # beside the words, where people look for them
DRAWN = ("mask_add", "mask_remove")  # by the brush
UNSAID = ""
WINDOW = re.compile(r"(\d*\.?\d+)\s*-\s*(\d*\.?\d+)")
YES_NO = {"yes": True, "no": False}


@dataclass(frozen=True, eq=False)
class Field:
    """One setting of one method: its place in a recipe, its types, its component."""

    method: str
    group: str
    name: str
    types: tuple[Any, ...]
    component: Any


def names_of(method: Method, group: str) -> list[str]:
    """The settings of a group that the form has fields for."""
    return [one.name for one in fields(getattr(method, group)) if one.name not in DRAWN]


def field_of(method: Method, group: str, name: str, usual: str) -> Field:
    """Make the field of a setting, in the layout that is open; `usual` is what acts where it is left empty."""
    cls: type[Settings] = getattr(method, group)
    declared: Any = cls
    types = number_types(declared, name)  # None left out
    row = next(one for one in setting_rows(cls) if one.name == name)
    about = "; ".join(part for part in (row.help, row.allowed) if part)
    place = f"{method.name}-{group}-{name}".replace("_", "-")
    named: dict[str, Any] = {"label": name.replace("_", " "), "info": about, "elem_id": place}
    choices = [str(choice) for one in types if get_origin(one) is Literal for choice in get_args(one)]
    choices = choices or (list(YES_NO) if bool in types else [])
    if choices:
        component: Any = gr.Dropdown(
            [(f"usual: {usual}" if usual else "usual", UNSAID), *((one, one) for one in choices)], value=UNSAID, **named
        )
    else:  # an empty number field of Gradio's turns into 0 where it is folded away
        component = gr.Textbox(value=UNSAID, placeholder=usual, **named)
    return Field(method.name, group, name, types, component)


def usual_values(method: Method, bundle: Bundle) -> dict[tuple[str, str], str]:
    """What acts where nothing is said, (group, name) -> shown: the bundle's presets over the method's defaults."""
    section = method.name if method.family == "diffusion" else ""
    found: dict[str, Settings] = {
        "options": method.options(),
        "parameters": presets(bundle, method.parameters, method.name),
        "inversion": presets(bundle, method.inversion, f"{section}.inversion" if section else "inversion"),
    }
    return {
        (group, one.name): shown_value(getattr(settings, one.name))
        for group, settings in found.items()
        for one in fields(settings)
    }


def read_field(one: Field, value: Any) -> Any:
    """What a field says, as a recipe holds it; None where it says nothing. InputError for what it cannot mean."""
    text = str(value or "").strip()
    if text == UNSAID:
        return None
    if set(one.types) <= {int, float}:
        return _number(one, text)
    if bool in one.types:
        return YES_NO.get(text, text)
    if text.startswith(("[", "{")):
        return parse_json(text, one.name)
    kinds = {get_origin(kind): get_args(kind) for kind in one.types}
    if dict in kinds:
        return {word: _number_or_window(one, text) for word, text in _pairs(one, text)}
    if tuple in kinds:
        listed = [part.strip() for part in text.split(",") if part.strip()]
        return _number_or_window(one, text) if float in kinds[tuple] else listed
    return text


def _pairs(one: Field, text: str) -> list[tuple[str, str]]:
    found = []
    for part in filter(str.strip, text.split(",")):
        word, sign, value = part.rpartition("=")
        if not sign or not word.strip():
            raise InputError(one.name, repr(part.strip()), "WORD=NUMBER, with commas between, as in red=2, hair=0.5")
        found.append((word.strip(), value.strip()))
    return found


def _number_or_window(one: Field, text: str) -> float | list[float]:
    window = WINDOW.fullmatch(text.strip())
    return _number(one, text) if window is None else [float(window[1]), float(window[2])]


def _number(one: Field, text: str) -> float:
    whole = set(one.types) == {int}
    for kind in (int,) if whole else (int, float):
        with suppress(ValueError):
            return kind(text)
    raise InputError(one.name, repr(text), "a whole number" if whole else "a number")


def shown_value(value: Any) -> str:
    """What a field shows for a recipe's value, None for nothing said; the way back of `read_field`."""
    if value is None or value in ({}, [], ()):
        return UNSAID
    if isinstance(value, bool):
        return next(word for word, meant in YES_NO.items() if meant is value)
    if isinstance(value, dict):
        return ", ".join(f"{word}={_shown(one)}" for word, one in value.items())
    return _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        numbers = all(isinstance(one, (int, float)) for one in value)
        return ("-" if numbers else ", ").join(_shown(one) for one in value)
    return f"{value:.12g}" if isinstance(value, float) else str(value)
