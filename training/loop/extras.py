"""Loggers by name and callbacks by import path."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from limner.runtime.errors import InputError, nearest

LOGGERS = ("csv", "tensorboard", "wandb", "mlflow")


def make_loggers(names: Sequence[str], out: Path) -> list[Logger]:
    """The loggers of a run; each start writes a CSV table of its own: csv/0, csv/1 ... InputError for one that is not
    installed."""
    return [_logger(name, out) for name in names]


def check_loggers(names: Sequence[str]) -> None:
    """InputError for a logger whose package is not installed."""
    for name in names:
        if name in ("wandb", "mlflow") and importlib.util.find_spec(name) is None:
            raise InputError("trainer.loggers", f"{name!r}, which is not installed", "csv, tensorboard",
                             f"pip install {name}")  # fmt: skip


def _logger(name: str, out: Path) -> Logger:
    check_loggers([name])
    if name == "csv":
        return CSVLogger(out, name="csv", version=str(len(list((out / "csv").glob("*")))))
    if name == "tensorboard":
        return TensorBoardLogger(out, name="tensorboard", version="")
    if name == "wandb":
        return pl.loggers.WandbLogger(name=out.name, save_dir=out, project="limner")
    return pl.loggers.MLFlowLogger(experiment_name="limner", run_name=out.name, save_dir=str(out / "mlflow"))


def make_callbacks(paths: Sequence[str]) -> list[pl.Callback]:
    """Each "package.module.Name" called without arguments; InputError unless that gives a Lightning callback."""
    return [_callback(path) for path in paths]


def _callback(path: str) -> pl.Callback:
    allowed = "package.module.Name of a pytorch_lightning.Callback that takes no arguments"
    module_name, _, name = path.replace(":", ".").rpartition(".")
    try:
        module: Any = importlib.import_module(module_name)
    except (ImportError, ValueError) as reason:
        raise InputError("trainer.callbacks", f"{path!r} ({reason})", allowed) from reason
    if not hasattr(module, name):
        raise InputError("trainer.callbacks", repr(path), allowed, nearest(name, dir(module)))
    try:
        made = getattr(module, name)()
    except TypeError as reason:
        raise InputError("trainer.callbacks", f"{path!r} ({reason})", allowed) from reason
    if not isinstance(made, pl.Callback):
        raise InputError("trainer.callbacks", f"{path!r}, a {type(made).__name__}", allowed)
    return made
