"""Many pictures of each identity: what an identity network learns from, cached as a memory map.

An identity keeps skin, hair, clothes and their colours. Background, expression, pose, glasses and facial
hair are drawn anew for each picture, and so is a colour that cannot be seen, such as a bald person's hair.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from limner.runtime.storage.files import write_atomically
from limner.runtime.storage.folders import file_beside
from limner.training.avatars.attributes import (
    COVERED_HAIR,
    DEFAULT_POSE,
    SPLITS,
    STYLES,
    Avatar,
    StyleSpec,
    sample_avatar,
    sample_in_split,
)
from limner.training.avatars.cache import find_place
from limner.training.avatars.render import render
from limner.training.loop.progress import track

FORMAT = 1


@dataclass(frozen=True)
class IdentitiesConfig:
    """How many identities of a split, and how many pictures of each."""

    style: str = "avataaars"  # the drawings: avataaars, personas, micah
    size: int = 128  # pixels a side
    identities: int = 1200  # people of the split
    pictures: int = 12  # of an identity
    seed: int = 0  # of the drawings
    pose: float = DEFAULT_POSE  # share of POSE_LIMITS

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise ValueError(f"style is {self.style!r}; allowed: {', '.join(STYLES)}")
        if self.identities < 2 or self.pictures < 2:
            raise ValueError(f"{self.identities} identities of {self.pictures} pictures; allowed: 2 or more of each")


def identity_options(style: StyleSpec, avatar: Avatar) -> list[str]:
    """The options that make this avatar's identity and that can be seen."""
    hair = avatar.attributes(style)["hair"]
    hidden = {"hair_color"} if hair in COVERED_HAIR else set()
    hidden |= set() if hair in ("hat", "hijab", "turban") else {"hat_color"}
    return [name for name in style.identity if name not in hidden]


def same_identity(style: StyleSpec, avatar: Avatar, rng: np.random.Generator, pose: float) -> Avatar:
    """Another picture of the same identity."""
    names, other = [o.name for o in style.options], sample_avatar(style, rng, pose)
    options = list(other.options)
    for name in identity_options(style, avatar):
        options[names.index(name)] = avatar.options[names.index(name)]
    return replace(other, options=tuple(options))


def near_identity(style: StyleSpec, avatar: Avatar, rng: np.random.Generator, pose: float) -> Avatar:
    """A picture of an identity that differs in one option: the hardest kind of impostor."""
    names, other = [o.name for o in style.options], same_identity(style, avatar, rng, pose)
    name = str(rng.choice(identity_options(style, avatar)))
    options, at = list(other.options), names.index(name)
    option = style.option(name)
    options[at] = int(rng.choice([k for k in range(len(option.choices)) if k != avatar.options[at]]))
    return replace(other, options=tuple(options))


def avatars(config: IdentitiesConfig, split: str) -> list[Avatar]:
    """identities * pictures avatars, an identity's pictures in a row; equal identities are drawn once."""
    style, index = STYLES[config.style], 0
    found: list[Avatar] = []
    seen: set[str] = set()
    rng = np.random.default_rng([config.seed, SPLITS.index(split), 17])
    while len(seen) < config.identities:
        avatar = sample_in_split(style, split, index, config.seed + 1, config.pose)
        index += 1
        if avatar.identity(style) not in seen:
            seen.add(avatar.identity(style))
            found += [same_identity(style, avatar, rng, config.pose) for _ in range(config.pictures)]
    return found


class IdentitiesDataset:
    """Pictures of one split. A batch: image uint8 [N,3,size,size], identity [N] from 0, options [N,O]."""

    def __init__(self, config: IdentitiesConfig, split: str, cache: str | Path) -> None:
        self.config, self.split, self.style = config, split, STYLES[config.style]
        path = build(config, split, Path(cache))
        self.images = np.memmap(path, np.uint8, "r").reshape(-1, config.size, config.size, 3)
        with np.load(path.with_suffix(".npz")) as table:
            self.options = table["options"]
        self.identity = np.arange(len(self.images)) // config.pictures

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Many items at once."""
        return {
            "image": torch.from_numpy(self.images[indices]).permute(0, 3, 1, 2),
            "identity": torch.from_numpy(self.identity[indices]),
            "options": torch.from_numpy(self.options[indices].astype(np.int64)),
        }


def build(config: IdentitiesConfig, split: str, cache: Path) -> Path:
    """Render a split unless it is in the cache. Returns the memory map's path."""
    made_from = {"format": FORMAT, "split": split, **asdict(config)}
    place = find_place(cache, f"identities-{split}", made_from)
    if place.complete():
        return place.pixels
    style, rows = STYLES[config.style], avatars(config, split)
    with file_beside(place.pixels) as beside:
        store = np.memmap(beside, np.uint8, "w+", shape=(len(rows), config.size, config.size, 3))
        for i, avatar in enumerate(track(rows, f"rendering identities of {split}", len(rows))):
            store[i] = render(style, avatar, config.size)
        store.flush()
    table = io.BytesIO()
    np.savez_compressed(table, options=np.array([a.options for a in rows], np.uint8))
    write_atomically(place.table, table.getvalue())
    place.finish()
    return place.pixels
