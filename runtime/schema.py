"""Strict JSON <-> frozen dataclass: no unknown key, no missing key, no coerced type, no NaN.

Types understood in a dataclass: str, int, float, bool, Any, `X | None` and other unions, `tuple[X, ...]`,
`dict[str, X]`, `Literal[...]` and nested dataclasses. An int is a valid float; a bool is not a valid int.
"""

import contextlib
import dataclasses
import json
import math
import re
import types as python_types
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import (
    Any,
    Literal,
    NoReturn,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from limner.runtime.errors import InputError, nearest
from limner.runtime.storage.files import read_plain

T = TypeVar("T")
ErrorType = type[InputError]
MAX_JSON_BYTES = 16_000_000
MAX_DIGITS = 40
SAID = "_said"  # attribute of what remembers
SURROGATE = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]")


class Remembering:
    """Base of dataclasses that remember which of their fields the data said they were built from."""


def said(value: Remembering) -> frozenset[str]:
    """The names that the data said; all of them for what was not built from data."""
    found: frozenset[str] | None = getattr(value, SAID, None)
    return frozenset(one.name for one in dataclasses.fields(value)) if found is None else found  # type: ignore[arg-type]


def from_dict(
    cls: type[T],
    data: object,
    where: str,
    error: ErrorType = InputError,
    types: Mapping[tuple[type, str], type] | None = None,  # (class, field) -> its type, in place of the annotation
) -> T:
    """Build the dataclass `cls` from JSON data; `error` names the field, `where` being its path so far."""
    return _build(cls, data, where, error, types or {})


def _build(cls: type[T], data: object, where: str, error: ErrorType, types: Mapping[tuple[type, str], type]) -> T:
    if not isinstance(data, dict):
        raise error(where, _kind(data), "an object")
    hints = {name: types.get((cls, name), hint) for name, hint in _hints(cast(Any, cls)).items()}
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise error(
                _join(where, str(key)),
                "an unknown key",
                ", ".join(fields),
                nearest(str(key), fields),
            )
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = convert(hints[name], data[name], _join(where, name), error, types)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise error(_join(where, name), "nothing", _describe(hints[name]))
    found = cls(**values)
    if isinstance(found, Remembering):
        object.__setattr__(found, SAID, frozenset(values))
    return found


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def to_dict(value: Any) -> Any:
    """Return the JSON form of a dataclass: tuples become lists, nested dataclasses become objects.

    Of what remembers, only what was said is there.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = said(value) if isinstance(value, Remembering) else None
        fields = [field.name for field in dataclasses.fields(value) if names is None or field.name in names]
        return {name: to_dict(getattr(value, name)) for name in fields}
    if isinstance(value, dict):
        return {key: to_dict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_dict(item) for item in value]
    return value


def parse_json(text: str | bytes, where: str, error: ErrorType = InputError) -> Any:
    """Parse JSON that is UTF-8 and holds no key twice, no NaN and no infinity; `where` names it in errors."""

    def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, value in pairs:
            if name in result:
                raise error(where, f"the key {_kind(name)} twice in one object", "each key once")
            result[name] = value
        return result

    def whole_number(digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            raise error(where, f"a number of {len(digits)} digits", f"numbers of at most {MAX_DIGITS}")
        return int(digits)

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise error(where, f"the number {_kind(digits)[1:-1]}", "finite numbers")
        return value

    def no_constant(name: str) -> NoReturn:
        raise error(where, f"the number {name}", "finite numbers")

    hooks: dict[str, Any] = {"object_pairs_hook": no_repeats, "parse_constant": no_constant}
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        data = json.loads(text, parse_int=whole_number, parse_float=number, **hooks)
        if SURROGATE.search(text):  # half of a character, which no file can hold
            json.dumps(data, ensure_ascii=False).encode("utf-8")
        return data
    except UnicodeDecodeError as reason:
        raise error(where, f"text that is not UTF-8 at byte {reason.start}", "JSON in UTF-8") from reason
    except UnicodeEncodeError as reason:
        raise error(where, "half of a character (a lone surrogate)", "whole characters") from reason
    except json.JSONDecodeError as reason:
        given = f"text that is not JSON (line {reason.lineno}: {reason.msg})"
        raise error(where, given, "a JSON document") from reason
    except RecursionError as reason:
        raise error(where, "JSON nested too deep", "a JSON document of a few levels") from reason


def read_value(text: str, where: str) -> Any:
    """Return what a text says as JSON, or else the text itself; `where` names it in errors."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return parse_json(text, where)


def read_json(path: Path, where: str, error: ErrorType = InputError, limit: int = MAX_JSON_BYTES) -> Any:
    """Read and parse one plain JSON file of at most `limit` bytes under the same rules as `parse_json`."""
    return parse_json(read_plain(path, where, limit, "a readable JSON file", error), where, error)


def convert(
    hint: Any,
    value: object,
    where: str,
    error: ErrorType = InputError,
    types: Mapping[tuple[type, str], type] | None = None,
) -> Any:
    """Return a value of JSON as the type `hint`, strictly; `error` names `where`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, python_types.UnionType):
        return _convert_union(hint, value, where, error, types)
    if origin is Literal:
        if any(value == option and type(value) is type(option) for option in arguments):
            return value
        raise error(
            where,
            repr(value),
            _describe(hint),
            nearest(str(value), map(str, arguments)),
        )
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(convert(arguments[0], item, f"{where}[{i}]", error, types) for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: convert(arguments[1], item, _join(where, str(key)), error, types) for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where, error, types or {})  # type: ignore[arg-type]
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if math.isfinite(value):
            return float(value)
        raise error(where, repr(value), "a finite number")
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise error(where, _kind(value), _describe(hint))


def _convert_union(
    hint: Any, value: object, where: str, error: ErrorType, types: Mapping[tuple[type, str], type] | None
) -> Any:
    """Try each member; with a single member besides None, its own, more exact error is the one to show."""
    if value is None and type(None) in get_args(hint):
        return None
    members = [member for member in get_args(hint) if member is not type(None)]
    if len(members) == 1:
        return convert(members[0], value, where, error, types)
    for member in members:
        with contextlib.suppress(error):  # the next member may fit
            return convert(member, value, where, error, types)
    raise error(where, _kind(value), _describe(hint))


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (list, tuple)):
        return "a list"
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _describe(hint: Any) -> str:
    names = {
        str: "a string",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
    }
    names |= {type(None): "null", Any: "any value"}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, python_types.UnionType):
        return " or ".join(_describe(member) for member in arguments)
    if origin is Literal:
        return ", ".join(repr(option) for option in arguments)
    if origin is tuple:
        return "a list"
    return names.get(hint, "an object")


# --- single values that a caller gave: each raises InputError with field, value and range ---------------------


def require_number(field: str, value: object, low: float, high: float, hint: str = "") -> float:
    """Return `value` as a float if it is a finite number in [low, high]."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:  # type: ignore[arg-type,operator]
        raise InputError(field, repr(value), f"a number from {low:g} to {high:g}", hint)
    return float(value)  # type: ignore[arg-type]


def require_int(field: str, value: object, low: int, high: int, hint: str = "") -> int:
    """Return `value` if it is a whole number in [low, high]."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(field, repr(value), f"a whole number from {low} to {high}", hint)
    return value


def require_sha256(field: str, value: object) -> str:
    """Return `value` if it is 64 lower-case hexadecimal digits."""
    if not isinstance(value, str) or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise InputError(field, repr(value), "a sha256, 64 lower-case hexadecimal digits")
    return value
