"""Concepts on the command line: +glasses, -beard:scale=7,threshold=0.95,warmup=5,cooldown=40,weight=2."""

import json
import re
from collections.abc import Sequence
from typing import Any

from limner.runtime.errors import InputError
from limner.runtime.recipe import PromptEdit

__all__ = ["parse_concept", "parse_concepts"]

SETTINGS = re.compile(r"[a-z_]+\s*=\s*[^=,]*(,\s*[a-z_]+\s*=\s*[^=,]*)*")
SCALE = "scale"


def parse_concepts(concepts: Sequence[str], strengths: Sequence[float | None]) -> tuple[PromptEdit, ...]:
    """Return one text a concept; `strengths` are scales for those that name none of their own."""
    return tuple(parse_concept(text, strength) for text, strength in zip(concepts, strengths, strict=True))


def parse_concept(given: str, strength: float | None = None) -> PromptEdit:
    """Return text, signed scale and options of [+|-]WORDS[:NAME=VALUE,...]; without a sign it is added.

    A scale that nobody names is left to the method's parameters, and so to the bundle.
    """
    sign = -1.0 if given.startswith("-") else 1.0
    text = given[1:] if given[:1] in ("+", "-") else given
    words, colon, tail = text.rpartition(":")
    options: dict[str, Any] = {}
    if colon and SETTINGS.fullmatch(tail.strip()):
        text, options = words, _options(tail)
    if not text.strip():
        raise InputError("concept", repr(given), "a sign and words, as in +glasses or -beard:scale=7")
    scale = options.pop(SCALE, strength)
    if scale is None:
        return PromptEdit(text.strip(), options=options | ({"away": True} if sign < 0 else {}))
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or scale < 0:
        raise InputError("concept", f"the scale {scale!r} in {given!r}", "a number from 0", "the sign says where to")
    return PromptEdit(text.strip(), strength=sign * scale, options=options)


def _options(tail: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for setting in tail.split(","):
        name, _, value = setting.partition("=")
        name = name.strip()
        if name in found:
            raise InputError("concept", f"{name!r} twice", "each option once")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value.strip()
    return found
