"""What a mapper does to held-out latents, and its checkpoint folder with figures, samples and card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from limner.training.avatars.attributes import STYLES
from limner.training.families.card import Card
from limner.training.families.mapper.module import MapperModule
from limner.training.loop.callbacks import tile
from limner.training.models.store import save_model

PICTURES = 12  # of the card's sheet, each beside its edit
COLUMNS = 8
AT_ONCE = 16


@torch.no_grad()
def evaluate(module: MapperModule, name: str) -> tuple[dict[str, Any], Tensor]:
    """Figures over the module's held-out latents, and pictures beside their edits [2 PICTURES,3,H,W]."""
    held_out = module.held_out
    totals: dict[str, float] = {}
    shown = []
    for w_plus in held_out.split(AT_ONCE):
        source = module.source(w_plus)
        made, _ = module.edited(name, w_plus)
        before = float((source["clip"] @ module.targets[name].text).mean())
        found = {key: float(value) for key, value in module.measure(name, made, source).items()}
        for key, value in (found | {"before": before}).items():
            totals[key] = totals.get(key, 0.0) + value * len(w_plus) / len(held_out)
        shown.append(torch.stack([source["image"], made], 1).flatten(0, 1))
    figures: dict[str, Any] = {"held-out latents": len(held_out)}
    labels = {"before": "CLIP cosine with the text before", "clip": "CLIP cosine with the text after",
              "identity": "identity cosine of before and after"}  # fmt: skip
    figures |= {label: round(totals[key], 4) for key, label in labels.items() if key in totals}
    shares = {"seen": "the judge sees the attribute, %", "kept": "other attributes that the judge reads as before, %"}
    figures |= {label: round(100 * totals[key], 1) for key, label in shares.items() if key in totals}
    return figures, torch.cat(shown)[: 2 * PICTURES]


def save_mapper(run: Any, prompt: Any, module: MapperModule, folder: Path) -> dict[str, Any]:
    """Write config.json, model.safetensors, samples.png, figures.json and README.md; return the figures."""
    mapper = module.mapper(prompt.label)
    save_model(folder, "mapper", mapper.config, mapper.state_dict())
    figures, shown = evaluate(module, prompt.label)
    Image.fromarray(tile(shown, COLUMNS)).save(folder / "samples.png", optimize=True)
    style = STYLES[run.drawings] if run.drawings else None
    Card(f"Latent mapper: {prompt.text}", "mapper", WHAT.format(text=prompt.text), run, style, figures).write(folder)
    return figures


WHAT = """A StyleCLIP latent mapper for the text "{text}": w' = w + 0.1 M(w), for the generator whose digest is in
config.json and no other.

![Held-out latents, each beside its edit](samples.png)"""
