"""Every setting of a family's run as a table: name, type, value as shipped, meaning.

Names, types and values come from the dataclasses and the family's YAML. The meaning of a setting is the comment behind
its field, or the lines of comment above it: it is written once, where the setting is declared.
"""

from __future__ import annotations

import dataclasses
import inspect
import io
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast

WIDTH = 118


@dataclass(frozen=True)
class Setting:
    """One line of the table."""

    name: str  # dotted, as `--set` takes it
    kind: str
    value: str  # as shipped
    meaning: str


def settings_of(run: Any, where: str = "") -> Iterator[Setting]:
    """All settings of a run, nested ones by dotted names, in the order in which they are declared."""
    cls = type(run)
    hints, meanings = typing.get_type_hints(cls), field_comments(cls)  # type: ignore[arg-type]
    for field in dataclasses.fields(run):
        value, name = getattr(run, field.name), f"{where}{field.name}"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from settings_of(value, f"{name}.")
        else:
            yield Setting(name, kind_of(hints[field.name]), _shown(value), meanings.get(field.name, ""))


def kind_of(kind: Any) -> str:
    """An annotation in words: "whole number", "0.1 | auto", "list of texts"."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    words = {int: "whole number", float: "number", str: "text", bool: "true | false", type(None): "null"}
    if kind in words:
        return words[kind]
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(kind_of(arg) for arg in args))
    if origin is tuple:
        alike = len(args) == 2 and args[1] is Ellipsis
        return f"list of {kind_of(args[0])}" if alike else f"[{', '.join(map(kind_of, args))}]"
    if origin is dict:
        return f"names to {kind_of(args[1])}"
    if dataclasses.is_dataclass(kind):
        return "{" + ", ".join(field.name for field in dataclasses.fields(kind)) + "}"
    return str(getattr(kind, "__name__", kind))


@lru_cache(maxsize=64)
def field_comments(cls: Any) -> dict[str, str]:
    """Field name -> the comment behind it, or the comment lines above it; of the class and what it inherits."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            found |= _comments_in(
                textwrap.dedent(inspect.getsource(cast(type, base))), {f.name for f in dataclasses.fields(base)}
            )
    return found


def _comments_in(source: str, names: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    above: list[str] = []
    name, fresh = "", True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("# ").strip()
            if text.startswith("fmt:"):
                continue
            if name:
                found[name] = f"{found[name]} {text}" if name in found else text
            else:
                above.append(text)
        elif token.type == tokenize.NEWLINE:
            if name and name not in found and above:
                found[name] = " ".join(above)
            name, above, fresh = "", [], True
        elif token.type in (tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
            continue
        else:
            if fresh and token.type == tokenize.NAME and token.string in names and token.start[1] == 4:
                name = token.string
            fresh = False
    return found


def _shown(value: Any) -> str:
    """A value as `--set` and YAML take it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if value == "":
        return "''"
    if isinstance(value, (tuple, list)):
        if value and dataclasses.is_dataclass(value[0]):
            return f"{len(value)} of them"
        text = "[" + ", ".join(map(_shown, value)) + "]"
        return text if len(text) < 60 else f"{len(value)} of them"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_shown(one)}" for key, one in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def as_text(run: Any) -> str:
    """The table for `--help`: a setting and its value on one line, type and meaning below."""
    lines = ["Settings, each with its value as shipped; --set NAME=VALUE changes one, --config FILE brings others:", ""]
    for setting in settings_of(run):
        lines.append(f"  {setting.name}={setting.value}")
        about = f"{setting.kind}: {setting.meaning}" if setting.meaning else setting.kind
        lines += textwrap.wrap(about, WIDTH, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines) + "\n"
