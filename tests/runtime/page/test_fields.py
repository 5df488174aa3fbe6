"""Settings as fields: every one of every method goes into a form and comes back; what is wrong is named."""

import asyncio
from dataclasses import fields
from typing import Any, get_args, get_origin

import gradio as gr
import pytest

from limner.runtime import InputError
from limner.runtime.bundle.loading import load_bundle
from limner.runtime.bundle.presets import presets
from limner.runtime.bundle.shipped import shipped_bundle
from limner.runtime.methods.registry import find_method, method_names
from limner.runtime.page.fields import GROUPS, Field, field_of, names_of, read_field, shown_value, usual_values
from limner.runtime.settings import HIGH, LOW, typed


async def every_field() -> list[Field]:
    with gr.Blocks():
        return [field_of(find_method(method), group, name, "") for method in method_names() for group in GROUPS
                for name in names_of(find_method(method), group)]  # fmt: skip


FIELDS = asyncio.run(every_field())


def values_of(one: Field) -> list[Any]:
    """Values that a recipe may hold there."""
    cls = getattr(find_method(one.method), one.group)
    metadata = next(field for field in fields(cls) if field.name == one.name).metadata
    origins = {get_origin(kind): get_args(kind) for kind in one.types}
    found: list[Any] = []
    if dict in origins:
        windows = [{"hat": [0.1, 0.6]}, {"red hair": 0.5, "hair#2": [0.0, 1.0]}]
        return windows if one.name == "word_windows" else [{"hat": 2.0}, {"red hair": 0.5, "hair#2": -1.25}]
    if tuple in origins:
        if float in origins[tuple]:
            return [[0.1, 0.8], 0.5]
        names = list(get_args(origins[tuple][0]))
        return [["a photo of {}", "{} drawn"]] if one.name == "templates" else [names or ["cat", "red hair:blue hair"]]
    for kind in one.types:
        found += list(get_args(kind))
        found += [True, False] if kind is bool else ["of oil, a photo"] if kind is str else []
        if kind in (int, float):
            found += [kind(metadata[LOW]), kind(metadata[HIGH])]
        found += [0.123456789] if kind is float and metadata[LOW] <= 0.123456789 <= metadata[HIGH] else []
    return found


@pytest.mark.parametrize("one", FIELDS, ids=lambda one: f"{one.method}-{one.group}-{one.name}")
def test_there_and_back(one: Field) -> None:
    cls = getattr(find_method(one.method), one.group)
    values = values_of(one)
    assert values, "no value was tried"
    for value in values:
        shown = shown_value(value)
        assert isinstance(shown, str) and read_field(one, shown) == value
        beside = {"blend": ["cat"]} if one.name == "subtract" else {}
        typed(cls, {one.name: read_field(one, shown)} | beside, one.group)  # a type that a recipe takes
    assert read_field(one, "") is None and read_field(one, None) is None and shown_value(None) == ""
    if isinstance(one.component, gr.Dropdown):
        assert {shown_value(value) for value in values} == {value for _, value in one.component.choices} - {""}


def field(place: str) -> Field:
    return next(one for one in FIELDS if one.component.elem_id == place)


@pytest.mark.parametrize(("place", "given"), [
    ("sega-parameters-steps", "many"), ("sega-parameters-steps", "2.5"), ("sega-parameters-eta", "1,5"),
    ("prompt-to-prompt-options-weights", "red"), ("prompt-to-prompt-options-weights", "=2"),
    ("prompt-to-prompt-options-weights", "red=two"), ("prompt-to-prompt-parameters-cross-replace", "0.1-"),
    ("prompt-to-prompt-options-word-windows", "red=0.1-x"), ("global-directions-parameters-templates", "[1"),
])  # fmt: skip
def test_what_cannot_be_meant(place: str, given: str) -> None:
    with pytest.raises(InputError, match=field(place).name):
        read_field(field(place), given)


@pytest.mark.parametrize("family", ["stylegan2", "diffusion"])
def test_what_is_usual_is_what_acts(family: str) -> None:
    bundle = load_bundle(shipped_bundle(family))
    for name in method_names():
        method = find_method(name)
        if method.family == family:
            usual = usual_values(method, bundle)
            acting = presets(bundle, method.parameters, name)
            for one in fields(method.parameters):
                assert usual["parameters", one.name] == shown_value(getattr(acting, one.name))
            assert {group for group, _ in usual} == {*GROUPS} - (set() if fields(method.options) else {"options"})


def test_ids_are_different() -> None:
    places = [one.component.elem_id for one in FIELDS]
    assert len(places) == len({*places}) and len(places) > 80
