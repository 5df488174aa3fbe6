"""Callbacks that every training shares: the moving average of the weights, and image grids."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import nn


class WeightAverage(pl.Callback):
    """Exponential moving average of a network's parameters and buffers, used for validation and saving.

    The decay warms up as min(decay, (1 + t) / (10 + t)), so that a short training is not its first weights.
    """

    def __init__(self, decay: float, attribute: str = "network") -> None:
        self.decay, self.attribute = decay, attribute
        self.average: dict[str, torch.Tensor] = {}
        self._raw: dict[str, torch.Tensor] = {}
        self.updates = 0

    def _network(self, module: pl.LightningModule) -> nn.Module:
        network: nn.Module = getattr(module, self.attribute)
        return network

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        state = self._network(pl_module).state_dict()
        if not self.average:
            self.average = {k: v.detach().clone() for k, v in state.items()}
        self.average = {k: self.average[k].to(v.device) for k, v in state.items()}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        state = self._network(pl_module).state_dict()
        floats = [k for k, v in state.items() if v.is_floating_point()]
        torch._foreach_lerp_([self.average[k] for k in floats], [state[k] for k in floats], 1 - decay)
        for k, v in state.items():
            if not v.is_floating_point():
                self.average[k].copy_(v)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.average:
            network = self._network(pl_module)
            self._raw = {k: v.detach().clone() for k, v in network.state_dict().items()}
            network.load_state_dict(self.average)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._raw:
            self._network(pl_module).load_state_dict(self._raw)
            self._raw = {}

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.on_validation_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average, self.updates = state_dict["average"], state_dict["updates"]


class Grids(pl.Callback):
    """Write `pl_module.grid()` (image [N,3,H,W] in [-1,1], or None) as a PNG after each validation.

    The module's `grid_columns`, where it has them, say how many pictures a row takes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @torch.no_grad()
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        make = getattr(pl_module, "grid", None)
        images = make() if make and trainer.is_global_zero and not trainer.sanity_checking else None
        if images is None:
            return
        picture = tile(images, getattr(pl_module, "grid_columns", 0))
        self.folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(self.folder / f"{trainer.global_step:07d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, pl.loggers.TensorBoardLogger):
                logger.experiment.add_image("grid", picture, trainer.global_step, dataformats="HWC")


def tile(images: torch.Tensor, columns: int = 0) -> np.ndarray:
    """image [N,3,H,W] in [-1,1] -> one uint8 picture [rows*H, columns*W, 3]; about square by default."""
    count, _, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    sheet = np.full((rows * columns, height, width, 3), 255, np.uint8)
    sheet[:count] = pixels
    return sheet.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
