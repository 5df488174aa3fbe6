"""IR-SE50 .pth: a flat state dict of ArcFace's improved residual network with squeeze-and-excitation.

TreB1eN/InsightFace_Pytorch, model.py, as StyleCLIP and e4e use it. Our network has its names. The crop to 112 pixels
is StyleCLIP's (criteria/id_loss.py), for networks that see 112 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from limner.training.importers.files.opening import Foreign
from limner.training.importers.files.pickles import Refused
from limner.training.importers.states import Imported, Options, as_tensors, count, flat, shape
from limner.training.models.irse import BodyConfig, IdentityConfig
from limner.training.models.store import build_on_meta

WHAT = "IR-SE50 .pth"


def recognises(foreign: Foreign) -> bool:
    state = flat(foreign.content)
    return state is not None and {"input_layer.0.weight", "output_layer.3.weight"} <= set(state)


def convert(foreign: Foreign, options: Options) -> Imported:
    state = flat(foreign.content)
    if state is None:
        raise Refused("a file that is no state dict")
    body = read_body(state)
    embedding, features = shape(state, "output_layer.3.weight", 2)
    side = math.isqrt(features // body.widths[-1])
    if side * side * body.widths[-1] != features or side == 0:
        raise Refused(f"an output layer of {features} features behind {body.widths[-1]} maps")
    pixels = side * 2 ** len(body.widths)
    config = IdentityConfig(1024, pixels, "published" if pixels == 112 else "none", body, embedding)
    tensors = with_counters(as_tensors(state), "identity", config)
    facts = {"blocks": sum(body.units), "pixels a side that it sees": pixels, "features": embedding}
    return Imported("identity", "identity", config, tensors, "Identity network (IR-SE)", facts)


def read_body(state: Mapping[str, Any]) -> BodyConfig:
    """Widths and lengths of the stages. A stage starts with the block that projects its shortcut; the first stage
    does not project where it is as wide as the input layer."""
    stem = shape(state, "input_layer.0.weight", 4)[0]
    blocks = count(state, "body.{}.res_layer.1.weight")
    widths: list[int] = []
    units: list[int] = []
    for i in range(blocks):
        if i == 0 or f"body.{i}.shortcut_layer.0.weight" in state:
            widths.append(shape(state, f"body.{i}.res_layer.1.weight", 4)[0])
            units.append(0)
        units[-1] += 1
    if not widths:
        raise Refused("weights without a residual body")
    inner = shape(state, "body.0.res_layer.5.fc1.weight", 4)[0]
    return BodyConfig(stem, tuple(widths), tuple(units), max(widths[0] // inner, 1))


def with_counters(tensors: dict[str, Any], family: str, config: Any) -> dict[str, Any]:
    """Add batch normalisation's counters, which files of old torch lack and which nothing reads."""
    own = build_on_meta(family, config).state_dict()
    missing = {key: value for key, value in own.items() if key.endswith(".num_batches_tracked") and key not in tensors}
    return tensors | {key: value.new_zeros((), device="cpu") for key, value in missing.items()}
