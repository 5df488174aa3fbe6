"""What varies between avatars: a table per style, and the seeded sampling of one avatar from it.

An avatar is a set of *options* (the drawing's variants and colours, one choice each) and a small
*pose*. *Attributes* are the words for it: each attribute's value is a function of one option. An
*identity* is the part that an edit should keep: skin, hair, clothes and their colours.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from limner.training.avatars.style_spec import Option, StyleSpec, colors, group
from limner.training.avatars.style_tables import MICAH, PERSONAS

__all__ = [
    "AVATAAARS",
    "COVERED_HAIR",
    "DEFAULT_POSE",
    "POSE_LIMITS",
    "POSE_NAMES",
    "SPLITS",
    "STYLES",
    "Avatar",
    "Option",
    "StyleSpec",
    "code_size",
    "option_code",
    "sample_avatar",
    "sample_in_split",
    "split_of",
    "with_attribute",
]

POSE_NAMES = ("rotate", "translate_x", "translate_y", "scale")
POSE_LIMITS = (4.0, 3.0, 2.0, 0.04)  # degrees, % of width, % of height, relative
DEFAULT_POSE = 0.25  # share of the limits that pictures use unless asked otherwise: about a pixel at 128 px


COVERED_HAIR = ("bald", "hat", "hijab", "turban")  # hair colour cannot be seen

_NEUTRAL, _SMILE, _SURPRISED, _SAD, _ANGRY = "neutral", "smiling", "surprised", "sad", "angry"

AVATAAARS = StyleSpec(
    name="avataaars",
    options=(
        Option(
            "hair",
            (
                *group("bald", 0.12, "none"),
                *group(
                    "short",
                    0.27,
                    "shortFlat",
                    "shortRound",
                    "shortWaved",
                    "shortCurly",
                    "theCaesar",
                    "theCaesarAndSidePart",
                    "dreads01",
                    "frizzle",
                ),
                *group(
                    "long",
                    0.21,
                    "straight01",
                    "straight02",
                    "straightAndStrand",
                    "curvy",
                    "dreads",
                    "bigHair",
                ),
                *group("bob", 0.10, "bob", "miaWallace", "longButNotTooLong"),
                *group("curly", 0.12, "curly", "fro", "dreads02"),
                *group("bun", 0.04, "bun"),
                *group("hat", 0.08, "hat", "winterHat02", "winterHat03", "winterHat1"),
                *group("hijab", 0.03, "hijab"),
                *group("turban", 0.03, "turban"),
            ),
        ),
        Option(
            "hair_color",
            colors(black="2c1b18", brown="724133", blonde="d6b370", red="c93305", gray="e8e1e1", pink="f59797"),
        ),
        Option("hat_color", colors(blue="25557c", red="ff5c5c", gray="929598", green="3f8f5f")),
        Option(
            "facial_hair",
            (
                *group("none", 0.55, "none"),
                *group("beard", 0.30, "beardMedium", "beardMajestic", "beardLight"),
                *group("moustache", 0.15, "moustacheFancy", "moustacheMagnum"),
            ),
        ),
        Option(
            "eyewear",
            (
                *group("none", 0.50, "none"),
                *group("glasses", 0.28, "prescription01", "prescription02", "round"),
                *group("sunglasses", 0.22, "kurt", "sunglasses", "wayfarers"),
            ),
        ),
        Option(
            "mouth",
            (
                *group(_NEUTRAL, 0.26, "serious"),
                *group(_SMILE, 0.32, "smile", "twinkle", "default"),
                *group(_SURPRISED, 0.15, "screamOpen"),
                *group(_SAD, 0.15, "sad"),
                *group(_ANGRY, 0.12, "grimace"),
            ),
        ),
        Option(
            "eyes",
            (
                ("default", "", 1.0),
                ("side", "", 0.4),
                ("happy", "", 0.8),
                ("wink", "", 0.2),
                ("surprised", "", 1.0),
                ("cry", "", 0.6),
                ("closed", "", 0.3),
                ("squint", "", 1.0),
            ),
            "expression",
            {
                _NEUTRAL: ("default", "side"),
                _SMILE: ("default", "happy", "wink"),
                _SURPRISED: ("surprised",),
                _SAD: ("default", "cry", "closed"),
                _ANGRY: ("squint",),
            },
        ),
        Option(
            "eyebrows",
            (
                ("default", "", 1.0),
                ("flatNatural", "", 0.6),
                ("raisedExcited", "", 1.0),
                ("sadConcerned", "", 1.0),
                ("angryNatural", "", 1.0),
            ),
            "expression",
            {
                _NEUTRAL: ("default", "flatNatural"),
                _SMILE: ("default", "raisedExcited"),
                _SURPRISED: ("raisedExcited",),
                _SAD: ("sadConcerned",),
                _ANGRY: ("angryNatural",),
            },
        ),
        Option("skin", colors(pale="ffdbb4", tanned="d08b5b", brown="ae5d29", dark="614335")),
        Option(
            "clothes",
            (
                *group("t-shirt", 0.36, "shirtCrewNeck", "shirtScoopNeck", "shirtVNeck"),
                *group("hoodie", 0.16, "hoodie"),
                *group("overalls", 0.14, "overall"),
                *group("blazer", 0.2, "blazerAndShirt", "blazerAndSweater"),
                *group("sweater", 0.14, "collarAndSweater"),
            ),
        ),
        Option(
            "clothes_color",
            colors(
                red="ff5c5c",
                blue="5199e4",
                green="4caf50",
                black="262e33",
                white="f5f5f5",
                yellow="ffd54f",
                purple="9c6ade",
            ),
        ),
        Option(
            "background",
            colors(blue="65c9ff", green="a5d6a7", yellow="ffe082", pink="f8bbd0", gray="cfd8dc", purple="c5b3f0"),
        ),
    ),
    attributes=(
        ("hair", "hair"),
        ("hair_color", "hair_color"),
        ("facial_hair", "facial_hair"),
        ("eyewear", "eyewear"),
        ("expression", "mouth"),
        ("skin", "skin"),
        ("clothes", "clothes"),
        ("clothes_color", "clothes_color"),
        ("background", "background"),
    ),
    identity=("hair", "hair_color", "hat_color", "skin", "clothes", "clothes_color"),
    licence="Free for personal and commercial use",
    creator="Pablo Stanley",
    source="Avataaars (https://avataaars.com/), remixed by DiceBear",
    components=(
        ("hair", "top"),
        ("facial_hair", "facialHair"),
        ("eyewear", "accessories"),
        ("mouth", "mouth"),
        ("eyes", "eyes"),
        ("eyebrows", "eyebrows"),
        ("clothes", "clothes"),
    ),
    colors=(
        ("hair_color", ("hairColor", "facialHairColor")),
        ("hat_color", ("hatColor",)),
        ("skin", ("skinColor",)),
        ("clothes_color", ("clothesColor",)),
        ("background", ("backgroundColor",)),
    ),
    fixed=(("accessoriesColor", "262e33"),),
)

STYLES = {style.name: style for style in (AVATAAARS, PERSONAS, MICAH)}
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Avatar:
    """One avatar: an option index per option of the style, and a pose in units of POSE_LIMITS, [-1, 1]."""

    options: tuple[int, ...]
    pose: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)

    def attributes(self, style: StyleSpec) -> dict[str, str]:
        """Attribute words, e.g. ``{"hair": "short", "eyewear": "glasses", ...}``."""
        index = {o.name: i for i, o in enumerate(style.options)}
        words = {name: style.option(opt).choices[self.options[index[opt]]][1] for name, opt in style.attributes}
        if words.get("hair") in COVERED_HAIR:
            words["hair_color"] = "hidden"
        return words

    def attribute_indices(self, style: StyleSpec) -> tuple[int, ...]:
        words = self.attributes(style)
        return tuple(style.attribute_values(name).index(words[name]) for name, _ in style.attributes)

    def identity(self, style: StyleSpec) -> str:
        """A stable text for the identity. A colour that cannot be seen is no part of it."""
        names = [o.name for o in style.options]
        parts = {n: style.options[names.index(n)].values[self.options[names.index(n)]] for n in style.identity}
        hair = self.attributes(style)["hair"]
        if hair not in ("hat", "hijab", "turban"):
            parts.pop("hat_color", None)
        if hair in COVERED_HAIR:
            parts.pop("hair_color", None)
        return ";".join(f"{k}={v}" for k, v in parts.items())


def split_of(identity: str) -> str:
    """The one split an identity belongs to: 10 % test, 10 % validation, the rest train, by its hash."""
    bucket = hashlib.sha256(identity.encode()).digest()[0]
    return "test" if bucket < 26 else "validation" if bucket < 52 else "train"


def sample_avatar(style: StyleSpec, rng: np.random.Generator, pose: float = 1.0, independent: bool = False) -> Avatar:
    """Draw options by their weights, expression details to fit the mouth (or, `independent`, whatever it is), and a
    uniform pose of that share.
    """
    chosen: list[int] = []
    expression = ""
    for option in style.options:
        weights = np.array([c[2] for c in option.choices])
        if option.depends_on and not independent:
            weights *= np.array([c[0] in option.allowed[expression] for c in option.choices])
        k = int(rng.choice(len(weights), p=weights / weights.sum()))
        if option.name == "mouth":
            expression = option.choices[k][1]
        chosen.append(k)
    return Avatar(tuple(chosen), tuple(pose * float(v) for v in rng.uniform(-1, 1, len(POSE_NAMES))))


def sample_in_split(
    style: StyleSpec, split: str, index: int, seed: int = 0, pose: float = DEFAULT_POSE, independent: bool = False
) -> Avatar:
    """Avatar number `index` of a split: a pure function of its arguments. Only the pose depends on `pose`."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    while True:
        avatar = sample_avatar(style, rng, pose, independent)
        if split_of(avatar.identity(style)) == split:
            return avatar


