"""What the small grammars of words share: where a refusal points to, and weights of other programs in a text.

A refusal names the piece that was not understood and the character where it begins, counted from 1.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from limner.runtime.errors import InputError, nearest

__all__ = ["not_understood", "plain_text", "read_number", "read_settings", "refuse_markup", "split_colon"]

SHOWN = 40
# Weights in a text: (red:1.3) and [red:blue:0.4] of AUTOMATIC1111's web interface, <lora:name:0.8> of the same.
MARKUP = re.compile(
    r"\([^():]*[^\d\s():]\s*:\s*[-+]?(?:\d+\.?\d*|\.\d+)\s*\)"
    r"|\[[^\[\]:]*(?::[^\[\]:]*)?:\s*[\d.]+\s*\]"
    r"|<lora:[^>]*>"
)
Reader = Callable[[str, str, int], Any]
"""reader(field, given, place) -> value, of what `given` holds from `place` to the next comma."""


def plain_text(text: str) -> str:
    """Return `text` in lower case with single spaces: two texts that CLIP reads as one compare equal."""
    return " ".join(text.casefold().split())


def not_understood(field: str, given: str, place: int, allowed: str, hint: str = "") -> InputError:
    """Return the refusal of what stands in `given` from the character `place` (counted from 0) on."""
    rest = given[place:]
    shown = repr(_shortened(rest)) if rest else "the end"
    return InputError(field, f"{shown} at character {place + 1} of {_shortened(given)!r}", allowed, hint)


def refuse_markup(text: str, field: str) -> None:
    """Raise InputError where a text carries weights in brackets, which CLIP would read as words."""
    found = MARKUP.search(text)
    if found is None:
        return
    if found.group().startswith("<lora"):
        hint = "a LoRA becomes part of a bundle with `limner export onnx --lora FILE`"
    else:
        hint = "the weight of a word is an option of prompt-to-prompt, --word red=1.3"
    raise not_understood(field, text, found.start(), "words alone", hint)


def split_colon(given: str, start: int = 0) -> tuple[str, int | None]:
    r"""Return the text from `start` to the first colon, and where that stands; `\:` is a colon of the text itself."""
    words, place = [], start
    while place < len(given):
        if given[place] == "\\" and given[place + 1 : place + 2] == ":":
            words.append(":")
            place += 2
        elif given[place] == ":":
            return "".join(words), place
        else:
            words.append(given[place])
            place += 1
    return "".join(words), None


def read_settings(field: str, given: str, start: int, readers: Mapping[str, Reader]) -> dict[str, Any]:
    """Read NAME=VALUE,NAME=VALUE from the character `start` on; InputError at the first piece that is none."""
    found: dict[str, Any] = {}
    form = f"NAME=VALUE with a comma between, names are {', '.join(readers)}"
    place = start
    for piece in given[start:].split(","):
        name, sign, value = piece.partition("=")
        at = place + len(piece) - len(piece.lstrip())
        if not sign or not name.strip():
            raise not_understood(field, given, at, form)
        name = name.strip()
        if name not in readers:
            raise not_understood(field, given, at, form, nearest(name.lower(), readers))
        if name in found:
            raise not_understood(field, given, at, f"{name} once")
        begin = place + piece.index("=") + 1
        begin += len(value) - len(value.lstrip())
        found[name] = readers[name](field, given[: place + len(piece)], begin)
        place += len(piece) + 1
    return found


def read_number(field: str, given: str, place: int) -> float:
    """Read a finite number that takes all that is left of `given`."""
    text = given[place:].strip()
    if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?", text):
        value = float(text)
        if math.isfinite(value):
            return value
    begun = re.match(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?", given[place:])
    at = place + begun.end() if begun and math.isfinite(float(begun.group())) else place
    raise not_understood(field, given, at, "a number")


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
