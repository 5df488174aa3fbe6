"""One avatar to pixels: DiceBear makes the SVG, resvg rasterises it."""

from __future__ import annotations

import io
import json
from functools import lru_cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from limner.training.avatars.attributes import POSE_LIMITS, Avatar, StyleSpec


@lru_cache(maxsize=4)
def _definition(name: str) -> Any:
    from dicebear import Style

    path = distribution("dicebear-styles").locate_file(f"dicebear_styles/{name}.json")
    return Style(json.loads(Path(str(path)).read_text(encoding="utf-8")))


def dicebear_options(style: StyleSpec, avatar: Avatar, size: int) -> dict[str, Any]:
    """The avatar in DiceBear's own option names."""
    value = {o.name: o.values[k] for o, k in zip(style.options, avatar.options, strict=True)}
    pose = [v * limit for v, limit in zip(avatar.pose, POSE_LIMITS, strict=True)]
    options: dict[str, Any] = {
        "seed": "limner", "size": size, "rotate": round(pose[0], 3), "translateX": round(pose[1], 3),
        "translateY": round(pose[2], 3), "scale": round(1.02 + pose[3], 4),
        **{key: int(text) if key.endswith("Probability") else text for key, text in style.fixed},
    }  # fmt: skip
    for name, targets in style.colors:
        options |= dict.fromkeys(targets, value[name])
    for name, component in style.components:
        if "none" in style.option(name).values:
            options[f"{component}Probability"] = 0 if value[name] == "none" else 100
        if value[name] != "none":
            options[f"{component}Variant"] = value[name]
    return options


def render(style: StyleSpec, avatar: Avatar, size: int = 128) -> np.ndarray:
    """Rasterise an avatar. Returns image_u8 uint8 [size, size, 3]; the background is opaque."""
    import resvg_py
    from dicebear import Avatar as Drawing

    svg = str(Drawing(_definition(style.name), dicebear_options(style, avatar, size)))
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    with Image.open(io.BytesIO(bytes(png))) as picture:
        return np.asarray(picture.convert("RGB"))
