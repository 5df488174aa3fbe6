"""The avatars as a memory map, rendered once, and the LightningDataModule over it.

The cache holds ``<split>.u8`` (uint8 [N, size, size, 3]), ``<split>.npz`` (options [N, O], pose [N, 4],
attributes [N, A], identity [N]) and ``<split>.json`` (what it was made from), in a folder of these settings' own
(cache.py). A half-written one is never used, because files are renamed when complete.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from limner.runtime.storage.files import write_atomically
from limner.runtime.storage.folders import file_beside
from limner.training.avatars.attributes import DEFAULT_POSE, STYLES, Avatar, StyleSpec, sample_in_split
from limner.training.avatars.cache import find_place
from limner.training.avatars.render import render
from limner.training.loop.progress import track

FORMAT = 1
AT_ONCE = 250  # pictures of a job


@dataclass(frozen=True)
class AvatarsConfig:
    """What the pictures are made from."""

    style: str = "avataaars"  # the drawings: avataaars, personas, micah
    size: int = 128  # pixels a side
    train: int = 40_000  # pictures
    validation: int = 2_000  # pictures held out for choices
    test: int = 4_000  # pictures held out for figures
    seed: int = 0  # of the drawings
    pose: float = DEFAULT_POSE  # share of POSE_LIMITS, 0 to 1
    independent: bool = False  # eyes and eyebrows drawn whatever the mouth is

    def __post_init__(self) -> None:
        if not 0 <= self.pose <= 1:
            raise ValueError(f"data.pose: got {self.pose}; allowed: 0 to 1")
        if self.style not in STYLES:
            raise ValueError(f"data.style: got {self.style!r}; allowed: {', '.join(STYLES)}")
        if self.size not in (32, 64, 128, 256, 512, 1024):
            raise ValueError(f"data.size: got {self.size}; allowed: a power of two from 32 to 1024")


Job = tuple[AvatarsConfig, str, int, int]  # config, split, first picture and the one behind the last


def _render_range(job: Job) -> tuple[int, np.ndarray, list[Avatar]]:
    config, split, start, stop = job
    style = STYLES[config.style]
    settings = (config.seed, config.pose, config.independent)
    avatars = [sample_in_split(style, split, i, *settings) for i in range(start, stop)]
    return start, np.stack([render(style, avatar, config.size) for avatar in avatars]), avatars


def build_split(config: AvatarsConfig, split: str, cache: Path, workers: int | None = None) -> Path:
    """Render one split into the cache unless it is there already. Returns the memory map's path."""
    count = {"train": config.train, "validation": config.validation, "test": config.test}[split]
    made_from = {"format": FORMAT, "split": split, "count": count, "style": config.style, "size": config.size,
                 "seed": config.seed, "pose": config.pose}  # fmt: skip
    made_from |= {"independent": True} if config.independent else {}
    place = find_place(cache, split, made_from)
    if place.complete():
        return place.pixels
    style = STYLES[config.style]
    avatars: list[Avatar] = []
    jobs = [(config, split, a, min(a + AT_ONCE, count)) for a in range(0, count, AT_ONCE)]
    with file_beside(place.pixels) as beside:
        store = np.memmap(beside, np.uint8, "w+", shape=(count, config.size, config.size, 3))
        for start, images, rows in track(_rendered(jobs, workers), f"rendering {split}", len(jobs)):
            store[start : start + len(rows)] = images
            avatars.extend(rows)
        store.flush()
    _write_table(style, avatars, place.table)
    place.finish()
    return place.pixels


def _rendered(jobs: list[Job], workers: int | None) -> Iterator[tuple[int, np.ndarray, list[Avatar]]]:
    """The jobs' pictures in order: in this process if there are few, else in processes of their own."""
    count = min(workers or len(os.sched_getaffinity(0)), len(jobs))
    if count < 2:
        yield from map(_render_range, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(count, _leave_signals_to_the_parent) as pool:
        yield from pool.imap(_render_range, jobs)


def _leave_signals_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal


def _write_table(style: StyleSpec, avatars: list[Avatar], path: Path) -> None:
    names = {text: i for i, text in enumerate(sorted({a.identity(style) for a in avatars}))}
    table = io.BytesIO()
    np.savez_compressed(
        table,
        options=np.array([a.options for a in avatars], np.uint8),
        pose=np.array([a.pose for a in avatars], np.float32),
        attributes=np.array([a.attribute_indices(style) for a in avatars], np.uint8),
        identity=np.array([names[a.identity(style)] for a in avatars], np.int64),
    )
    write_atomically(path, table.getvalue())


class AvatarsDataset(Dataset[dict[str, torch.Tensor]]):
    """Pictures of one split. Items: image uint8 [3, size, size]; options, pose, attributes, identity."""

    def __init__(self, config: AvatarsConfig, split: str, cache: str | Path) -> None:
        self.config, self.split, self.style = config, split, STYLES[config.style]
        path = build_split(config, split, Path(cache))
        self.images = np.memmap(path, np.uint8, "r").reshape(-1, config.size, config.size, 3)
        with np.load(path.with_suffix(".npz")) as table:
            self.options, self.pose = table["options"], table["pose"]
            self.attributes, self.identity = table["attributes"], table["identity"]

    def __len__(self) -> int:
        return len(self.images)

    def avatar(self, index: int) -> Avatar:
        return Avatar(tuple(int(v) for v in self.options[index]), tuple(float(v) for v in self.pose[index]))

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Many items at once; image uint8 [N, 3, size, size] in channels_last memory."""
        return {
            "image": torch.from_numpy(self.images[indices]).permute(0, 3, 1, 2),
            "options": torch.from_numpy(self.options[indices].astype(np.int64)),
            "pose": torch.from_numpy(self.pose[indices]),
            "attributes": torch.from_numpy(self.attributes[indices].astype(np.int64)),
            "identity": torch.from_numpy(self.identity[indices]),
        }

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value[0] for name, value in self.batch(np.array([index])).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return self.batch(np.sort(np.array(indices)))


def image_float(image_u8: torch.Tensor) -> torch.Tensor:
    """uint8 [N,3,H,W] to float32 in [-1, 1], channels_last."""
    return image_u8.float().mul_(1 / 127.5).sub_(1.0).contiguous(memory_format=torch.channels_last)


def build_all(config: AvatarsConfig, cache: Path) -> None:
    """Render every split that the cache lacks; splits share no identity."""
    for split in ("train", "validation", "test"):
        build_split(config, split, cache)


def batches(dataset: AvatarsDataset, size: int, limit: int | None = None) -> Iterator[dict[str, torch.Tensor]]:
    """The split in order, `size` at a time, up to `limit` pictures."""
    count = min(len(dataset), limit or len(dataset))
    for start in range(0, count, size):
        yield dataset.batch(np.arange(start, min(start + size, count)))
