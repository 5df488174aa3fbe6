"""The twelve edits that the shipped models are judged by, and their own settings, chosen on validation pictures."""

from limner.runtime.study.samples import EditSpec

__all__ = ["EDITS", "EDITS_VERSION"]

EDITS_VERSION = 3  # of texts, values and settings below: figures of two versions are not compared
GLOBAL, OPTIMIZED, SEGA = "global-directions", "latent-optimization", "sega:generated"


def _edit(
    name: str, attribute: str, value: str, text: str, alpha: float, beta: float, neutral: str = "a person",
    **own: dict[str, float],
) -> EditSpec:  # fmt: skip
    settings = {GLOBAL: {"alpha": alpha, "beta": beta}}
    return EditSpec(name, attribute, value, text, neutral, settings | {MEANS[key]: one for key, one in own.items()})


MEANS = {"optimized": OPTIMIZED, "sega": SEGA}
BALD = {"start": 14.0, "start_beta": 0.45}
RED = {"start": 8.0, "start_beta": 0.15}
FROWN = {"start": 9.0, "start_beta": 0.38, "steps": 20, "direction_scale": 4.0}
STEERED = {"scale": 4.5}
EDITS = (
    _edit("beard", "facial_hair", "beard", "a person with a beard", 4.0, 0.2, "a person with a moustache"),
    _edit("glasses", "eyewear", "glasses", "a person with glasses", 4.0, 0.2, sega={"threshold": 0.95}),
    _edit("sunglasses", "eyewear", "sunglasses", "a person with sunglasses", 4.5, 0.2, sega=STEERED),
    _edit("bald", "hair", "bald", "a bald person", 16.0, 0.45, optimized=BALD),
    _edit("smiling", "expression", "smiling", "a smiling person", 9.0, 0.4),
    _edit("surprised", "expression", "surprised", "a surprised person", 8.0, 0.4, sega=STEERED),
    _edit("sad", "expression", "sad", "a person with a frown", 6.0, 0.3, "a person with a smile", optimized=FROWN),
    _edit("long hair", "hair", "long", "a person with long hair", 12.0, 0.2, sega=STEERED),
    _edit("blonde", "hair_color", "blonde", "a person with blonde hair", 6.0, 0.2, sega=STEERED),
    _edit("red hair", "hair_color", "red", "a person with red hair", 9.0, 0.1, optimized=RED),
    _edit("blue background", "background", "blue", "a person, blue background", 8.0, 0.2, "a person, gray background"),
    _edit("red clothes", "clothes_color", "red", "a person wearing red clothes", 5.0, 0.2, sega=STEERED),
)
