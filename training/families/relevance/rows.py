"""Rows of channel relevance kept on disk while the job runs: a run that was cut goes on where it stood."""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BasePredictionWriter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

log = logging.getLogger("limner")
EVERY_S = 60.0  # seconds between two writings


def rows_key(settings: str, module: nn.Module, *tensors: Tensor) -> str:
    """SHA-256 over all that rows depend on: settings, weights and the tensors given."""
    digest = hashlib.sha256(settings.encode())
    for value in (*module.state_dict().values(), *tensors):
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def kept_rows(folder: Path, key: str) -> dict[int, Tensor]:
    """Rows [clip_dim] by channel that earlier runs with the same key left in `folder`; others are passed over."""
    found: dict[int, Tensor] = {}
    for path in sorted(folder.glob("rows-*.safetensors")):
        found.update(_rows_of(path, key))
    return found


def _rows_of(path: Path, key: str) -> dict[int, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return {}
            return dict(zip(file.get_tensor("columns").tolist(), file.get_tensor("rows"), strict=True))
    except (SafetensorError, ValueError, OSError) as error:
        log.warning("channel relevance: %s is not used: %s", path.name, error)
        return {}


def forget_rows(folder: Path) -> None:
    """Delete what the job kept, once its result is written."""
    for path in folder.glob("rows-*.safetensors"):
        path.unlink()


class RowKeeper(BasePredictionWriter):
    """Writes each process's rows to rows-<rank>.safetensors once a minute, beside and renamed."""

    def __init__(self, folder: Path, key: str, known: dict[int, Tensor]) -> None:
        super().__init__("batch")
        self.folder, self.key, self.rows, self.last = folder, key, dict(known), time.monotonic()

    def write_on_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, prediction: Any,
                           batch_indices: Any, batch: Any, batch_idx: int, dataloader_idx: int) -> None:  # fmt: skip
        column, row = prediction
        self.rows[column] = row.cpu()
        total = sum(int(n) for n in trainer.num_predict_batches)
        if time.monotonic() - self.last > EVERY_S or batch_idx + 1 == total:
            self.last = time.monotonic()
            self._write(trainer.global_rank)
            if trainer.is_global_zero:
                log.info("channel relevance: %d of %d channels on this device", batch_idx + 1, total)

    def _write(self, rank: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"rows-{rank}.safetensors"
        beside = path.with_suffix(".part")
        tensors = {"columns": torch.tensor(list(self.rows)), "rows": torch.stack(list(self.rows.values()))}
        save_file(tensors, beside, metadata={"key": self.key})
        beside.replace(path)
