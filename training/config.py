"""Configs: frozen dataclasses from YAML, with unknown keys refused and every value checked for its type."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from limner.runtime.errors import InputError, nearest

T = TypeVar("T")
MAX_YAML = 1 << 20  # bytes


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str = "config") -> T:
    """Build the frozen dataclass `cls`, nested ones included, from plain values.

    Raises InputError for an unknown or missing key, a value of another type, or one that the class refuses.
    """
    if not isinstance(values, Mapping):
        raise InputError(where, repr(values), "a mapping of names to values")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            raise InputError(f"{where}.{key}", "an unknown key", ", ".join(fields), nearest(str(key), fields))
    for name, spec in fields.items():
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise InputError(f"{where}.{name}", "nothing", "a value, since it has no default")
    given = {key: convert(hints[key], value, f"{where}.{key}") for key, value in values.items()}
    try:
        return cls(**given)
    except ValueError as reason:
        raise InputError(where, f"values that do not fit ({reason})", "see the class's own limits") from reason


def convert(kind: Any, value: Any, where: str) -> Any:
    """`value` as the annotation `kind` asks: lists become tuples, ints become floats, mappings dataclasses."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return value if isinstance(value, kind) else from_mapping(kind, value, where)
    if origin is typing.Literal:
        if value not in args:
            raise InputError(where, repr(value), ", ".join(map(repr, args)), nearest(str(value), map(str, args)))
        return value
    if origin in (typing.Union, types.UnionType):
        return _one_of(args, value, where)
    if origin is tuple:
        return _tuple(args, value, where)
    if origin is dict or kind is dict:
        if not isinstance(value, Mapping):
            raise InputError(where, repr(value), "a mapping")
        return dict(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and (type(value) is kind):
        return value
    raise InputError(where, f"{value!r} ({type(value).__name__})", f"a value of type {getattr(kind, '__name__', kind)}")


def _one_of(kinds: Sequence[Any], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    last: InputError | None = None
    for kind in kinds:
        if kind is not type(None):
            try:
                return convert(kind, value, where)
            except InputError as error:
                last = error
    raise last or InputError(where, repr(value), "nothing")


def _tuple(kinds: Sequence[Any], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise InputError(where, repr(value), "a list")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(convert(kinds[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if len(kinds) != len(value):
        raise InputError(where, f"{len(value)} values", f"{len(kinds)} values")
    return tuple(convert(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises InputError if it is not there or holds something else."""
    path = Path(path)
    try:
        if not path.is_file():
            raise InputError("config", f"{path}, where there is no file", "a YAML file")
        if path.stat().st_size > MAX_YAML:
            raise InputError("config", f"{path} of {path.stat().st_size} bytes", f"at most {MAX_YAML}")
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as reason:
        raise InputError("config", f"{path}, which does not open ({reason.strerror})", "a YAML file") from reason
    except (yaml.YAMLError, ValueError, RecursionError) as reason:  # ValueError: bytes that are no text, huge integers
        line = " ".join(str(reason).split())[:200]
        raise InputError("config", f"{path}, which is not YAML ({line})", "a YAML file") from reason
    if not isinstance(values, dict):
        raise InputError("config", f"{path}, which holds no mapping", "a YAML file of names and values")
    return values


def override(values: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """`values` with each "a.b=value" of `settings` set; the value is read as YAML."""
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise InputError("--set", repr(setting), "key=value, e.g. trainer.max_steps=100")
        *parents, last = path.split(".")
        inner = values
        for name in parents:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise InputError("--set", repr(setting), f"a key below a mapping, which {name} is not")
        inner[last] = _scalar(text)
    return values


def _scalar(text: str) -> Any:
    try:
        value = yaml.safe_load(text) if text else ""
    except (yaml.YAMLError, ValueError, RecursionError) as reason:
        raise InputError("--set", repr(text[:80]), "a value as YAML writes it") from reason
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as a word
        try:
            return float(value)
        except ValueError:
            return value
    return value


def to_plain(config: Any) -> Any:
    """A dataclass as plain mappings and lists, fit for YAML and JSON."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_plain(value) for value in config]
    return config
