"""Times of edits with a bundle, by stage, beside the same networks in torch eager: one JSON document on stdout.

python tests/support/full_scale.py CHECKPOINTS BUNDLE MAPPER [REPEATS]
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from limner.runtime import Editor, Recipe
from limner.runtime.bundle.loading import load_bundle
from limner.runtime.recipe import PromptEdit, Source
from limner.training.models.clip import ClipImageTower
from limner.training.models.store import load_model

LEFT_OUT = ("load", "text", "total")  # loading, words that are remembered, and the sum


def runtime_edits(bundle: Path, mapper: str, repeats: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each stage, warm, on seeds that were not seen before."""
    editor = Editor(load_bundle(bundle), threads=torch.get_num_threads())
    beard = PromptEdit("a person with a beard", options={"neutral": "a person", "beta": 0.05})
    prompts = {"latent-mapper": PromptEdit(mapper), "global-directions": beard}
    found = {}
    for method, prompt in prompts.items():
        stages: dict[str, list[float]] = {}
        for seed in range(repeats + 1):
            timing = editor.edit(Recipe(method, Source.from_seed(100 + seed), (prompt,))).timing
            for name, value in timing.items() if seed else ():
                stages.setdefault(name, []).append(value)
        found[method] = {name: round(median(values), 1) for name, values in stages.items()}
    return found


def eager_edits(checkpoints: Path, mapper: str, repeats: int) -> dict[str, float]:
    """The same work of the networks: seed to picture, edit, picture, and CLIP and identity of both pictures."""
    generator: Any = load_model(checkpoints / "stylegan2")
    clip: Any = load_model(checkpoints / "clip")
    identity = load_model(checkpoints / "identity")
    step = load_model(checkpoints / "edits/mappers" / mapper)
    tower = ClipImageTower(clip, generator.config.size).eval()

    def edit(change: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor) -> list[torch.Tensor]:
        w_plus = generator.broadcast(generator.truncate(generator.mapping(z), 0.7))
        pictures = [generator.synthesis(w_plus), change(w_plus)]
        return [network(picture) for network in (tower, identity) for picture in pictures]

    shift = 0.1 * torch.randn(1, generator.num_style_channels)
    changes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "latent-mapper": lambda w_plus: generator.synthesis(w_plus + step(w_plus)),
        "global-directions": lambda w_plus: generator.synthesis_from_styles(generator.affine(w_plus) + shift),
    }
    found = {}
    with torch.no_grad():
        for method, change in changes.items():
            times = []
            for _ in range(repeats + 1):
                start = time.perf_counter()
                edit(change, torch.randn(1, generator.config.z_dim))
                times.append(1000 * (time.perf_counter() - start))
            found[method] = median(times[1:])
    return found


def main() -> None:
    checkpoints, bundle, mapper = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    repeats = int(sys.argv[4]) if len(sys.argv) > 4 else 3
    torch.set_num_threads(1)
    stages, eager = runtime_edits(bundle, mapper, repeats), eager_edits(checkpoints, mapper, repeats)
    report = {}
    for method, found in stages.items():
        runtime = sum(value for name, value in found.items() if name not in LEFT_OUT)
        report[method] = {"stages_ms": found, "runtime_ms": round(runtime, 1), "eager_ms": round(eager[method], 1),
                          "ratio": round(eager[method] / runtime, 2)}  # fmt: skip
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
