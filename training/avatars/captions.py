"""Words for an avatar: captions composed from tables, and the canonical prompt of every attribute value.

A caption mentions some attributes, in one of several sentence shapes, with synonyms, and says nothing of the
rest. `Caption.mentions` tells which values it claims, so that a caption can be checked against any picture.
Everything is a table and a seeded draw: the same words and the same generator give the same caption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from limner.runtime.errors import InputError, nearest

# How a phrase attaches to the noun: "{before} person", "person with {with}", "person wearing {wearing}",
# "person {after}".
Slot = Literal["before", "with", "wearing", "after"]
SLOTS: tuple[Slot, ...] = ("before", "with", "wearing", "after")
Phrases = dict[Slot, tuple[str, ...]]

ATTRIBUTES = ("hair", "hair_color", "facial_hair", "eyewear", "expression", "skin", "clothes", "clothes_color",
              "background")  # fmt: skip

HAIR_COLORS: dict[str, tuple[str, ...]] = {
    "black": ("black", "black", "jet black"), "brown": ("brown", "brunette", "chestnut"),
    "blonde": ("blonde", "blond", "yellow", "golden"), "red": ("red", "ginger", "orange"),
    "gray": ("gray", "grey", "white", "silver"), "pink": ("pink", "rose pink"),
}  # fmt: skip
PLAIN_COLORS: dict[str, tuple[str, ...]] = {
    "red": ("red",), "blue": ("blue",), "green": ("green",), "black": ("black",), "white": ("white",),
    "yellow": ("yellow",), "purple": ("purple", "violet"), "pink": ("pink",), "gray": ("gray", "grey"),
}  # fmt: skip

# {c} is the hair colour with a space after it, or nothing.
HAIR: dict[str, Phrases] = {
    "bald": {"before": ("bald", "hairless", "bald-headed"),
             "with": ("a bald head", "no hair", "a shaved head", "a shaven head"), "after": ("without hair",)},
    "short": {"with": ("short {c}hair", "short {c}hair", "a short {c}haircut", "short cut {c}hair"),
              "before": ("short-haired",)},
    "long": {"with": ("long {c}hair", "long {c}hair", "long flowing {c}hair"), "before": ("long-haired",)},
    "bob": {"with": ("a {c}bob", "a {c}bob cut", "a {c}bob haircut", "chin-length {c}hair")},
    "curly": {"with": ("curly {c}hair", "curly {c}hair", "a {c}afro", "big curly {c}hair", "{c}curls"),
              "before": ("curly-haired",)},
    "bun": {"with": ("a {c}bun", "a {c}hair bun", "{c}hair in a bun", "{c}hair tied up")},
    "hat": {"with": ("a hat", "a hat on"), "wearing": ("a hat", "a hat", "a cap", "a hat or a cap")},
    "hijab": {"with": ("a hijab", "a headscarf"), "wearing": ("a hijab", "a headscarf", "a veil")},
    "turban": {"with": ("a turban",), "wearing": ("a turban", "a turban on the head")},
}  # fmt: skip
HAIR_COLOR: Phrases = {"with": ("{c}hair", "{c}hair", "{c}colored hair", "hair that is {c}"),
                       "before": ("{c}-haired",)}  # fmt: skip
FACIAL_HAIR: dict[str, Phrases] = {
    "none": {"before": ("clean-shaven", "beardless", "clean shaven"),
             "with": ("no beard", "no facial hair", "no beard and no moustache", "a clean shave", "a shaved face"),
             "after": ("without a beard", "without facial hair")},
    "beard": {"with": ("a beard", "a beard", "a full beard", "facial hair and a beard"), "before": ("bearded",)},
    "moustache": {"with": ("a moustache", "a mustache", "only a moustache", "a moustache and no beard"),
                  "before": ("mustached",)},
}  # fmt: skip
EYEWEAR: dict[str, Phrases] = {
    "none": {"with": ("no glasses", "no eyewear", "bare eyes", "nothing over the eyes"),
             "after": ("without glasses", "without glasses", "without eyewear", "not wearing glasses")},
    "glasses": {"with": ("glasses", "eyeglasses", "spectacles", "clear glasses", "reading glasses"),
                "wearing": ("glasses", "glasses", "eyeglasses", "spectacles", "clear glasses"),
                "before": ("bespectacled",)},
    "sunglasses": {"with": ("sunglasses", "dark glasses", "shades", "dark sunglasses"),
                   "wearing": ("sunglasses", "sunglasses", "dark glasses", "shades", "black sunglasses")},
}  # fmt: skip
EXPRESSION: dict[str, Phrases] = {
    "neutral": {"before": ("neutral", "serious", "calm", "expressionless"),
                "with": ("a neutral expression", "a serious face", "a calm look", "a blank expression")},
    "smiling": {"before": ("smiling", "smiling", "happy", "cheerful", "joyful", "laughing"),
                "with": ("a smile", "a smile", "a happy face", "a big smile", "a cheerful expression"),
                "after": ("who smiles", "who is smiling")},
    "surprised": {"before": ("surprised", "surprised", "amazed", "astonished", "shocked"),
                  "with": ("a surprised expression", "an open mouth", "a surprised face", "a look of surprise"),
                  "after": ("who is surprised",)},
    "sad": {"before": ("sad", "sad", "unhappy", "crying", "sorrowful"),
            "with": ("a sad expression", "a sad face", "a frown", "an unhappy look"), "after": ("who is sad",)},
    "angry": {"before": ("angry", "angry", "furious", "mad", "annoyed"),
              "with": ("an angry expression", "an angry face", "gritted teeth", "a furious look"),
              "after": ("who is angry",)},
}  # fmt: skip
SKIN: dict[str, Phrases] = {
    "pale": {"before": ("pale", "fair-skinned", "light-skinned"), "with": ("pale skin", "fair skin", "light skin")},
    "tanned": {"before": ("tanned",), "with": ("tanned skin", "tan skin", "olive skin")},
    "brown": {"before": ("brown-skinned",), "with": ("brown skin", "medium brown skin")},
    "dark": {"before": ("dark-skinned",), "with": ("dark skin", "very dark skin", "deep dark skin")},
}  # fmt: skip
GARMENTS: dict[str, tuple[str, ...]] = {
    "t-shirt": ("t-shirt", "t-shirt", "tee", "plain shirt"), "hoodie": ("hoodie", "hoodie", "hooded sweatshirt"),
    "overalls": ("overalls", "dungarees"), "blazer": ("blazer", "blazer", "jacket", "suit jacket"),
    "sweater": ("sweater", "collared sweater", "pullover"),
}  # fmt: skip
PLURAL_GARMENTS = ("overalls", "dungarees")
CLOTHES_COLOR: Phrases = {"wearing": ("{c} clothes", "{c} clothes", "a {c} outfit", "all {c}", "{c} clothing"),
                          "with": ("{c} clothes",),
                          "after": ("dressed in {c}", "in {c} clothes", "in {c}")}  # fmt: skip
BACKGROUND: Phrases = {
    "with": ("a {c} background", "a {c} background", "a {c} backdrop"),
    "after": ("on a {c} background", "on {c}", "in front of a {c} background", "against a {c} wall",
              "before a {c} background"),
}  # fmt: skip

NOUNS = ("person", "person", "person", "face", "face", "character", "someone", "human", "head")
MEDIA = ("portrait", "portrait", "photo", "picture", "avatar", "cartoon", "drawing", "image", "painting",
         "rendering", "sketch", "doodle", "rendition", "close-up photo", "illustration", "sculpture", "tattoo",
         "icon")  # fmt: skip
ADJECTIVES = ("", "", "", "", "", "", "bad", "good", "cropped", "bright", "dark", "blurry", "low resolution",
              "black and white", "pixelated", "jpeg corrupted", "close-up", "flat", "simple", "nice",
              "cartoon")  # fmt: skip
SUBJECT_ADJECTIVES = ("", "", "", "", "", "", "", "", "", "", "nice", "cool", "weird", "small", "large", "clean",
                      "dirty", "hard to see", "toy", "plastic", "origami", "embroidered", "plushie", "cartoon",
                      "young", "old")  # fmt: skip
SHAPES: tuple[tuple[str, float], ...] = (
    ("{a medium} of {a subject}", 0.28), ("{a subject}", 0.28), ("{a medium} of {the subject}", 0.10),
    ("{the subject}", 0.05), ("{medium}: {tags}", 0.05), ("{tags}", 0.10), ("{subject}", 0.06),
    ("{a subject} in a video game", 0.01), ("art of {a subject}", 0.02), ("graffiti of {the subject}", 0.01),
    ("itap of my {subject}", 0.01), ("{a medium} of one {subject}", 0.01), ("{a subject}, {medium}", 0.02),
)  # fmt: skip
MENTION_COUNTS = (0.03, 0.38, 0.22, 0.13, 0.08, 0.05, 0.04, 0.03, 0.02, 0.02)  # of 0, 1, 2 ... attributes


@dataclass(frozen=True)
class Caption:
    """One caption, and the attribute values that it claims."""

    text: str
    mentions: tuple[tuple[str, str], ...]  # (attribute, value), in ATTRIBUTES order

    def agrees(self, words: Mapping[str, str]) -> bool:
        """Whether a picture with these attribute words fits the caption."""
        return all(words[name] == value for name, value in self.mentions)


def caption(
    words: Mapping[str, str],  # attribute -> value, as Avatar.attributes gives them
    rng: np.random.Generator,
    mention: Sequence[str] | None = None,  # these attributes; None draws some
) -> Caption:
    """Compose one caption that is true of `words`. A hidden hair colour is never mentioned.

    Raises InputError for an attribute that is not known.
    """
    for name in mention or ():
        if name not in ATTRIBUTES:
            raise InputError("mention", repr(name), ", ".join(ATTRIBUTES), nearest(name, ATTRIBUTES))
    seen = [name for name in ATTRIBUTES if name in words and words[name] != "hidden"]
    if mention is None:
        count = min(int(rng.choice(len(MENTION_COUNTS), p=MENTION_COUNTS)), len(seen))
        mention = [str(name) for name in rng.choice(seen, count, replace=False)]
    chosen = {name: words[name] for name in seen if name in mention}
    phrases = _phrases(chosen, rng)
    shape = SHAPES[int(rng.choice(len(SHAPES), p=[weight for _, weight in SHAPES]))][0]
    if not phrases and "{tags}" in shape:
        shape = "{a subject}"
    text = _fill(shape, phrases, rng)
    return Caption(text, tuple((name, value) for name, value in chosen.items()))


def captions(words: Mapping[str, str], rng: np.random.Generator, count: int = 4) -> list[Caption]:
    """`count` captions of one picture, each with its own draw of attributes, shape and synonyms."""
    return [caption(words, rng) for _ in range(count)]


def counterfactual(
    words: Mapping[str, str], values: Mapping[str, Sequence[str]], rng: np.random.Generator
) -> dict[str, str]:
    """`words` with one attribute drawn anew from the other `values`: for captions that are almost true."""
    name = str(rng.choice([n for n in ATTRIBUTES if n in words and words[n] != "hidden"]))
    others = [value for value in values[name] if value not in (words[name], "hidden")]
    return {**words, name: str(rng.choice(others))}


def _pick(items: Sequence[str], rng: np.random.Generator) -> str:
    return items[int(rng.integers(len(items)))]


def _draw(phrases: Phrases, rng: np.random.Generator) -> tuple[Slot, str]:
    """One phrase, each phrase of each slot equally likely."""
    options = [(slot, phrase) for slot in SLOTS for phrase in phrases.get(slot, ())]
    return options[int(rng.integers(len(options)))]


def _phrases(chosen: Mapping[str, str], rng: np.random.Generator) -> list[tuple[Slot, str]]:
    """One phrase per mentioned thing; a style and its colour make one phrase together."""
    found: list[tuple[Slot, str]] = []
    hair_color = _pick(HAIR_COLORS[chosen["hair_color"]], rng) if "hair_color" in chosen else ""
    if "hair" in chosen:
        table = HAIR[chosen["hair"]]
        slot, phrase = _draw({"with": table["with"]} if hair_color else table, rng)
        found.append((slot, phrase.replace("{c}", f"{hair_color} " if hair_color else "")))
    elif hair_color:
        slot, phrase = _draw(HAIR_COLOR, rng)
        spaced = hair_color if slot == "before" or phrase.endswith("{c}") else f"{hair_color} "
        found.append((slot, phrase.replace("{c}", spaced)))
    for name, words in (("facial_hair", FACIAL_HAIR), ("eyewear", EYEWEAR), ("expression", EXPRESSION), ("skin", SKIN)):
        if name in chosen:
            found.append(_draw(words[chosen[name]], rng))
    color = _pick(PLAIN_COLORS[chosen["clothes_color"]], rng) if "clothes_color" in chosen else ""
    if "clothes" in chosen:
        garment = _pick(GARMENTS[chosen["clothes"]], rng)
        colored = f"{color} {garment}" if color else garment
        found.append(("wearing", colored if garment in PLURAL_GARMENTS else _article(colored)))
    elif color:
        slot, phrase = _draw(CLOTHES_COLOR, rng)
        found.append((slot, phrase.replace("{c}", color)))
    if "background" in chosen:
        slot, phrase = _draw(BACKGROUND, rng)
        found.append((slot, phrase.replace("{c}", _pick(PLAIN_COLORS[chosen["background"]], rng))))
    order = rng.permutation(len(found))
    return [(found[i][0], _mend(found[i][1])) for i in order]


def _fill(shape: str, phrases: list[tuple[Slot, str]], rng: np.random.Generator) -> str:
    medium = f"{_pick(ADJECTIVES, rng)} {_pick(MEDIA, rng)}".strip()
    subject = _subject(phrases, rng)
    if "{the subject}" in shape and subject.startswith("someone"):
        shape = shape.replace("{the subject}", "{subject}")
    tags = ", ".join(phrase for _, phrase in phrases)
    parts = {"{a medium}": _article(medium), "{medium}": medium, "{a subject}": _article(subject),
             "{the subject}": f"the {subject}", "{subject}": subject, "{tags}": tags}  # fmt: skip
    for key, value in parts.items():
        shape = shape.replace(key, value)
    return shape


def _subject(phrases: list[tuple[Slot, str]], rng: np.random.Generator) -> str:
    """The noun with every phrase in its place, e.g. "smiling person with a beard wearing a hat, on blue"."""
    slots: dict[Slot, list[str]] = {slot: [p for s, p in phrases if s == slot] for slot in SLOTS}
    noun = _pick(NOUNS, rng)
    if noun == "someone" and (slots["before"] or not phrases):
        noun = "person"
    adjective = "" if noun == "someone" else _pick(SUBJECT_ADJECTIVES, rng)
    text = " ".join(word for word in (adjective, ", ".join(slots["before"]), noun) if word)
    if slots["with"]:
        text += " with " + _and(slots["with"])
    if slots["wearing"]:
        text += (", wearing " if slots["with"] else " wearing ") + _and(slots["wearing"])
    for i, phrase in enumerate(slots["after"]):
        text += (", " if i or slots["with"] or slots["wearing"] else " ") + phrase
    return text


def _and(items: list[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def _article(text: str) -> str:
    if text.startswith("someone"):
        return text
    return ("an " if text[0] in "aeiou" else "a ") + text


def _mend(phrase: str) -> str:
    """Set a leading "a" right once a colour stands behind it."""
    return _article(phrase[2:]) if phrase.startswith("a ") else phrase


PROMPTS: dict[str, dict[str, str]] = {
    "hair": {"bald": "a bald person", "short": "a person with short hair", "long": "a person with long hair",
             "bob": "a person with a bob cut", "curly": "a person with curly hair",
             "bun": "a person with hair in a bun", "hat": "a person wearing a hat",
             "hijab": "a person wearing a hijab", "turban": "a person wearing a turban"},
    "hair_color": {name: f"a person with {name} hair" for name in HAIR_COLORS},
    "facial_hair": {"none": "a person with no facial hair", "beard": "a person with a beard",
                    "moustache": "a person with a moustache"},
    "eyewear": {"none": "a person without glasses", "glasses": "a person wearing glasses",
                "sunglasses": "a person wearing sunglasses"},
    "expression": {"neutral": "a person with a neutral expression", "smiling": "a smiling person",
                   "surprised": "a surprised person", "sad": "a sad person", "angry": "an angry person"},
    "skin": {name: f"a person with {name} skin" for name in SKIN},
    "clothes": {"t-shirt": "a person wearing a t-shirt", "hoodie": "a person wearing a hoodie",
                "overalls": "a person wearing overalls", "blazer": "a person wearing a blazer",
                "sweater": "a person wearing a sweater"},
    "clothes_color": {name: f"a person wearing {name} clothes"
                      for name in ("red", "blue", "green", "black", "white", "yellow", "purple")},
    "background": {name: f"a person on a {name} background"
                   for name in ("blue", "green", "yellow", "pink", "gray", "purple")},
}  # fmt: skip


def prompt_for(attribute: str, value: str) -> str:
    """The canonical zero-shot prompt of one attribute value, e.g. "a person with a beard".

    Raises InputError for an attribute or value that has none; a hidden hair colour has none.
    """
    if attribute not in PROMPTS:
        raise InputError("attribute", repr(attribute), ", ".join(PROMPTS), nearest(attribute, PROMPTS))
    if value not in PROMPTS[attribute]:
        raise InputError(attribute, repr(value), ", ".join(PROMPTS[attribute]), nearest(value, PROMPTS[attribute]))
    return PROMPTS[attribute][value]
