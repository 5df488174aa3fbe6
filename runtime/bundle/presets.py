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
from dataclasses import replace
from typing import Any, TypeVar

from limner.runtime.bundle.loading import Bundle
from limner.runtime.errors import BundleError, InputError
from limner.runtime.grammar import plain_text
from limner.runtime.schema import from_dict
from limner.runtime.settings import Settings, laid_over

__all__ = ["DEFAULT_NEUTRAL", "derive_neutral", "neutral_texts", "picture_section", "presets", "resolved"]

P = TypeVar("P", bound=Settings)
DEFAULT_NEUTRAL = "a person"
ANY = "*"


def presets(bundle: Bundle, cls: type[P], section: str, more: str = "") -> P:
    """Return `cls` from its own defaults, then the bundle's for `section` (a method, or its inversion) and for the
    section `more`; read once a bundle. Raises BundleError naming defaults.<section>.<key> for a bad preset.
    """
    key = (cls, section, more)
    if key not in bundle.presets:
        bundle.presets[key] = _read(bundle.manifest.defaults, cls, section, more)
    found: P = bundle.presets[key]
    return found


def _read(defaults: Mapping[str, Mapping[str, Any]], cls: type[P], section: str, more: str) -> P:
    found: dict[str, Any] = {}
    checked = cls()
    for name in (section, more) if more in defaults else (section,):
        found |= defaults.get(name, {})
        where = f"defaults.{name}"
        try:
            checked = from_dict(cls, found, where, BundleError)
        except BundleError:
            raise
        except InputError as reason:
            raise BundleError(f"{where} ({reason.field})", reason.given, reason.allowed) from reason
    return replace(checked)


def resolved(bundle: Bundle, settings: P, section: str, more: str = "") -> P:
    """Return the settings with what they leave open from the bundle's presets, then from the published defaults.

    Raises InputError for values that do not go together, BundleError for a bad preset.
    """
    return laid_over(presets(bundle, type(settings), section, more), settings)


def picture_section(method: str, source: str) -> str:
    """The further section of a method's presets for that kind of source, or nothing."""
    return f"{method}.pictures" if source == "image" else ""


def neutral_texts(bundle: Bundle) -> dict[str, str]:
    """Return the bundle's table of words to take out of a text (or to replace), which may be empty."""
    return dict(bundle.manifest.neutrals)


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
        raise InputError("prompts.options.neutral", given, f"a text to compare with, other than {text!r}")
    return neutral
