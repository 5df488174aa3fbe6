"""What CLIP reads without training for it: zero-shot accuracy, and whether captions find their pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from limner.training.avatars.attributes import STYLES
from limner.training.avatars.captions import caption, prompt_for
from limner.training.avatars.dataset import AvatarsDataset, batches, image_float
from limner.training.avatars.tokens import CaptionTokenizer
from limner.training.families.clip.module import Captioner, fits, zero_shot
from limner.training.models.clip import ClipImageTower, ClipTextTower

if TYPE_CHECKING:
    from transformers import CLIPModel


@torch.no_grad()
def image_features(model: CLIPModel, data: AvatarsDataset, limit: int | None = None) -> torch.Tensor:
    """Unit features [N,C] of a split's pictures."""
    tower = ClipImageTower(model, data.config.size)
    return torch.cat([tower(image_float(batch["image"]).contiguous()) for batch in batches(data, 250, limit)])


@torch.no_grad()
def evaluate(model: CLIPModel, folder: Path, data: AvatarsDataset, limit: int | None = None) -> dict[str, Any]:
    """Zero-shot accuracy per attribute in percent, with the canonical prompts, and the fit of whole captions.

    `folder` holds vocab.json and merges.txt.
    """
    tokenizer, tower, style = CaptionTokenizer(folder), ClipTextTower(model).eval(), STYLES[data.config.style]
    captioner = Captioner(style, tokenizer, 0.0)
    features = image_features(model, data, limit)
    attributes = torch.from_numpy(data.attributes[: len(features)].astype("int64"))
    prompts = tower(tokenizer.encode([prompt_for(n, v) for n, v in captioner.probes], 77))
    answers = zero_shot(style, features @ prompts.t(), attributes)
    per = {name: round(100 * float(right.float().mean()), 2) for name, right in answers.items()}
    return {
        "test pictures": len(features),
        "zero-shot accuracy, %": per,
        "mean zero-shot accuracy, %": round(sum(per.values()) / len(per), 2),
        "caption fits the picture that ranks first, of random captions, %": _retrieval(
            tower, captioner, features, attributes
        ),
        "hair colour": "measured on pictures with visible hair",
    }


def _retrieval(tower: ClipTextTower, captioner: Captioner, features: torch.Tensor, attributes: torch.Tensor) -> float:
    """Of random captions of 500 pictures, how many fit the picture that they rank first among all."""
    rng = np.random.default_rng(0)
    found = [caption(captioner.words(row), rng) for row in attributes[:500].tolist()]
    texts = tower(captioner.tokenizer.encode([c.text for c in found], 77))
    first = (texts @ features.t()).argmax(1)
    fit = fits(attributes[first], captioner.mentions(found)).diagonal()
    return round(100 * float(fit.float().mean()), 2)
