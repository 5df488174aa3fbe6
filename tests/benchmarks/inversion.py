"""How well held-out pictures come back from W+: attributes kept, identity, and a perceptual distance.

    PYTHONPATH=tests python -m benchmarks.inversion --count 200 --out DIR

The judge reads the reconstruction and is compared with the renderer's own record of the picture. The perceptual
distance is taken on the judge's maps (after LPIPS, without learnt weights); the distance of two random held-out
pictures stands beside it, since the number alone says nothing.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.engines import stylegan2

from limner.runtime.bundle.loading import load_bundle
from limner.runtime.bundle.presets import presets
from limner.runtime.editor import Editor
from limner.runtime.pictures.images import to_float
from limner.runtime.settings import InversionParameters
from limner.runtime.storage.files import write_atomically
from limner.runtime.study.judge import JudgeGraph
from limner.training.avatars.attributes import AVATAAARS, sample_in_split
from limner.training.avatars.render import render
from limner.training.models.judge import Judge, perceptual_distance
from limner.training.models.store import load_model

COLUMNS = 8


def report(editor: Editor, judge: JudgeGraph, split: str, count: int, refine: int | None) -> tuple[dict[str, Any], Any]:
    """Figures over pictures 0 .. count-1 of the split, and a sheet of the first ones above their reconstructions."""
    models = stylegan2(editor).models
    inversion = presets(editor.bundle, InversionParameters, "inversion")
    inversion = inversion if refine is None else replace(inversion, refine_steps=refine)
    avatars = [sample_in_split(AVATAAARS, split, i, 0) for i in range(count)]
    target_u8 = np.stack([render(AVATAAARS, avatar, editor.bundle.image_size) for avatar in avatars])
    made_u8 = np.stack([editor.invert(picture, inversion).reconstruction for picture in target_u8])
    target, made = to_float(target_u8), to_float(made_u8)
    words = judge.words(made_u8)
    truth = [avatar.attributes(AVATAAARS) for avatar in avatars]
    kept = {name: float(np.mean([w[name] == t[name] for w, t in zip(words, truth, strict=True)])) for name in truth[0]}
    cosine = (models.identity(target) * models.identity(made)).sum(1)
    error = ((target_u8.astype(np.float64) - made_u8) ** 2).mean((1, 2, 3))
    figures = {
        "pictures": count,
        "attributes kept, % of all": round(100 * float(np.mean(list(kept.values()))), 2),
        "attributes kept, %": {name: round(100 * share, 1) for name, share in kept.items()},
        "identity cosine, mean": round(float(cosine.mean()), 4),
        "PSNR, mean dB": round(float((10 * np.log10(255**2 / np.maximum(error, 1e-9))).mean()), 2),
        "perceptual distance on judge maps, mean": round(_distance(judge.folder, target, made), 4),
        "the same of two random pictures": round(_distance(judge.folder, target, np.roll(target, 1, 0)), 4),
    }
    starts = range(0, min(count, 2 * COLUMNS), COLUMNS)
    rows = [part[k : k + COLUMNS] for k in starts for part in (target_u8, made_u8)]
    return figures, np.concatenate([np.concatenate(list(row), 1) for row in rows if len(row) == COLUMNS], 0)


@torch.no_grad()
def _distance(folder: Path, a: np.ndarray, b: np.ndarray) -> float:
    network = load_model(folder)
    if not isinstance(network, Judge):
        raise TypeError("the judge's folder holds another network")
    parts = zip(np.array_split(a, 8), np.array_split(b, 8), strict=True)
    found = [perceptual_distance(network, torch.from_numpy(x), torch.from_numpy(y)) for x, y in parts]
    return float(torch.cat(found).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures as JSON; --out also writes inversion.json and inversion.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="checkpoints/avatars/bundle")
    parser.add_argument("--judge", default="checkpoints/avatars/judge")
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--refine", type=int, help="refinement steps; the bundle's own by default")
    parser.add_argument("--out")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    editor = Editor(load_bundle(given.bundle))
    figures, sheet = report(editor, JudgeGraph(given.judge), given.split, given.count, given.refine)
    print(json.dumps(figures, indent=1))
    if given.out:
        from PIL import Image

        folder = Path(given.out)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "inversion.json", (json.dumps(figures, indent=1) + "\n").encode())
        Image.fromarray(sheet).save(folder / "inversion.png", optimize=True)


if __name__ == "__main__":
    main()
