"""How often generated pictures show what their prompts say, as the judge reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from limner.training.avatars.attributes import STYLES, sample_in_split
from limner.training.avatars.captions import ATTRIBUTES, Caption, caption
from limner.training.families.diffusion.drawing import Sampler
from limner.training.loop.progress import track
from limner.training.models.judge import Judge

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


def held_out_captions(style: str, count: int, mentions: int, seed: int = 0) -> list[Caption]:
    """Captions of `count` avatars of the test split, each naming `mentions` attributes."""
    found = []
    for index in range(count):
        rng = np.random.default_rng([seed, 11, index])
        words = sample_in_split(STYLES[style], "test", index, seed).attributes(STYLES[style])
        seen = [name for name in ATTRIBUTES if words.get(name, "hidden") != "hidden"]
        chosen = rng.choice(seen, min(mentions, len(seen)), replace=False)
        found.append(caption(words, rng, [str(name) for name in chosen]))
    return found


def prompted_right(judge: Judge, image: Tensor, captions: list[Caption]) -> dict[str, tuple[int, int]]:
    """Attribute -> how often the judge sees what was asked, and how often it was asked."""
    found: dict[str, tuple[int, int]] = {}
    for words, one in zip(judge.words(judge.read(image)), captions, strict=True):
        for name, value in one.mentions:
            right, asked = found.get(name, (0, 0))
            found[name] = (right + (words[name] == value), asked + 1)
    return found


@torch.no_grad()
def evaluate(
    unet: UNet2DConditionModel,
    text_encoder: nn.Module,  # CLIPTextModel
    sampler: Sampler,
    judge: Judge | None,
    style: str,
    count: int = 100,
    guidance: float = 4.0,
    steps: int = 25,
    batch: int = 10,
) -> dict[str, Any]:
    """Figures of `count` pictures from captions of held-out avatars with four attributes each."""
    captions = held_out_captions(style, count, 4)
    totals: dict[str, list[int]] = {}
    starts = range(0, count, batch) if judge is not None else range(0)
    for start in track(starts, "generating", len(starts)):
        part = captions[start : start + batch]
        image = sampler.pictures(unet, text_encoder, [c.text for c in part], guidance, steps, start, shared=False)
        assert judge is not None
        for name, pair in prompted_right(judge, image, part).items():
            total = totals.setdefault(name, [0, 0])
            total[0], total[1] = total[0] + pair[0], total[1] + pair[1]
    if not totals:
        return {}
    right, asked = (sum(column) for column in zip(*totals.values(), strict=True))
    return {
        "generated pictures": count,
        "guidance, steps": f"{guidance:g}, {steps}",
        "prompted attributes correct, %": round(100 * right / asked, 2),
        "prompted attributes correct, each, %": {
            name: f"{100 * a / b:.1f} of {b}" for name, (a, b) in sorted(totals.items())
        },
    }
