"""Words of a Prompt-to-Prompt edit on the command line.

--word red=2                             weight 2
--word hair:weight=1.5,window=0.1-0.6    a weight, and steps of its own
--blend hair  --blend cat:dog            words that may change the picture: of both prompts, of each its own
"""

import json
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from limner.runtime.errors import InputError
from limner.runtime.methods import find_method
from limner.runtime.recipe import Recipe

__all__ = ["with_words", "word_options"]

METHOD = "prompt-to-prompt"

SHORT = re.compile(r"(.+)=\s*([-+.0-9eE]+)")
LONG = re.compile(r"(.+?):\s*([a-z_]+\s*=.*)")
RANGE = re.compile(r"\s*([.0-9]+)\s*-\s*([.0-9]+)\s*")
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


def with_words(recipe: Recipe, options: dict[str, Any], draws_maps: bool) -> Recipe:
    """Return the recipe with the options on its text, and with attention maps drawn if the method has any.

    Raises InputError for options with another method.
    """
    parameters = {f.name for f in fields(find_method(recipe.method).parameters)}
    if draws_maps and "maps" in parameters:
        recipe = replace(recipe, parameters={"maps": True} | recipe.parameters)
    if not options:
        return recipe
    if recipe.method != METHOD:
        option = {"weights": "word", "word_windows": "word"}.get(next(iter(options)), next(iter(options)))
        raise InputError(option, f"--{option} with the method {recipe.method!r}", f"--{option} with {METHOD} alone")
    return replace(recipe, prompts=tuple(replace(prompt, options=options) for prompt in recipe.prompts))


def _word(given: str) -> list[tuple[str, str, Any]]:
    """(option, word, value) of one --word."""
    long = LONG.fullmatch(given.strip())
    if long is None:
        short = SHORT.fullmatch(given.strip())
        if short is None:
            raise InputError("word", repr(given), ALLOWED)
        return [("weights", short[1].strip(), _number(short[2], given))]
    found: dict[str, Any] = {}
    for setting in long[2].split(","):
        name, sign, value = (part.strip() for part in setting.partition("="))
        if not sign or name not in ("weight", "window") or name in found:
            raise InputError("word", repr(given), ALLOWED)
        bounds = RANGE.fullmatch(value) if name == "window" else None
        found[name] = _number(value, given) if bounds is None else [_number(bound, given) for bound in bounds.groups()]
    names = {"weight": "weights", "window": "word_windows"}
    return [(names[name], long[1].strip(), value) for name, value in found.items()]


def _number(text: str, given: str) -> float:
    try:
        value = json.loads(text.removeprefix("+"))
    except ValueError:
        value = None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError("word", repr(given), ALLOWED)
    return float(value)
