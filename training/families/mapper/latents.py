"""Latents to train mappers on: sampled from the generator, read from a file, or encoded from pictures.

All of them become one pool [N,L,D], as in the published training, whose last part is held out for validation.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from limner.runtime.errors import InputError
from limner.runtime.pictures.images import read_picture
from limner.training.loop.batches import Batch, step_generator
from limner.training.models.psp import E4eEncoder
from limner.training.models.store import load_model
from limner.training.models.stylegan2 import Generator

PICTURES = (".png", ".jpg", ".jpeg", ".webp")  # what the runtime reads
LATENT_FILES = (".npy", ".pt", ".pth")
AT_ONCE = 50  # pictures or latents


@dataclass(frozen=True)
class LatentsConfig:
    """Where latents come from and how many are held out."""

    source: Literal["generator", "file", "folder", "avatars"] = "generator"  # where latents come from
    path: str = ""  # of source "file": .npy or .pt of [N,L,D] or [L,D], or a folder of such; of "folder": pictures
    encoder: str = ""  # checkpoint folder, for pictures
    count: int = 5000  # of sources "generator" and "avatars"; the published number
    truncation: float = 0.7  # of source "generator", as published
    held_out: int = 64  # the last ones of all; 0 measures on the training latents
    seed: int = 0  # of source "generator"
    style: str = "avataaars"  # of source "avatars"
    pose: float = 0.25  # the same

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < self.count:
            raise ValueError(f"held_out is {self.held_out}; allowed: 0 up to count - 1")
        if not 0 <= self.truncation <= 1:
            raise ValueError(f"truncation is {self.truncation}; allowed: 0 to 1")
        if self.source in ("file", "folder") and not self.path:
            raise ValueError(f"source {self.source} needs `path`")
        if self.source in ("folder", "avatars") and not self.encoder:
            raise ValueError(f"source {self.source} needs `encoder`, a checkpoint folder")


class LatentPool:
    """Latents [N,L,D] as a data set."""

    def __init__(self, w_plus: Tensor) -> None:
        self.w_plus = w_plus

    def __len__(self) -> int:
        return len(self.w_plus)

    def batch(self, indices: np.ndarray) -> Batch:
        return {"w_plus": self.w_plus[torch.from_numpy(indices)]}


def make_pool(config: LatentsConfig, generator: Generator) -> Tensor:
    """All latents [N,L,D] of a config. Raises InputError for a file or a folder that does not give them."""
    if config.source == "generator":
        return sampled(config, generator)
    if config.source == "file":
        return read_latents(Path(config.path), generator.num_ws, generator.config.w_dim, config.held_out)
    encoder = load_encoder(config.encoder, generator)
    size = encoder.config.image_size
    if config.source == "folder":
        paths = picture_paths(Path(config.path), config.held_out)
        return encoded(encoder, (read_picture(path, size, "latents.path").image_u8 for path in paths), len(paths))
    return encoded(encoder, _avatars(config, size), config.count)


def split_pool(pool: Tensor, held_out: int) -> tuple[Tensor, Tensor]:
    """The part to train on, and the held-out one; with none held out both are the whole pool."""
    return (pool, pool) if not held_out else (pool[:-held_out], pool[-held_out:])


@torch.no_grad()
def sampled(config: LatentsConfig, generator: Generator) -> Tensor:
    """z ~ N(0, I) by the config's seed, truncated, every row of W+ the same: [count,L,D]."""
    z = torch.randn(config.count, generator.config.z_dim, generator=step_generator(config.seed, 0))
    w = torch.cat([generator.mapping(part) for part in z.split(1000)])
    return generator.broadcast(generator.truncate(w, config.truncation)).contiguous()


def read_latents(path: Path, num_ws: int, w_dim: int, held_out: int = 1) -> Tensor:
    """Latents float32 [N,num_ws,w_dim] of a .npy or .pt file, or of a folder of such files, in the order of names.

    A file holds [N,num_ws,w_dim], or [num_ws,w_dim] as `limner invert` writes it. Nothing that it carries is run.
    Raises InputError naming the file for anything else, and for no more latents than `held_out`.
    """
    allowed = f"a .npy or .pt file of latents [N, {num_ws}, {w_dim}] or [{num_ws}, {w_dim}], or a folder of them"
    if path.is_dir():
        files = sorted(one for one in path.iterdir() if one.suffix in LATENT_FILES)
        if not files:
            raise InputError("latents.path", f"{path}, a folder with no {' or '.join(LATENT_FILES)} file", allowed)
        latents = torch.cat([_latents_of(one, num_ws, w_dim, allowed) for one in files])
    else:
        latents = _latents_of(path, num_ws, w_dim, allowed)
    if len(latents) <= held_out:
        raise InputError("latents.path", f"{path} with {len(latents)} latents", f"more than held_out, {held_out}",
                         "latents.held_out=0 measures on the training latents themselves")  # fmt: skip
    return latents


