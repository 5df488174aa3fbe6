"""How often the judge is right, per attribute."""

from __future__ import annotations

from typing import Any

import torch

from limner.training.avatars.dataset import AvatarsDataset, batches, image_float
from limner.training.models.judge import Judge


@torch.no_grad()
def readings(judge: Judge, data: AvatarsDataset, limit: int | None = None, size: int = 250) -> torch.Tensor:
    """The judge's answers int64 [N, attributes] for a split."""
    judge = judge.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return torch.cat([judge.read(image_float(batch["image"])) for batch in batches(data, size, limit)])


def evaluate(judge: Judge, data: AvatarsDataset, limit: int | None = None) -> dict[str, Any]:
    """Accuracy in percent per attribute, their mean, and of all attributes at once."""
    answers = readings(judge, data, limit)
    right = answers == torch.from_numpy(data.attributes[: len(answers)].astype("int64"))
    names = [name for name, _ in judge.config.attributes]
    per = {name: round(100 * float(right[:, i].float().mean()), 2) for i, name in enumerate(names)}
    return {
        "test pictures": len(answers),
        "accuracy, %": per,
        "mean accuracy, %": round(sum(per.values()) / len(per), 2),
        "all attributes right, %": round(100 * float(right.all(1).float().mean()), 2),
    }
