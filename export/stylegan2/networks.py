"""The torch networks that a bundle is made from, read from a folder of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from limner.runtime.bundle.mappers import FOLDER
from limner.runtime.errors import InputError
from limner.training.models.clip import ClipImageTower, ClipTextTower
from limner.training.models.mapper import LatentMapper, fits, generator_digest
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
    mappers: Mapping[str, LatentMapper] = field(default_factory=dict)  # name -> latents of its space to a step

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
        for module in (self.generator, self.clip, self.identity, self.encoder, *self.mappers.values()):
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
    found = Networks.of(generator, loaded["clip"], loaded["identity"], loaded["encoder"], preprocess)
    return replace(found, mappers=load_mappers(folder / FOLDER, generator))


def load_mappers(folder: Path, generator: Generator) -> dict[str, LatentMapper]:
    """The mappers below `folder` by name, none if it is not there. InputError for one of another generator."""
    digest = generator_digest(generator.state_dict())
    found = {}
    for place in sorted(path.parent for path in folder.glob("*/config.json")):
        mapper, where = load_model(place), f"checkpoints.{FOLDER}/{place.name}"
        if not isinstance(mapper, LatentMapper):
            raise InputError(where, f"a {type(mapper).__name__}", "a latent mapper")
        own = mapper.config.generator
        if not fits(mapper.config, generator):
            raise InputError(where, "a mapper for latents of another shape", "one for this generator")
        if own and own != digest:
            allowed = f"one for {digest[:12]}..., that of these checkpoints"
            raise InputError(where, f"a mapper for the generator {own[:12]}...", allowed, "train it again")
        found[place.name] = mapper
    return found
