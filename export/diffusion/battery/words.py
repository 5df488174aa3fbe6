"""The words of an edit: both methods get a description of the source, and its attribute changed.

SEGA's concept is the attribute's own words; where it takes something's place, the old value is a second concept with a
minus. A local edit of Prompt-to-Prompt names the word, of each description, that may change the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limner.export.battery import BatteryEdit
from limner.runtime.recipe import PromptEdit
from limner.training.avatars.attributes import COVERED_HAIR
from limner.training.avatars.captions import PLURAL_GARMENTS

Words = Mapping[str, str]

HAIR = {
    "bald": "no hair",
    "hat": "a hat",
    "hijab": "a hijab",
    "turban": "a turban",
    "bob": "a {c}bob",
    "bun": "a {c}bun",
}
GLASSES = {"none": "no glasses", "glasses": "glasses", "sunglasses": "sunglasses"}
BEARDS = {"none": "no beard", "beard": "a beard", "moustache": "a moustache"}
ABSENT = ("none", "neutral", "hidden")
BALD = "a bald head"  # as a concept: "no hair" alone would be read as hair
DESCRIBED = ("hair", "hair_color", "facial_hair", "eyewear", "expression", "skin", "clothes", "clothes_color",
             "background")  # fmt: skip


def describe(words: Words, unsaid: str = "") -> str:
    """One sentence with all of an avatar's attributes, in the same places for every avatar: "a smiling person with
    pale skin, short red hair, a beard and no glasses, wearing a blue hoodie, green background". The attribute
    `unsaid` is left out where it is the absence of something: nobody asks for no beard and then for a beard.
    """
    color = "" if words["hair_color"] == "hidden" or words["hair"] in COVERED_HAIR else f"{words['hair_color']} "
    hair = HAIR.get(words["hair"], f"{words['hair']} {{c}}hair").replace("{c}", color)
    silent = unsaid if unsaid and words[unsaid] in ABSENT else ""
    worn_face = {"facial_hair": BEARDS[words["facial_hair"]], "eyewear": GLASSES[words["eyewear"]]}
    listed = [f"{words['skin']} skin", hair, *(text for name, text in worn_face.items() if name != silent)]
    things = f"{', '.join(listed[:-1])} and {listed[-1]}"
    garment = f"{words['clothes_color']} {words['clothes']}"
    worn = garment if words["clothes"] in PLURAL_GARMENTS else f"a {garment}"
    person = f"person with {things}" if silent == "expression" else f"{words['expression']} person with {things}"
    article = "an" if person.startswith("a") else "a"
    return f"{article} {person}, wearing {worn}, {words['background']} background"


def concepts(edit: BatteryEdit, before: Words, own: bool = False) -> tuple[PromptEdit, ...]:
    """SEGA's concepts of an edit: the new value, and away from the old one where that can be named. They have the
    bundle's scale and threshold, or the edit's `own` where it has any.
    """
    scale = edit.scale if own else None
    options: dict[str, Any] = {"threshold": edit.threshold} if own and edit.threshold is not None else {}
    new = BALD if (edit.attribute, edit.value) == ("hair", "bald") else named(edit.attribute, edit.value)
    old = named(edit.attribute, before[edit.attribute])
    away = (PromptEdit(old, strength=scale, options={**options, "away": True}),) if old else ()
    return (PromptEdit(new, strength=scale, options=options), *away)


def blend_word(edit: BatteryEdit, before: Words) -> str:
    """SOURCE:TARGET, the words of both descriptions whose place may change."""
    return f"{_noun(edit.attribute, before)}:{_noun(edit.attribute, {**before, edit.attribute: edit.value})}"


def named(attribute: str, value: str) -> str:
    """A value's words alone; empty where it is the absence of something."""
    if value in ABSENT:
        return ""
    if attribute == "hair":
        return HAIR.get(value, f"{value} hair").replace("{c}", "")
    if attribute == "facial_hair":
        return BEARDS[value]
    if attribute == "eyewear":
        return GLASSES[value]
    if attribute == "expression":
        return f"{value} person"
    noun = {"hair_color": "hair", "clothes_color": "clothes", "background": "background"}[attribute]
    return f"{value} {noun}"


def _noun(attribute: str, words: Words) -> str:
    """The one word of a description that tells where the attribute is."""
    if attribute == "expression":
        return words[attribute]
    if attribute == "clothes_color":
        return words["clothes"]
    text = {"hair": HAIR.get(words["hair"], "hair"), "hair_color": HAIR.get(words["hair"], "hair"),
            "facial_hair": BEARDS[words["facial_hair"]], "eyewear": GLASSES[words["eyewear"]],
            "background": "background"}[attribute]  # fmt: skip
    return text.replace("{c}", "").split()[-1]
