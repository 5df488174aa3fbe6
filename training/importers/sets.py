"""The folder of a set of checkpoints: what is in it already, what fits it, and how a new checkpoint gets into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from limner.runtime.errors import InputError
from limner.runtime.storage.files import write_atomically
from limner.runtime.storage.folders import clean_up, folder_beside, put_in_place
from limner.training.config import from_mapping
from limner.training.importers.files.pickles import Refused
from limner.training.importers.states import Imported, same_weights
from limner.training.models.store import build_on_meta, read_config, read_tensors, save_model
from limner.training.models.stylegan2 import Generator, LayerSpec, StyleGAN2Config

RELEVANCE = "relevance.safetensors"


@dataclass(frozen=True, eq=False)
class SetGenerator:
    """The generator of a set."""

    config: StyleGAN2Config
    state: Mapping[str, Tensor]


def set_generator(out: Path) -> SetGenerator | None:
    """The generator that is in the set, if there is one."""
    folder = out / "stylegan2"
    if not (folder / "config.json").is_file():
        return None
    _, config = read_config(folder)
    return SetGenerator(from_mapping(StyleGAN2Config, config, "stylegan2"), read_tensors(folder / "model.safetensors"))


def generator_layers(config: StyleGAN2Config) -> tuple[LayerSpec, ...]:
    """The style layers of a generator of that config."""
    generator = build_on_meta("stylegan2", config)
    if not isinstance(generator, Generator):
        raise TypeError(type(generator).__name__)
    return generator.layers


def refuse_other_generator(what: str, sizes: StyleGAN2Config, decoder: Mapping[str, Tensor], own: SetGenerator) -> None:
    """Refuse `what` if it was made for a generator of another shape, or with other weights where it carries them."""
    if (sizes.num_ws, sizes.w_dim) != (own.config.num_ws, own.config.w_dim):
        raise Refused(
            f"{what} for a generator of {sizes.num_ws} layers of {sizes.w_dim}, where the set's has "
            f"{own.config.num_ws} of {own.config.w_dim}"
        )
    if decoder and not same_weights(own.state, decoder):
        raise Refused(f"{what} for another generator: the one that it carries is not the set's")


def check_free(target: Path, replace: bool) -> None:
    """Refuse to write over a checkpoint unless told to, and over anything else."""
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / "config.json").is_file()):
        raise InputError("out", f"{str(target)!r}, which holds something else", "a new folder or an old checkpoint")
    if target.is_dir() and any(target.iterdir()) and not replace:
        raise InputError(
            "out", f"{str(target)!r}, which holds a checkpoint", "a new folder", "--replace writes over it"
        )


def write(found: Imported, out: Path, card: str, replace: bool) -> Path:
    """Write the checkpoint beside its place and rename it: all of it or nothing. Returns its folder."""
    target = out / found.folder
    if found.family == "relevance":
        return _write_relevance(found, target, card, replace)
    if target.parent.is_dir():
        clean_up(target)  # an import that was killed may have left the old checkpoint aside
    check_free(target, replace)
    made = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    with _kept_if_written(target, made), folder_beside(target) as beside:
        save_model(beside, found.family, found.config, found.state, card, dtype=torch.float32)
        for name, data in found.files.items():
            write_atomically(beside / name, data)
        beside.chmod(0o755)
        put_in_place(beside, target)
    return target


@contextmanager
def _kept_if_written(target: Path, made: Sequence[Path]) -> Iterator[None]:
    """Take the folders that were `made` for `target` away again when it was not written."""
    try:
        yield
    finally:
        if not target.exists():
            for folder in made:
                folder.rmdir()


def _write_relevance(found: Imported, target: Path, card: str, replace: bool) -> Path:
    """relevance.safetensors among the other edits of a set, each file renamed to its place."""
    path = target / RELEVANCE
    if path.exists() and not replace:
        raise InputError("out", f"{str(path)!r}, which is there already", "a new file", "--replace writes over it")
    target.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    save_file({name: value.contiguous() for name, value in found.state.items()}, beside)
    beside.chmod(0o644)
    beside.replace(path)
    write_atomically(target / "relevance.md", card.encode())
    return target


def plain_facts(facts: Mapping[str, Any]) -> list[str]:
    """The lines of a card."""
    return [f"- {name}: {value}" for name, value in facts.items()]
