"""Concepts as they are written: +glasses, -beard:scale=7,threshold=0.95,warmup=5,cooldown=40,weight=2."""

import re
from collections.abc import Sequence

from limner.runtime.errors import InputError
from limner.runtime.grammar import not_understood, read_number, read_settings, split_colon
from limner.runtime.recipe import PromptEdit

__all__ = ["parse_concept", "parse_concepts"]

SCALE = "scale"
ASTRAY = re.compile(r"=|(?:(?<=\s)|^)[-+]")  # what words of a concept do not hold: a value, a second sign


def parse_concepts(concepts: Sequence[str], strengths: Sequence[float | None]) -> tuple[PromptEdit, ...]:
    """Return one text a concept; `strengths` are scales for those that name none of their own.

    InputError for strengths that no concept takes.
    """
    if any(strength is not None for strength in strengths):
        own = [parse_concept(text).strength is not None for text in concepts]
        shared = len(set(strengths)) == 1
        if all(own) if shared else any(own):
            which = concepts[own.index(True)]
            given = f"{strengths[own.index(True)]:g} for {which!r}, which has a scale of its own"
            raise InputError("strength", given, "one of the two")
    return tuple(parse_concept(text, strength) for text, strength in zip(concepts, strengths, strict=True))


def parse_concept(given: str, strength: float | None = None) -> PromptEdit:
    """Return text, signed scale and options of [+|-]WORDS[:NAME=VALUE,...]; without a sign it is added.

    A scale that nobody names is left to the method's parameters, and so to the bundle.
    """
    lead = len(given) - len(given.lstrip())
    signed = given[lead : lead + 1] in ("+", "-")
    sign = -1.0 if given[lead : lead + 1] == "-" else 1.0
    text, colon = split_colon(given, lead + signed)
    if not any(character.isalnum() for character in text):
        raise not_understood("concept", given, lead + signed, "a sign and words, as in +glasses or -beard:scale=7")
    begin = lead + signed
    astray = ASTRAY.search(given[begin:colon])
    if astray is not None:
        hint = "each concept has a --concept of its own" if astray.group() != "=" else "a scale is :scale=7"
        raise not_understood("concept", given, begin + astray.start(), "words, then :NAME=VALUE,...", hint)
    options = {} if colon is None else read_settings("concept", given, colon + 1, READERS)
    scale = options.pop(SCALE, strength)
    if scale is None:
        return PromptEdit(text.strip(), options=options | ({"away": True} if sign < 0 else {}))
    if scale < 0:
        raise InputError("concept", f"the scale {scale:g} in {given!r}", "a number from 0", "the sign says where to")
    return PromptEdit(text.strip(), strength=sign * scale, options=options)


def _steps(field: str, given: str, place: int) -> int:
    value = read_number(field, given, place)
    if value != int(value):
        raise not_understood(field, given, place, "a whole number of steps")
    return int(value)


READERS = {SCALE: read_number, "threshold": read_number, "warmup": _steps, "cooldown": _steps, "weight": read_number}
