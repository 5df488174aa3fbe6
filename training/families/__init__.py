"""Model families that can be trained: what a run is made of, how it is built, how it is saved; and jobs beside them.

A family is a module with ``Run`` (the config of a whole run), ``build(run, cache)`` (LightningModule and
LightningDataModule) and ``save(run, module, folder, cache)`` (checkpoint folder with figures and card).
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl

from limner.runtime.errors import InputError, nearest

FAMILIES = {
    "judge": "limner.training.families.judge.run",
    "reader": "limner.training.families.reader.run",
    "clip": "limner.training.families.clip.run",
    "identity": "limner.training.families.identity.run",
    "encoder": "limner.training.families.encoder.run",
    "stylegan2": "limner.training.families.stylegan2.run",
    "mapper": "limner.training.families.mapper.run",
    "autoencoder": "limner.training.families.autoencoder.run",
    "diffusion": "limner.training.families.diffusion.run",
}

JOBS = {"relevance": "limner.training.families.relevance.run"}  # a `Run` and a function of their own, no training


class Family(Protocol):
    """The shape of a family's module."""

    Run: type[Any]  # frozen dataclass with a `trainer: TrainerConfig`

    def build(self, run: Any, cache: Path) -> tuple[pl.LightningModule, pl.LightningDataModule]: ...

    def save(self, run: Any, module: Any, folder: Path, cache: Path) -> dict[str, Any]: ...


def family(name: str) -> Family:
    """The family of that name; InputError lists the known ones."""
    if name not in FAMILIES:
        raise InputError("family", repr(name), ", ".join(FAMILIES), nearest(name, FAMILIES))
    found: Any = importlib.import_module(FAMILIES[name])
    return found


def run_type(name: str) -> type[Any]:
    """The `Run` of a family or a job; InputError lists the known ones."""
    if name in JOBS:
        found: type[Any] = importlib.import_module(JOBS[name]).Run
        return found
    return family(name).Run
