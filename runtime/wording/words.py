"""Words of a Prompt-to-Prompt edit, as a command line takes them.

--word red=2                             weight 2
--word hair:weight=1.5,window=0.1-0.6    a weight, and steps of its own
--blend hair  --blend cat:dog            words that may change the picture: of both prompts, of each its own
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from limner.runtime.errors import InputError
from limner.runtime.grammar import not_understood, read_number, read_settings, split_colon
from limner.runtime.methods.registry import find_method
from limner.runtime.pictures.drawn import drawn_text
from limner.runtime.pictures.images import read_photo
from limner.runtime.recipe import Recipe
from limner.runtime.schema import to_dict
from limner.runtime.settings import options_of

__all__ = ["drawn_options", "with_words", "word_options"]

RANGE = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*(?:-\s*(\d+\.?\d*|\.\d+)\s*)?")
WHITE = 127  # of 255, above which a mask marks a place
ALLOWED = "WORD=WEIGHT or WORD:weight=WEIGHT,window=FIRST-LAST, as in red=2"


def word_options(
    words: Sequence[str] | None,  # --word
    blend: Sequence[str] | None,
    subtract: Sequence[str] | None,
    kind: str | None,
) -> dict[str, Any]:
    """Return PromptEdit.options of an edit."""
    options: dict[str, Any] = {"weights": {}, "word_windows": {}}
    for given in words or ():
        for name, word, value in _word(given):
            if word in options[name]:
                raise InputError("word", f"{word!r} twice", "each word once")
            options[name][word] = value
    options |= {"blend": list(blend or ()), "subtract": list(subtract or ()), "kind": kind}
    return {name: value for name, value in options.items() if value}


def drawn_options(add: Path | None, remove: Path | None) -> dict[str, str]:
    """Return PromptEdit.options of places in picture files, white where they are; InputError for what is no picture."""
    found = {}
    for name, path in (("mask_add", add), ("mask_remove", remove)):
        if path is not None:
            field = name.replace("_", "-")
            mask = read_photo(path, field).on_white().mean(axis=2) > WHITE
            if not mask.any():
                raise InputError(field, f"{path.name!r}, which is nowhere white", "white where the place is")
            found[name] = drawn_text(mask)
    return found


def with_words(recipe: Recipe, options: dict[str, Any], draws_maps: bool) -> Recipe:
    """Return the recipe with the options on its text, and with attention maps drawn if the method has any."""
    if draws_maps and "maps" in options_of(find_method(recipe.method).parameters):
        recipe = replace(recipe, parameters={"maps": True} | to_dict(recipe.parameters))
    if not options:
        return recipe
    prompts = (replace(prompt, options=to_dict(prompt.options) | options) for prompt in recipe.prompts)
    return replace(recipe, prompts=tuple(prompts))


def _word(given: str) -> list[tuple[str, str, Any]]:
    """(option, word, value) of one --word."""
    word, colon = split_colon(given)
    if colon is not None:
        _spoken(word, given, colon)
        found = read_settings("word", given, colon + 1, {"weight": read_number, "window": _window})
        names = {"weight": "weights", "window": "word_windows"}
        return [(names[name], word.strip(), value) for name, value in found.items()]
    word, sign, _ = word.partition("=")
    if not sign:
        raise not_understood("word", given, len(given), ALLOWED)
    place = given.index("=")
    _spoken(word, given, place)
    return [("weights", word.strip(), read_number("word", given, place + 1))]


def _spoken(word: str, given: str, place: int) -> None:
    if not any(character.isalnum() for character in word):
        raise not_understood("word", given, 0 if word.strip() else place, ALLOWED)


def _window(field: str, given: str, place: int) -> list[float] | float:
    """FIRST-LAST, or LAST alone: parts of all steps."""
    found = RANGE.fullmatch(given[place:])
    if found is None:
        raise not_understood(field, given, place, "FIRST-LAST or LAST, parts of all steps, as in 0.1-0.6")
    return float(found[1]) if found[2] is None else [float(bound) for bound in found.groups()]
