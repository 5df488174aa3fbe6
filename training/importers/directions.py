"""StyleCLIP's global directions: fs3.npy [channels, clip] with S_mean_std, as relevance.safetensors.

orpatashnik/StyleCLIP, global_directions/MapTS.py and GetCode.py. Rows of fs3 are the style channels that are not
to-RGB, in the order of the layers; a short file ends with a layer, and the layers behind it are not edited (SplitS
gives them zeros). S_mean_std is a pickle of two lists with one array a layer, to-RGB included; its styles are ours,
since both add the one of the modulation's bias. To-RGB rows of our relevance are zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from limner.runtime.errors import InputError
from limner.training.config import from_mapping
from limner.training.importers.files.names import ArrayRecord
from limner.training.importers.files.opening import Foreign, open_foreign
from limner.training.importers.files.pickles import Refused
from limner.training.importers.sets import generator_layers
from limner.training.importers.states import NOT_FINITE, Imported, Options
from limner.training.models.store import read_config
from limner.training.models.stylegan2 import LayerSpec, StyleGAN2Config

WHAT = "StyleCLIP's fs3.npy, with S_mean_std beside it"
STATS = ("S_mean_std", "S_mean_std.npy", "S_mean_std.pkl")
UNIT_ERROR = 1e-2  # of a row's length
Array = NDArray[np.float64]


def recognises(foreign: Foreign) -> bool:
    return foreign.format == "npy" and foreign.content.ndim == 2


def convert(foreign: Foreign, options: Options) -> Imported:
    layers = set_layers(options.out)
    rows = np.asarray(foreign.content, np.float64)
    if rows.ndim != 2:
        raise Refused(f"an array {list(rows.shape)}, not [channels, features]")
    check_rows(rows, options.out)
    mean, std = (np.concatenate(part) for part in read_stats(stats_path(foreign.path, options), layers))
    relevance, edited = place_rows(rows, layers)
    state = {name: torch.from_numpy(value.astype(np.float32))
             for name, value in (("relevance", relevance), ("style_mean", mean), ("style_std", std))}  # fmt: skip
    facts = {"style channels": len(relevance), "of these with a direction": edited, "features": rows.shape[1]}
    return Imported("relevance", "edits", None, state, "Channel relevance (StyleCLIP's fs3)", facts)


def set_layers(out: Path) -> tuple[LayerSpec, ...]:
    """The style layers of the set's generator, which say what the rows belong to."""
    folder = out / "stylegan2"
    if not (folder / "config.json").is_file():
        given = f"directions without a generator in {str(out)!r}"
        raise InputError("file", given, "a set with the generator that they belong to", "import the generator first")
    _, config = read_config(folder)
    return generator_layers(from_mapping(StyleGAN2Config, config, "stylegan2"))


def check_rows(rows: Array, out: Path) -> None:
    """Unit rows or zeros, as wide as the set's CLIP if it has one."""
    if not np.isfinite(rows).all():
        raise Refused(f"directions with {NOT_FINITE} in {int((~np.isfinite(rows)).any(1).sum())} channels")
    length = np.linalg.norm(rows, axis=1)
    off = (np.abs(length - 1) > UNIT_ERROR) & (length > 0)
    if off.any():
        raise Refused(f"directions whose rows are not of length 1 ({int(off.sum())} of {len(rows)})")
    clip = out / "clip"
    if (clip / "config.json").is_file():
        width = read_config(clip)[1].get("projection_dim")
        if rows.shape[1] != width:
            raise Refused(f"directions of {rows.shape[1]} features for a CLIP of {width}")


def place_rows(rows: Array, layers: Sequence[LayerSpec]) -> tuple[Array, int]:
    """Relevance [S,C] with zeros at to-RGB channels and behind a short file; and how many rows were given."""
    relevance = np.zeros((sum(layer.channels for layer in layers), rows.shape[1]))
    start, taken = 0, 0
    ends = [0]
    for layer in layers:
        if layer.kind == "conv":
            ends.append(ends[-1] + layer.channels)
            part = rows[taken : taken + layer.channels]
            relevance[start : start + len(part)] = part
            taken += len(part)
        start += layer.channels
    if len(rows) not in ends[1:]:
        raise Refused(f"directions of {len(rows)} channels, where the generator's layers end at {ends[1:]}")
    return relevance, taken


def stats_path(path: Path, options: Options) -> Path:
    """Where S_mean_std is: as given, or beside the directions."""
    if options.style_stats is not None:
        return options.style_stats
    for name in STATS:
        if path.with_name(name).is_file():
            return path.with_name(name)
    given = f"{path.name!r} without {STATS[0]} beside it"
    raise InputError(
        "style_stats", given, "the file of means and deviations of the same generator", "--style-stats FILE"
    )


def read_stats(path: Path, layers: Sequence[LayerSpec]) -> tuple[list[Array], list[Array]]:
    """Mean and standard deviation of each layer's channels, checked. The .npy form is [2, channels of all layers]."""
    try:
        content = open_foreign(path).content
        if isinstance(content, np.ndarray):
            ends = np.cumsum([layer.channels for layer in layers])
            if content.shape != (2, ends[-1]):
                raise Refused(f"an array {list(content.shape)}, where the generator has {ends[-1]} style channels")
            parts = [np.split(np.asarray(row, np.float64), ends[:-1]) for row in content]
        else:
            if isinstance(content, Mapping) or not isinstance(content, (list, tuple)) or len(content) != 2:
                raise Refused("a pickle that is no pair of lists")
            parts = [[_numbers(value) for value in part] if isinstance(part, list) else [] for part in content]
        for part in parts:
            sizes, expected = [len(values) for values in part], [layer.channels for layer in layers]
            if sizes != expected:
                raise Refused(f"layers of {sizes} channels, where the generator has {expected}")
            if not all(np.isfinite(values).all() for values in part):
                raise Refused(f"statistics with {NOT_FINITE}")
        if any((values < 0).any() for values in parts[1]):
            raise Refused("negative standard deviations")
    except Refused as reason:
        given = f"{path.name!r}, {reason}"
        raise InputError("style_stats", given, "S_mean_std of the same generator", "nothing was written") from reason
    return parts[0], parts[1]


def _numbers(value: Any) -> Array:
    if not isinstance(value, ArrayRecord):
        raise Refused("a pickle whose lists hold no arrays")
    return np.asarray(value.array(), np.float64).reshape(-1)
