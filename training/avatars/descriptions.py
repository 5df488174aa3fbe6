"""Descriptions of avatars, and the words of an edit of one.

A concept is the attribute's own words; where it takes something's place, the old value is a second concept with a
minus. A local edit names the word, of each description, that may change the picture.
"""

from __future__ import annotations

from collections.abc import Mapping

from limner.runtime.study.samples import EditSpec
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


def concepts(edit: EditSpec, before: Words) -> tuple[str, ...]:
    """The new value, and behind a minus the old one where that can be named."""
    new = BALD if (edit.attribute, edit.value) == ("hair", "bald") else named(edit.attribute, edit.value)
    old = named(edit.attribute, before[edit.attribute])
    return (new, f"-{old}") if old else (new,)


def blend_word(edit: EditSpec, before: Words) -> str:
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