def _latents_of(path: Path, num_ws: int, w_dim: int, allowed: str) -> Tensor:
    found = _plain_tensor(path, allowed)
    if found.ndim == 2:
        found = found[None]
    if found.shape[1:] != (num_ws, w_dim) or not found.is_floating_point():
        raise InputError("latents.path", f"{path} with {found.dtype} {list(found.shape)}", allowed)
    if not bool(torch.isfinite(found).all()):
        raise InputError("latents.path", f"{path} with NaN or infinity", "finite numbers")
    return found.float().contiguous()


def _plain_tensor(path: Path, allowed: str) -> Tensor:
    """The tensor in a file. A .npy file is mapped, so that a shape that it has no numbers for takes no memory."""
    if path.suffix not in LATENT_FILES:
        raise InputError("latents.path", repr(str(path)), allowed)
    if not path.is_file():
        raise InputError("latents.path", f"{path}, where there is no file", allowed)
    try:
        with warnings.catch_warnings():  # what they warn of, a file that is odd, is refused or read all the same
            warnings.simplefilter("ignore")
            if path.suffix == ".npy":
                array = np.load(path, allow_pickle=False, mmap_mode="r")
                found: Any = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
            else:
                found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as reason:
        raise InputError("latents.path", f"{path}, which does not open ({reason.strerror})", allowed) from reason
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError,
            ImportError, OverflowError, MemoryError) as reason:  # fmt: skip
        raise InputError("latents.path", f"{path}, which holds no plain tensor", allowed) from reason
    if not isinstance(found, Tensor):
        raise InputError("latents.path", f"{path}, which holds a {type(found).__name__}", allowed)
    return found


def picture_paths(folder: Path, held_out: int = 1) -> list[Path]:
    """The pictures of a folder by name. InputError if there are too few."""
    if not folder.is_dir():
        raise InputError("latents.path", f"{folder}, which is no folder", "a folder of pictures")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if len(paths) <= held_out:
        allowed = f"more than held_out, {held_out}: {', '.join(PICTURES)}"
        raise InputError("latents.path", f"{folder} with {len(paths)} pictures", allowed)
    return paths


def load_encoder(folder: str, generator: Generator) -> E4eEncoder:
    """The encoder of a checkpoint folder, which must give latents of the generator."""
    encoder = load_model(folder)
    if not isinstance(encoder, E4eEncoder):
        raise InputError("latents.encoder", f"{folder}, a {type(encoder).__name__}", "the folder of an encoder")
    made, wanted = (encoder.config.num_ws, encoder.config.w_dim), (generator.num_ws, generator.config.w_dim)
    if made != wanted:
        raise InputError("latents.encoder", f"{folder}, which gives latents {list(made)}", f"latents {list(wanted)}")
    return encoder


@torch.no_grad()
def encoded(encoder: E4eEncoder, pictures: Iterator[np.ndarray] | Sequence[np.ndarray], count: int) -> Tensor:
    """image_u8 [H,W,3] each -> w_plus [count,L,D]."""
    from limner.training.avatars.dataset import image_float
    from limner.training.loop.progress import track

    rows: list[Tensor] = []
    waiting: list[np.ndarray] = []
    for number, picture in enumerate(track(pictures, "encoding pictures", count), 1):
        waiting.append(picture)
        if len(waiting) == AT_ONCE or number == count:
            image = image_float(torch.from_numpy(np.stack(waiting)).permute(0, 3, 1, 2))
            rows.append(encoder.eval()(image))
            waiting = []
    return torch.cat(rows).contiguous()


def _avatars(config: LatentsConfig, size: int) -> Iterator[np.ndarray]:
    """The first avatars of the train split, then those held out, of the validation split; rendered on the way."""
    from limner.training.avatars.attributes import STYLES, sample_in_split
    from limner.training.avatars.render import render

    style = STYLES[config.style]
    for split, count in (("train", config.count - config.held_out), ("validation", config.held_out)):
        for index in range(count):
            yield render(style, sample_in_split(style, split, index, config.seed, config.pose), size)
