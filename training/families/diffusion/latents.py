"""Latents of every picture of a split as a memory map, encoded once for each autoencoder.

``<split>.f16`` holds mean and log-variance, fp16 [N, 2C, h, w]; ``<split>.json`` says what they were made from. The
folder is named by the hash of the autoencoder's weights and of the pictures' settings, so a stale one is never read.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from limner.runtime.storage.files import sha256_file, write_atomically
from limner.runtime.storage.folders import file_beside
from limner.training.avatars.attributes import STYLES
from limner.training.avatars.dataset import AvatarsConfig, AvatarsDataset, image_float
from limner.training.avatars.regions import regions
from limner.training.config import to_plain
from limner.training.loop.batches import Batch
from limner.training.loop.progress import track
from limner.training.models.diffusion import WEIGHTS, load_autoencoder

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

BATCH = 32  # pictures encoded at once


class LatentDataset:
    """Items of one split: moments float32 [2C,h,w], the pictures' attributes int64, and with `places` their regions."""

    def __init__(self, pictures: AvatarsDataset, moments: np.ndarray, places: bool = False) -> None:
        self.pictures, self.moments, self.places = pictures, moments, places

    def __len__(self) -> int:
        return len(self.moments)

    def batch(self, indices: np.ndarray) -> Batch:
        found = {
            "moments": torch.from_numpy(self.moments[indices].astype(np.float32)),
            "attributes": torch.from_numpy(self.pictures.attributes[indices].astype(np.int64)),
        }
        if self.places:
            image, options = self.pictures.batch(indices)["image"], self.pictures.options[indices]
            found["regions"] = regions(STYLES[self.pictures.config.style], image, options, self.moments.shape[-1])
        return found


def latents_of(
    config: AvatarsConfig, split: str, autoencoder: str | Path, cache: Path, places: bool = False
) -> LatentDataset:
    """The latents of a split, read from the cache or encoded now."""
    pictures = AvatarsDataset(config, split, cache)
    folder = cache / f"latents-{_key(config, Path(autoencoder))}"
    path, note = folder / f"{split}.f16", folder / f"{split}.json"
    if not note.exists():
        shape = encode_all(load_autoencoder(autoencoder), pictures, path)
        write_atomically(note, json.dumps({"shape": shape}).encode())
    shape = tuple(json.loads(note.read_text())["shape"])
    return LatentDataset(pictures, np.memmap(path, np.float16, "r", shape=shape), places)


@torch.no_grad()
def encode_all(network: AutoencoderKL, pictures: AvatarsDataset, path: Path) -> tuple[int, ...]:
    """Write the moments of every picture; the file appears when it is whole. Returns its shape."""
    path.parent.mkdir(parents=True, exist_ok=True)
    store: np.ndarray | None = None
    device, at_once = ("cuda", 16 * BATCH) if torch.cuda.is_available() else ("cpu", BATCH)
    network = network.to(device)
    starts = range(0, len(pictures), at_once)
    with file_beside(path) as beside:
        for start in track(starts, f"encoding {pictures.split}", len(starts)):
            rows = np.arange(start, min(start + at_once, len(pictures)))
            image = image_float(pictures.batch(rows)["image"].to(device))
            moments = network.encode(image).latent_dist.parameters.cpu().numpy()
            if store is None:
                store = np.memmap(beside, np.float16, "w+", shape=(len(pictures), *moments.shape[1:]))
            store[start : start + len(rows)] = moments
        assert isinstance(store, np.memmap)
        store.flush()
    return tuple(int(size) for size in store.shape)


def _key(config: AvatarsConfig, autoencoder: Path) -> str:
    made_from = json.dumps([to_plain(config), sha256_file(autoencoder / WEIGHTS)], sort_keys=True)
    return hashlib.sha256(made_from.encode()).hexdigest()[:16]