def with_attribute(style: StyleSpec, avatar: Avatar, attribute: str, value: str, rng: np.random.Generator) -> Avatar:
    """The same avatar with one attribute changed: the ground truth of an edit. Other options stay, but for
    eyes and eyebrows, which follow an expression.

    Raises ValueError when the style has no such attribute value.
    """
    names = [o.name for o in style.options]
    option_name = dict(style.attributes)[attribute]
    options = list(avatar.options)
    option = style.option(option_name)
    fitting = [k for k, c in enumerate(option.choices) if c[1] == value]
    if not fitting:
        raise ValueError(f"attribute {attribute}: got {value!r}; allowed: {style.attribute_values(attribute)}")
    options[names.index(option_name)] = int(rng.choice(fitting))
    if attribute == "expression":
        for i, dependent in enumerate(style.options):
            if dependent.depends_on:
                allowed = [k for k, c in enumerate(dependent.choices) if c[0] in dependent.allowed[value]]
                options[i] = int(rng.choice(allowed))
    return replace(avatar, options=tuple(options))


def code_size(style: StyleSpec) -> int:
    """Length of `option_code`: one place per choice, then the pose."""
    return sum(len(o.choices) for o in style.options) + len(POSE_NAMES)


def option_code(style: StyleSpec, options: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Options [N, n_options] and pose [N, 4] as one-hot blocks followed by the pose, float32 [N, code_size]."""
    blocks = [np.eye(len(o.choices), dtype=np.float32)[options[:, i]] for i, o in enumerate(style.options)]
    return np.concatenate([*blocks, pose.astype(np.float32)], axis=1)
