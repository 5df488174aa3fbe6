"""The torch networks that a bundle is made from, read from a folder of checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from limner.runtime.errors import InputError
from limner.training.models.clip import ClipImageTower, ClipTextTower
from limner.training.models.store import FP16_LARGEST, FP16_SMALLEST, load_model
from limner.training.models.stylegan2 import Generator

Preprocess = Literal["correct", "published"]
FOLDERS = {"generator": "stylegan2", "clip": "clip", "identity": "identity", "encoder": "encoder"}


@dataclass(frozen=True, eq=False)
class Networks:
    """Frozen networks in eval mode, fp32. Images are [N,3,size,size] in [-1,1]."""

    generator: Generator
    clip: Any  # transformers.CLIPModel
    clip_image: ClipImageTower  # image -> unit [N,C]
    clip_text: ClipTextTower  # ids int64 [N,77] -> unit [N,C]
    identity: nn.Module  # image -> unit [N,I]
    encoder: nn.Module  # image -> w_plus [N,L,D]
    preprocess: Preprocess = "correct"

    @classmethod
    def of(cls, generator: Generator, clip: Any, identity: nn.Module, encoder: nn.Module,
           preprocess: Preprocess = "correct") -> Networks:  # fmt: skip
        """Freeze the networks and put CLIP's two towers around its one model."""
        image = ClipImageTower(clip, generator.config.size, preprocess=preprocess)
        found = cls(generator, clip, image, ClipTextTower(clip), identity, encoder, preprocess)
        for module in (generator, clip, found.clip_image, found.clip_text, identity, encoder):
            module.eval().requires_grad_(False)
        return found

    def round_to_fp16(self) -> None:
        """Round every weight to what fp16 holds, in place; weights read from fp16 files do not change.

        What a checkpoint keeps as fp32, since fp16 has no room for it, stays. So do the fixed matrices of resizes.
        """
        for module in (self.generator, self.clip, self.identity, self.encoder):
            for tensor in module.state_dict().values():
                if tensor.is_floating_point() and FP16_SMALLEST < float(tensor.abs().max()) < FP16_LARGEST:
                    tensor.copy_(tensor.half().float())


def load_networks(folder: Path, preprocess: Preprocess = "correct") -> Networks:
    """Read the four checkpoints below `folder`. Raises InputError naming the one that is missing."""
    for name in FOLDERS.values():
        if not (folder / name / "config.json").is_file():
            given = f"no {name}/config.json in {str(folder)!r}"
            raise InputError("checkpoints", given, f"a folder with {', '.join(FOLDERS.values())}", "train them first")
    with torch.no_grad():
        loaded = {part: load_model(folder / name) for part, name in FOLDERS.items()}
    generator = loaded["generator"]
    if not isinstance(generator, Generator):
        raise InputError("checkpoints.stylegan2", type(generator).__name__, "a StyleGAN2 generator")
    return Networks.of(generator, loaded["clip"], loaded["identity"], loaded["encoder"], preprocess)
