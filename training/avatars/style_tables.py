"""The styles beside avataaars: what each drawing can vary, in the words that captions know.

A drawing without a word of its own (a smirk, a cap turned round) is left out, so that every picture has a true caption.
"""

from __future__ import annotations

from limner.training.avatars.style_spec import Option, StyleSpec, colors, group

BACKGROUNDS = Option(
    "background",
    colors(blue="65c9ff", green="a5d6a7", yellow="ffe082", pink="f8bbd0", gray="cfd8dc", purple="c5b3f0"),
)
CLOTHES_COLORS = Option(
    "clothes_color",
    colors(
        red="e24553", blue="456dff", green="6dbb58", black="262e33", white="f5f5f5", yellow="ffd54f", purple="7555ca"
    ),
)
HAIR_COLORS = Option(
    "hair_color",
    colors(black="2c1b18", brown="724133", blonde="d6b370", red="c93305", gray="dee1f5", pink="f59797"),
)
SKINS = Option("skin", colors(pale="eeb4a4", tanned="d78774", brown="b16a5b", dark="623d36"))
ATTRIBUTES = (
    ("hair", "hair"),
    ("hair_color", "hair_color"),
    ("facial_hair", "facial_hair"),
    ("expression", "mouth"),
    ("skin", "skin"),
    ("clothes_color", "clothes_color"),
    ("background", "background"),
)

PERSONAS = StyleSpec(
    name="personas",
    options=(
        Option(
            "hair",
            (
                *group("bald", 0.14, "bald"),
                *group("short", 0.28, "fade", "shortCombover"),
                *group("long", 0.18, "long", "extraLong"),
                *group("bob", 0.12, "bobBangs", "bobCut"),
                *group("curly", 0.12, "curly", "curlyHighTop"),
                *group("bun", 0.10, "bunUndercut", "curlyBun", "straightBun"),
                *group("hat", 0.06, "beanie", "cap"),
            ),
        ),
        HAIR_COLORS,
        Option(
            "facial_hair",
            (
                *group("none", 0.6, "none"),
                *group("beard", 0.25, "goatee"),  # the full beard brings a smile of its own
                *group("moustache", 0.15, "pyramid", "walrus"),
            ),
        ),
        Option(
            "eyes",
            (
                *group("none", 0.5, "open", "happy"),
                *group("glasses", 0.28, "glasses"),
                *group("sunglasses", 0.22, "sunglasses"),
            ),
        ),
        Option(
            "mouth",
            (
                *group("neutral", 0.28, "lips"),
                *group("smiling", 0.36, "smile", "bigSmile"),
                *group("surprised", 0.18, "surprise"),
                *group("sad", 0.18, "frown"),
            ),
        ),
        Option("nose", (("mediumRound", "", 1.0), ("smallRound", "", 1.0))),
        SKINS,
        Option("clothes", tuple((name, "", 1.0) for name in ("checkered", "rounded", "small", "squared"))),
        CLOTHES_COLORS,
        BACKGROUNDS,
    ),
    attributes=(*ATTRIBUTES[:3], ("eyewear", "eyes"), *ATTRIBUTES[3:]),
    identity=("hair", "hair_color", "nose", "skin", "clothes", "clothes_color"),
    licence="CC BY 4.0",
    creator="Draftbit - draftbit.com",
    source="Personas by Draftbit (https://personas.draftbit.com/), remixed by DiceBear",
    components=(
        ("hair", "hair"),
        ("facial_hair", "facialHair"),
        ("eyes", "eyes"),
        ("mouth", "mouth"),
        ("nose", "nose"),
        ("clothes", "clothes"),
    ),
    colors=(
        ("hair_color", ("hairColor", "facialHairColor")),
        ("skin", ("skinColor",)),
        ("clothes_color", ("clothingColor",)),
        ("background", ("backgroundColor",)),
    ),
)

MICAH = StyleSpec(
    name="micah",
    options=(
        Option(
            "hair",
            (
                *group("bald", 0.16, "none"),
                *group("short", 0.36, "fonze", "dannyPhantom"),
                *group("bob", 0.20, "pixie"),
                *group("long", 0.20, "full"),
                *group("turban", 0.08, "turban"),
            ),
        ),
        HAIR_COLORS,
        Option("facial_hair", (*group("none", 0.65, "none"), *group("beard", 0.35, "beard"))),
        Option("eyewear", (*group("none", 0.6, "none"), *group("glasses", 0.4, "round", "square"))),
        Option(
            "mouth",
            (
                *group("neutral", 0.25, "pucker"),
                *group("smiling", 0.40, "smile", "laughing"),
                *group("surprised", 0.17, "surprised"),
                *group("sad", 0.18, "sad", "frown"),
            ),
        ),
        Option("eyes", (("eyes", "", 1.0), ("round", "", 1.0))),
        Option("eyebrows", (("up", "", 1.0), ("down", "", 1.0))),
        Option("nose", (("curve", "", 1.0), ("pointed", "", 1.0), ("tound", "", 1.0))),
        Option("ears", (("attached", "", 1.0), ("detached", "", 1.0))),
        Option("skin", colors(pale="f9c9b6", brown="ac6651", dark="77311d")),
        Option("clothes", tuple((name, "", 1.0) for name in ("collared", "crew", "open"))),
        CLOTHES_COLORS,
        BACKGROUNDS,
    ),
    attributes=(*ATTRIBUTES[:3], ("eyewear", "eyewear"), *ATTRIBUTES[3:]),
    identity=("hair", "hair_color", "eyebrows", "nose", "ears", "skin", "clothes", "clothes_color"),
    licence="CC BY 4.0",
    creator="Micah Lanier",
    source="Avatar Illustration System (https://www.figma.com/community/file/829741575478342595), remixed by DiceBear",
    components=(
        ("hair", "hair"),
        ("facial_hair", "facialHair"),
        ("eyewear", "glasses"),
        ("mouth", "mouth"),
        ("eyes", "eyes"),
        ("eyebrows", "eyebrows"),
        ("nose", "nose"),
        ("ears", "ears"),
        ("clothes", "clothes"),
    ),
    colors=(
        ("hair_color", ("hairColor", "facialHairColor", "eyebrowsColor")),
        ("skin", ("baseColor",)),
        ("clothes_color", ("shirtColor",)),
        ("background", ("backgroundColor",)),
    ),
    fixed=(
        ("earringsProbability", "0"),
        ("glassesColor", "6bd9e9"),
        ("eyesColor", "000000"),
        ("mouthColor", "000000"),
    ),
)
