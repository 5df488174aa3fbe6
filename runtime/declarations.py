"""What is declared, as data: tables of settings, and the JSON schema (2020-12) of a method's recipe."""

import types
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from limner.runtime.methods.registry import Method
from limner.runtime.recipe import MAX_CHARACTERS, MAX_SEED, RECIPE_VERSION, STRENGTH_LIMIT, Source
from limner.runtime.schema import to_dict
from limner.runtime.settings import HELP, HIGH, LOW

__all__ = ["SettingRow", "method_entry", "recipe_schema", "setting_rows"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false"}
TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


@dataclass(frozen=True)
class SettingRow:
    """One declared setting, as a person reads it."""

    name: str
    allowed: str  # its range, its choices, or its type
    default: str  # as JSON; empty where nothing is meant
    help: str


def setting_rows(cls: type[Any]) -> list[SettingRow]:
    """The settings of a declaration in the order in which they are declared."""
    hints = get_type_hints(cls)
    return [SettingRow(one.name, _allowed(one, hints[one.name]), _shown(one), _help(one)) for one in fields(cls)]


def _help(one: Field[Any]) -> str:
    return str(one.metadata.get(HELP, ""))


def _allowed(one: Field[Any], hint: Any) -> str:
    if one.metadata.get(LOW) is not None:
        return f"{one.metadata[LOW]:g} to {one.metadata[HIGH]:g}"
    return _named(hint)


def _named(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(str(choice) for choice in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_named(one) for one in arguments if one is not type(None)))
    if origin is tuple:
        return f"list of {_named(arguments[0])}"
    if origin is dict:
        return f"word: {_named(arguments[1])}"
    return NAMES.get(hint, "")


def _shown(one: Field[Any]) -> str:
    import json

    value = _default(one)
    return "" if value is None or value in ("", {}, []) else json.dumps(value, ensure_ascii=False).strip('"')


def _default(one: Field[Any]) -> Any:
    value = one.default_factory() if one.default_factory is not MISSING else one.default
    return to_dict(value) if value is not MISSING else None


# --- JSON schema ------------------------------------------------------------------------------------------


def recipe_schema(method: Method) -> dict[str, Any]:
    """The JSON schema of a recipe of `method`, of the version that is written today."""
    prompt = {
        "type": "object",
        "properties": {
            "text": {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS},
            "strength": {"type": ["number", "null"], "minimum": -STRENGTH_LIMIT, "maximum": STRENGTH_LIMIT},
            "options": object_schema(method.options),
        },
        "required": ["text"],
        "additionalProperties": False,
    }
    return {
        "$schema": DIALECT,
        "title": f"recipe of {method.name}",
        "description": method.summary,
        "type": "object",
        "properties": {
            "method": {"const": method.name},
            "source": object_schema(Source),
            "prompts": {"type": "array", "items": prompt, "minItems": 1, "maxItems": method.max_prompts},
            "parameters": object_schema(method.parameters),
            "inversion": object_schema(method.inversion),
            "seed": {"type": "integer", "minimum": 0, "maximum": MAX_SEED},
            "bundle": {"type": ["string", "null"], "pattern": "^[0-9a-f]{64}$"},
            "version": {"const": RECIPE_VERSION},
        },
        "required": ["method", "source", "prompts"],
        "additionalProperties": False,
    }


def object_schema(cls: type[Any]) -> dict[str, Any]:
    """The JSON schema of a dataclass."""
    hints = get_type_hints(cls)
    found: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
    required = []
    for one in fields(cls):
        schema = _schema(hints[one.name])
        if one.metadata.get(LOW) is not None:
            schema |= {"minimum": one.metadata[LOW], "maximum": one.metadata[HIGH]}
        if _help(one):
            schema["description"] = _help(one)
        if one.default is MISSING and one.default_factory is MISSING:
            required.append(one.name)
        else:
            schema["default"] = _default(one)
        found["properties"][one.name] = schema
    return found | ({"required": required} if required else {})


def _schema(hint: Any) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        choices = [_schema(one) for one in arguments]
        plain = [one["type"] for one in choices if set(one) == {"type"}]
        return {"type": plain} if len(plain) == len(choices) else {"anyOf": choices}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1])}
    if is_dataclass(hint):
        return object_schema(hint)  # type: ignore[arg-type]
    return {"type": TYPES[hint]} if hint in TYPES else {}


def method_entry(method: Method) -> dict[str, Any]:
    """What `limner methods --json` says of a method."""
    return {
        "name": method.name,
        "summary": method.summary,
        "family": method.family,
        "texts": method.texts,
        "most_texts": method.max_prompts,
        "graphs": list(method.graphs),
    }
