"""The twelve edits that the shipped models are judged by, and their own settings, chosen on validation pictures."""

from limner.runtime.study.samples import EditSpec

__all__ = ["EDITS", "EDITS_VERSION"]

EDITS_VERSION = 4  # of texts, values and settings below: figures of two versions are not compared
GLOBAL, OPTIMIZED, SEGA = "global-directions", "latent-optimization", "sega:generated"


def _edit(
    name: str, attribute: str, value: str, text: str, alpha: float, beta: float, neutral: str = "a person",
    **own: dict[str, float],
) -> EditSpec:  # fmt: skip
    settings = {GLOBAL: {"alpha": alpha, "beta": beta}}
    return EditSpec(name, attribute, value, text, neutral, settings | {MEANS[key]: one for key, one in own.items()})


MEANS = {"optimized": OPTIMIZED, "sega": SEGA}
BALD = {"start": 16.0, "start_beta": 0.45, "relevance": 0.3, "learning_rate": 0.1}
SMILE = {"start": 9.0, "start_beta": 0.4, "relevance": 0.4}
SURPRISE = {"start": 8.0, "start_beta": 0.4, "relevance": 0.4, "learning_rate": 0.2}
FROWN = {"start": 10.0, "start_beta": 0.7, "relevance": 0.5, "learning_rate": 0.1}
LONG = {"start": 12.0, "start_beta": 0.2}
RED = {"start": 8.0, "start_beta": 0.1}
BLUE = {"start": 7.5, "start_beta": 0.45, "relevance": 0.45, "learning_rate": 0.05}
# The colour farthest from blue: its way to blue is every other colour's as well.
YELLOW = "a person, yellow background"
STEERED = {"scale": 4.5}
EDITS = (
    _edit("beard", "facial_hair", "beard", "a person with a beard", 4.0, 0.2, "a person with a moustache"),
    _edit("glasses", "eyewear", "glasses", "a person with glasses", 4.0, 0.2, sega={"threshold": 0.95}),
    _edit("sunglasses", "eyewear", "sunglasses", "a person with sunglasses", 4.5, 0.2, sega=STEERED),
    _edit("bald", "hair", "bald", "a bald person", 16.0, 0.45, optimized=BALD),
    _edit("smiling", "expression", "smiling", "a smiling person", 9.0, 0.4, optimized=SMILE),
    _edit("surprised", "expression", "surprised", "a surprised person", 8.0, 0.4, optimized=SURPRISE, sega=STEERED),
    _edit("sad", "expression", "sad", "a person with a frown", 10.0, 0.7, "a person with a smile", optimized=FROWN),
    _edit("long hair", "hair", "long", "a person with long hair", 12.0, 0.2, optimized=LONG, sega=STEERED),
    _edit("blonde", "hair_color", "blonde", "a person with blonde hair", 6.0, 0.2, sega=STEERED),
    _edit("red hair", "hair_color", "red", "a person with red hair", 9.0, 0.1, optimized=RED),
    _edit("blue background", "background", "blue", "a person, blue background", 7.0, 0.45, YELLOW, optimized=BLUE),
    _edit("red clothes", "clothes_color", "red", "a person wearing red clothes", 5.0, 0.2, sega=STEERED),
)
