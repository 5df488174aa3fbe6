"""The words of an edit: both methods get a description of the source, and its attribute changed.

SEGA's concept is the attribute's own words; where it takes something's place, the old value is a second concept with a
minus. A local edit of Prompt-to-Prompt names the word, of each description, that may change the picture.
"""

from __future__ import annotations

from collections.abc import Mapping

from limner.export.battery import BatteryEdit
from limner.runtime.recipe import PromptEdit
from limner.training.avatars.attributes import COVERED_HAIR

Words = Mapping[str, str]

HAIR = {
    "bald": "no hair",
    "hat": "a hat",
    "hijab": "a hijab",
    "turban": "a turban",
    "bob": "a {c}bob",
    "bun": "a {c}bun",
}
GLASSES = {"glasses": "glasses", "sunglasses": "sunglasses"}
BEARDS = {"beard": "a beard", "moustache": "a moustache"}
BALD = "a bald head"  # as a concept: "no hair" alone would be read as hair
DESCRIBED = ("hair", "hair_color", "facial_hair", "eyewear", "expression", "clothes_color", "background")


def describe(words: Words) -> str:
    """One sentence with an avatar's attributes: "a smiling person with short red hair, a beard and glasses, ..."."""
    color = "" if words["hair_color"] == "hidden" or words["hair"] in COVERED_HAIR else f"{words['hair_color']} "
    hair = HAIR.get(words["hair"], f"{words['hair']} {{c}}hair").replace("{c}", color)
    things = [hair, BEARDS.get(words["facial_hair"], ""), GLASSES.get(words["eyewear"], "")]
    said = [thing for thing in things if thing]
    joined = " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)
    expression = "" if words["expression"] == "neutral" else f"{words['expression']} "
    article = "an" if expression.startswith("a") else "a"
    person = f"{article} {expression}person with {joined}"
    return f"{person}, wearing {words['clothes_color']} clothes, {words['background']} background"


def concepts(edit: BatteryEdit, before: Words) -> tuple[PromptEdit, ...]:
    """SEGA's concepts of an edit: the new value, and away from the old one where that can be named."""
    new = BALD if (edit.attribute, edit.value) == ("hair", "bald") else named(edit.attribute, edit.value)
    old = named(edit.attribute, before[edit.attribute])
    away = (PromptEdit(old, options={"away": True}),) if old else ()
    return (PromptEdit(new), *away)


def blend_word(edit: BatteryEdit, before: Words) -> str:
    """SOURCE:TARGET, the words of both descriptions whose place may change; one of them may be missing."""
    return f"{_noun(edit.attribute, before)}:{_noun(edit.attribute, {**before, edit.attribute: edit.value})}"


def named(attribute: str, value: str) -> str:
    """A value's words alone; empty where it is the absence of something."""
    if attribute == "hair":
        return HAIR.get(value, f"{value} hair").replace("{c}", "")
    if attribute == "facial_hair":
        return BEARDS.get(value, "")
    if attribute == "eyewear":
        return GLASSES.get(value, "")
    if attribute == "expression":
        return "" if value == "neutral" else f"{value} person"
    noun = {"hair_color": "hair", "clothes_color": "clothes", "background": "background"}[attribute]
    return "" if value == "hidden" else f"{value} {noun}"


def _noun(attribute: str, words: Words) -> str:
    """The one word of a description that tells where the attribute is; empty where nothing does."""
    if attribute == "expression":
        return "" if words[attribute] == "neutral" else words[attribute]
    attribute = "hair" if attribute == "hair_color" else attribute
    return (named(attribute, words[attribute]).split() or [""])[-1]
