"""The twelve edits that the shipped models are judged by, and their own settings, chosen on validation pictures."""

from limner.runtime.study.samples import EditSpec

__all__ = ["EDITS", "EDITS_VERSION"]

EDITS_VERSION = 2  # of texts, values and settings below: figures of two versions are not compared
GLOBAL, OPTIMIZED, SEGA = "global-directions", "latent-optimization", "sega:generated"


def _edit(
    name: str, attribute: str, value: str, text: str, alpha: float, beta: float, neutral: str = "a person",
    **own: dict[str, float],
) -> EditSpec:  # fmt: skip
    settings = {GLOBAL: {"alpha": alpha, "beta": beta}}
    return EditSpec(name, attribute, value, text, neutral, settings | {MEANS[key]: one for key, one in own.items()})


MEANS = {"optimized": OPTIMIZED, "sega": SEGA}
FROWN = {"start": 9.0, "start_beta": 0.38, "steps": 20, "direction_scale": 4.0}
STEERED = {"scale": 4.5}
EDITS = (
    _edit("beard", "facial_hair", "beard", "a person with a beard", 6.0, 0.35),
    _edit("glasses", "eyewear", "glasses", "a person with glasses", 6.0, 0.22, sega={"threshold": 0.95}),
    _edit("sunglasses", "eyewear", "sunglasses", "a person with sunglasses", 8.0, 0.35, sega=STEERED),
    _edit("bald", "hair", "bald", "a bald person", 10.0, 0.14),
    _edit("smiling", "expression", "smiling", "a smiling person", 6.0, 0.25),
    _edit("surprised", "expression", "surprised", "a surprised person", 8.0, 0.35, sega=STEERED),
    _edit("sad", "expression", "sad", "a person with a frown", 8.0, 0.28, "a person with a smile", optimized=FROWN),
    _edit("long hair", "hair", "long", "a person with long hair", 8.0, 0.22, sega=STEERED),
    _edit("blonde", "hair_color", "blonde", "a person with blonde hair", 10.0, 0.14, sega=STEERED),
    _edit("red hair", "hair_color", "red", "a person with red hair", 10.0, 0.28),
    _edit("blue background", "background", "blue", "a person, blue background", 6.0, 0.28),
    _edit("red clothes", "clothes_color", "red", "a person wearing red clothes", 4.0, 0.28, sega=STEERED),
)
