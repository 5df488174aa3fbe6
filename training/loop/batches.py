"""Batches as a pure function of (seed, step), so that a resumed training sees what an uninterrupted one sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from limner.runtime.errors import InputError

Batch = dict[str, torch.Tensor]
Prepare = Callable[[Batch, np.random.Generator], Batch]


class Batches(Protocol):
    """What a training needs of a data set: its length and many items at once."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray) -> Batch: ...


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator that depends on the seed and the step alone."""
    state = np.random.SeedSequence([seed, step]).generate_state(2, np.uint32)
    return torch.Generator(device).manual_seed(int(state[0]) << 32 | int(state[1]))


def epoch_order(count: int, size: int, seed: int, step: int) -> np.ndarray:
    """Indices [size] of the batch of a step: epochs are shuffled anew, the last partial batch is dropped."""
    per_epoch = max(count // size, 1)
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return order[place * size : (place + 1) * size]


class StepBatches(IterableDataset[Batch]):
    """An endless stream of batches from step `start` on."""

    def __init__(
        self,
        data: Batches,
        size: int,  # pictures a batch
        seed: int,
        start: int = 0,  # first step
        rank: int = 0,  # which of `ranks` processes this is; each sees its own batches
        ranks: int = 1,
        prepare: Prepare | None = None,  # adds to a batch, e.g. captions
    ) -> None:
        self.data, self.size, self.seed, self.start = data, size, seed, start
        self.rank, self.ranks, self.prepare = rank, ranks, prepare

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        step, stride = (self.start, 1) if worker is None else (self.start + worker.id, worker.num_workers)
        while True:
            draw = step * self.ranks + self.rank
            batch = self.data.batch(np.sort(epoch_order(len(self.data), self.size, self.seed, draw)))
            yield self.prepare(batch, np.random.default_rng([self.seed, draw, 1])) if self.prepare else batch
            step += stride


class InOrder(Dataset[Batch]):
    """A data set's first `limit` items in order, `size` at a time."""

    def __init__(self, data: Batches, size: int, limit: int, prepare: Prepare | None = None) -> None:
        self.data, self.size, self.count = data, size, min(limit, len(data))
        self.prepare = prepare

    def __len__(self) -> int:
        return -(-self.count // self.size)

    def __getitem__(self, i: int) -> Batch:
        if i >= len(self):
            raise IndexError(i)
        batch = self.data.batch(np.arange(i * self.size, min((i + 1) * self.size, self.count)))
        return self.prepare(batch, np.random.default_rng([i, 2])) if self.prepare else batch


class StepData(pl.LightningDataModule):
    """Loaders of a training: endless seeded batches for training, the head of the split for validation."""

    def __init__(
        self,
        train: Callable[[], Batches],
        validation: Callable[[], Batches],
        batch_size: int,
        seed: int = 0,
        validation_limit: int = 1024,  # pictures
        workers: int = 0,
        prepare: Prepare | None = None,
    ) -> None:
        super().__init__()
        self.sources = {"train": train, "validation": validation}
        self.batch_size, self.seed, self.validation_limit = batch_size, seed, validation_limit
        self.workers, self.prepare = workers, prepare
        self.begun = 0  # batches of earlier starts

    def prepare_data(self) -> None:
        """Make the data once, in the first process; the others find it."""
        for make in self.sources.values():
            make()

    def state_dict(self) -> dict[str, int]:
        if self.trainer is None:
            return {"batches": self.begun}
        return {"batches": self.trainer.global_step * self.trainer.accumulate_grad_batches}  # those of whole steps

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.begun = int(state_dict["batches"])

    def train_dataloader(self) -> DataLoader[Batch]:
        trainer = self.trainer
        rank, ranks = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        data = self.sources["train"]()
        if len(data) < self.batch_size * ranks:
            allowed = f"up to {len(data)}, the number of training items"
            raise InputError("trainer.batch_size", f"{self.batch_size} on {ranks} devices", allowed)
        stream = StepBatches(data, self.batch_size, self.seed, self.begun, rank, ranks, self.prepare)
        return DataLoader(stream, batch_size=None, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader[Batch]:
        data = InOrder(self.sources["validation"](), self.batch_size, self.validation_limit, self.prepare)
        return DataLoader(data, batch_size=None, shuffle=False)
