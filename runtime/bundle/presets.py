"""What a bundle says about how it is best used: parameters per method, and neutral texts.

In bundle.json, both optional:

    "defaults":  {"latent-optimization": {"steps": 100}, "global-directions": {"alpha": 6.0}, "inversion": {}}
    "neutrals":  {"with a beard": "", "blonde": "", "*": "a portrait of a person"}

Methods on a diffusion bundle have two more sections: "sega.pictures" for what is different where the source is a
picture file, and "sega.inversion" for its inversion.

A recipe's own values win over the bundle's, and these over the published defaults.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from limner.runtime.bundle.loading import Bundle
from limner.runtime.errors import BundleError, InputError
from limner.runtime.recipe import plain_text
from limner.runtime.schema import from_dict, to_dict

__all__ = ["DEFAULT_NEUTRAL", "derive_neutral", "neutral_texts", "picture_section", "resolve_parameters"]

P = TypeVar("P")
DEFAULT_NEUTRAL = "a person"
ANY = "*"


def resolve_parameters(bundle: Bundle, section: str, cls: type[P], given: Mapping[str, Any], more: str = "") -> P:
    """Return `cls` from its own defaults, then the bundle's for `section` (a method, or its inversion) and for the
    section `more`, then `given`.

    Raises BundleError naming defaults.<section>.<key> for a bad preset, InputError for a bad value in
    `given`.
    """
    defaults = getattr(bundle.manifest, "defaults", {})
    presets: dict[str, Any] = {}
    for name in (section, more) if more in defaults else (section,):
        presets |= defaults.get(name, {})
        where = f"defaults.{name}"
        try:
            checked = from_dict(cls, presets, where, BundleError)
        except BundleError:
            raise
        except InputError as reason:
            raise BundleError(f"{where} ({reason.field})", reason.given, reason.allowed) from reason
    field = "inversion" if section.rpartition(".")[2] == "inversion" else "parameters"
    return from_dict(cls, to_dict(checked) | dict(given), field)


def picture_section(method: str, source: str) -> str:
    """The further section of a method's presets for that kind of source, or nothing."""
    return f"{method}.pictures" if source == "image" else ""


def neutral_texts(bundle: Bundle) -> dict[str, str]:
    """Return the bundle's table of words to take out of a text (or to replace), which may be empty."""
    return dict(getattr(bundle.manifest, "neutrals", {}))


def derive_neutral(text: str, table: Mapping[str, str]) -> str:
    """Return the text that `text` is compared with when the caller gave none.

    `table` maps words to what stands in their place, mostly nothing: "a man with a beard" and {"with a
    beard": ""} give "a man". A whole text may be a key as well. Where nothing matches, or nothing is left,
    the answer is the table's "*", else "a person". Raises InputError if that is the text itself.
    """
    plain = plain_text(text)
    phrases = {plain_text(key): value for key, value in table.items() if key != ANY}
    reduced = phrases.get(plain, "")
    if not reduced:
        reduced = plain
        for phrase in sorted(phrases, key=lambda key: (-len(key), key)):
            pattern = rf"(?<!\w){re.escape(phrase)}(?!\w)"
            reduced = re.sub(pattern, phrases[phrase].replace("\\", r"\\"), reduced)
        reduced = re.sub(r"\s+([,.;])", r"\1", " ".join(reduced.split())).strip(" ,;")
    fallback = table.get(ANY, DEFAULT_NEUTRAL)
    usable = reduced != plain and any(character.isalnum() for character in reduced)
    neutral = reduced if usable else fallback
    if plain_text(neutral) == plain:
        given = f"nothing, and {text!r} is itself what other texts are compared with"
        raise InputError("prompts.neutral", given, f"a text to compare with, other than {text!r}")
    return neutral
