"""The twelve edits that the shipped models are judged by, and their own settings, chosen on validation pictures."""

from typing import Any

from limner.runtime.study.samples import EditSpec

__all__ = ["EDITS", "EDITS_VERSION"]

EDITS_VERSION = 5  # of texts, values and settings below: figures of two versions are not compared

OWN: dict[str, dict[str, dict[str, Any]]] = {  # method, with its part where they differ -> edit -> settings
    "latent-optimization": {
        "bald": {"start": 16.0, "start_beta": 0.45, "relevance": 0.3, "learning_rate": 0.1},
        "smiling": {"start": 9.0, "start_beta": 0.4, "relevance": 0.4},
        "surprised": {"start": 8.0, "start_beta": 0.4, "relevance": 0.4, "learning_rate": 0.2},
        "sad": {"start": 10.0, "start_beta": 0.7, "relevance": 0.5, "learning_rate": 0.1},
        "long hair": {"start": 12.0, "start_beta": 0.2},
        "red hair": {"start": 8.0, "start_beta": 0.1},
        "blue background": {"start": 7.5, "start_beta": 0.45, "relevance": 0.45, "learning_rate": 0.05},
    },
    "sega:generated": {
        "beard": {"threshold": 0.9},
        "glasses": {"scale": 7.0, "threshold": 0.95},
        "sunglasses": {"scale": 5.0, "threshold": 0.95},
        "bald": {"scale": 6.0, "threshold": 0.9, "warmup": 1, "momentum_scale": 0.0},
        "smiling": {"threshold": 0.9},
        "surprised": {"scale": 5.0, "threshold": 0.9},
        "sad": {"threshold": 0.9},
        "long hair": {"scale": 5.0, "threshold": 0.9},
        "red hair": {"threshold": 0.7},
        "blue background": {"threshold": 0.7},
        "red clothes": {"threshold": 0.7},
    },
    "sega:real": {
        "glasses": {"scale": 3.0},
        "sunglasses": {"scale": 3.0},
        "bald": {"inversion.guidance_scale": 1.5},
        "smiling": {"scale": 3.0},
        "surprised": {"scale": 3.0},
        "sad": {"scale": 3.0},
        "long hair": {"threshold": 0.7},
        "blonde": {"scale": 3.0},
        "red hair": {"scale": 3.5, "threshold": 0.9},
        "blue background": {"threshold": 0.7},
        "red clothes": {"scale": 3.0},
    },
}


def _edit(
    name: str, attribute: str, value: str, text: str, alpha: float, beta: float, neutral: str = "a person"
) -> EditSpec:
    own = {"global-directions": {"alpha": alpha, "beta": beta}}
    own |= {method: edits[name] for method, edits in OWN.items() if name in edits}
    return EditSpec(name, attribute, value, text, neutral, own)


# Compared with the colour farthest from blue, whose way to blue has every other colour's in it.
YELLOW = "a person, yellow background"
EDITS = (
    _edit("beard", "facial_hair", "beard", "a person with a beard", 4.0, 0.2, "a person with a moustache"),
    _edit("glasses", "eyewear", "glasses", "a person with glasses", 4.0, 0.2),
    _edit("sunglasses", "eyewear", "sunglasses", "a person with sunglasses", 4.5, 0.2),
    _edit("bald", "hair", "bald", "a bald person", 16.0, 0.45),
    _edit("smiling", "expression", "smiling", "a smiling person", 9.0, 0.4),
    _edit("surprised", "expression", "surprised", "a surprised person", 8.0, 0.4),
    _edit("sad", "expression", "sad", "a person with a frown", 10.0, 0.7, "a person with a smile"),
    _edit("long hair", "hair", "long", "a person with long hair", 12.0, 0.2),
    _edit("blonde", "hair_color", "blonde", "a person with blonde hair", 6.0, 0.2),
    _edit("red hair", "hair_color", "red", "a person with red hair", 9.0, 0.1),
    _edit("blue background", "background", "blue", "a person, blue background", 7.0, 0.45, YELLOW),
    _edit("red clothes", "clothes_color", "red", "a person wearing red clothes", 5.0, 0.2),
)
