"""How often the second judge is right, per attribute and option, and which broken pictures no drawing comes near."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from limner.runtime.study.scores import DRAWN
from limner.training.avatars.attributes import STYLES
from limner.training.avatars.dataset import AvatarsDataset, batches, image_float
from limner.training.avatars.nearest import nearest
from limner.training.avatars.ruins import RUINS
from limner.training.loop.progress import track
from limner.training.models.reader import Reader

PICTURES = 60  # of each kind


@torch.no_grad()
def evaluate(reader: Reader, data: AvatarsDataset, limit: int | None = None, size: int = 250) -> dict[str, Any]:
    """Accuracy in percent per attribute and option, their means, and the pose's mean absolute error."""
    reader = reader.eval()
    right: list[torch.Tensor] = []
    drawn: list[torch.Tensor] = []
    off: list[torch.Tensor] = []
    for batch in batches(data, size, limit):
        options, pose, _ = reader.read_options(image_float(batch["image"]))
        read = torch.stack([one.argmax(1) for one in reader.attribute_logits(options).values()], 1)
        right.append(read == batch["attributes"])
        drawn.append(torch.stack([one.argmax(1) for one in options.values()], 1) == batch["options"])
        off.append((pose - batch["pose"]).abs())
    attributes = [name for name, _ in reader.config.attributes]
    names = [name for name, _ in reader.config.options]
    per = _percent(attributes, torch.cat(right))
    return {
        "test pictures": len(torch.cat(right)),
        "accuracy, %": per,
        "mean accuracy, %": round(sum(per.values()) / len(per), 2),
        "options right, %": _percent(names, torch.cat(drawn)),
        "pose, mean error in its limits": round(float(torch.cat(off).mean()), 4),
    }


def like_drawings(reader: Reader, data: AvatarsDataset, count: int = PICTURES) -> dict[str, float]:
    """How many in a hundred pictures a drawing comes near, as they are and broken in every way of `ruins`."""
    rng, style = np.random.default_rng(0), STYLES[data.config.style]
    count = min(count, len(data))
    whole, other = (data.images[(np.arange(count) + first) % len(data)] for first in (0, count))
    kinds = {"as drawn": list(whole)}
    for name, ruin in RUINS.items():
        kinds[name] = [ruin(one, two, rng) for one, two in zip(whole, other, strict=True)]
    found = {}
    for name, pictures in track(kinds.items(), "nearest drawings", len(kinds)):
        near = [one.distance <= DRAWN for one in nearest(reader, style, pictures)]
        found[name] = round(100 * float(np.mean(near)), 1)
    return found


def _percent(names: list[str], right: torch.Tensor) -> dict[str, float]:
    return {name: round(100 * float(right[:, i].float().mean()), 2) for i, name in enumerate(names)}
