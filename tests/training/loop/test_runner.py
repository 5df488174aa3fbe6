"""Runs: resume equals an uninterrupted training, averages, schedules, batches, the command line, every YAML."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from limner.runtime.errors import InputError
from limner.training.families import FAMILIES, JOBS
from limner.training.families.judge import run as judge
from limner.training.loop.batches import InOrder, StepBatches, epoch_order
from limner.training.loop.callbacks import WeightAverage, tile
from limner.training.loop.runner import OptimizerConfig, TrainerConfig, fit, optimizer_of, seed_all
from limner.training.running import CONFIGS, resolve, run_family

TINY = ["data={size: 32, train: 24, validation: 8, test: 8}", "model.channels=[16, 16, 16]", "model.blocks=[1]",
        "model.features=16", "trainer.batch_size=8", "trainer.precision=32-true", "trainer.validation_limit=8",
        "trainer.validate_every=2", "trainer.checkpoint_every=3", "trainer.max_steps=6"]  # fmt: skip


class Interrupt(Exception):
    """Stands for a machine that stops."""


def train(cache: Path, out: Path, resume: bool = False, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    """The judge's weights after a tiny training, which may be interrupted at a step."""
    run = resolve("judge", overrides=TINY)
    seed_all(run.trainer)
    module, data = judge.build(run, cache)
    hooks: tuple[Any, ...] = ()
    if stop_at is not None:
        import pytorch_lightning as pl

        class Stop(pl.Callback):
            def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
                if trainer.global_step == stop_at:
                    raise Interrupt

        hooks = (Stop(),)
    fit(module, data, run.trainer, out, run, resume, callbacks=hooks)
    return module.network.state_dict()


def test_resume_gives_the_weights_of_an_uninterrupted_run(tiny_cache: Path, tmp_path: Path) -> None:
    whole = train(tiny_cache, tmp_path / "whole")
    with pytest.raises(Interrupt):
        train(tiny_cache, tmp_path / "broken", stop_at=5)
    torch.manual_seed(99)  # the resumed run may not lean on what the first one left behind
    resumed = train(tiny_cache, tmp_path / "broken", resume=True)
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key
    folder = {path.name for path in (tmp_path / "broken").iterdir()}
    assert {"config.yaml", "last.ckpt", "csv", "tensorboard"} <= folder
    assert sorted(path.name for path in (tmp_path / "broken" / "csv").iterdir()) == ["0", "1"]
    with (tmp_path / "whole" / "csv" / "0" / "metrics.csv").open() as file:
        assert any(row.get("validation/hair") for row in csv.DictReader(file))


def test_a_run_is_not_begun_twice_nor_resumed_from_nothing(tiny_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--resume"):
        train(tiny_cache, tmp_path / "nothing", resume=True)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "last.ckpt").touch()
    with pytest.raises(InputError, match="--out"):
        train(tiny_cache, tmp_path / "old")


def test_run_family_writes_model_figures_and_config(tiny_cache: Path, tmp_path: Path) -> None:
    run = resolve("judge", overrides=[*TINY, "trainer.max_steps=1"])
    figures = run_family("judge", run, tmp_path / "run", tmp_path / "model", tiny_cache)
    assert "training, minutes" in figures and (tmp_path / "model" / "model.safetensors").exists()
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["trainer"]["max_steps"] == 1 and saved["model"]["channels"] == [16, 16, 16]
    assert run_family("judge", run, tmp_path / "dev", tmp_path / "no", tiny_cache, fast_dev_run=True) == {}
    assert not (tmp_path / "dev").exists() and not (tmp_path / "no").exists()


@pytest.mark.parametrize("name", sorted([*FAMILIES, *JOBS]))
def test_every_yaml_fits_its_family(name: str) -> None:
    assert (CONFIGS / f"{name}.yaml").exists()
    resolve(name)


def test_command_line(limner: Any) -> None:
    shown = limner("train", "judge", "--dry-run", "--max-steps", 7)
    assert shown.code == 0 and yaml.safe_load(shown.out)["trainer"]["max_steps"] == 7
    wrong = limner("train", "judge", "--dry-run", "--set", "trainer.steps=1")
    assert wrong.code == 2 and wrong.err.startswith("error: judge.trainer.steps") and "max_steps" in wrong.err
    assert limner("train", "jugde").code == 2


def test_epochs_are_shuffled_anew_and_cover_all() -> None:
    first = np.concatenate([epoch_order(10, 5, 3, step) for step in (0, 1)])
    second = np.concatenate([epoch_order(10, 5, 3, step) for step in (2, 3)])
    assert sorted(first) == sorted(second) == list(range(10)) and list(first) != list(second)
    assert list(epoch_order(10, 5, 3, 1)) == list(epoch_order(10, 5, 3, 1))


class Numbers:
    def __len__(self) -> int:
        return 12

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        return {"n": torch.from_numpy(indices)}


def take(stream: StepBatches, count: int) -> list[list[int]]:
    return [batch["n"].tolist() for batch, _ in zip(stream, range(count), strict=False)]


def test_streams_start_anywhere_and_ranks_share_the_data() -> None:
    whole = take(StepBatches(Numbers(), 3, 5), 6)
    assert take(StepBatches(Numbers(), 3, 5, start=2), 4) == whole[2:]
    ranks = [take(StepBatches(Numbers(), 3, 5, rank=r, ranks=2), 3) for r in range(2)]
    assert [row for pair in zip(*ranks, strict=True) for row in pair] == whole
    shown = InOrder(Numbers(), 5, 7)
    assert [shown[i]["n"].tolist() for i in range(len(shown))] == [[0, 1, 2, 3, 4], [5, 6]]


def test_schedule_warms_up_and_ends_at_zero() -> None:
    layer = nn.Linear(2, 2)
    made = optimizer_of(layer, OptimizerConfig(1.0, warmup=0.1), 100)
    factor = made["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert factor(0) == pytest.approx(0.1) and factor(9) == pytest.approx(1.0)
    assert factor(55) == pytest.approx(0.5) and factor(100) == pytest.approx(0.0)
    decays = {len(g["params"]): g["weight_decay"] for g in made["optimizer"].param_groups}
    assert decays == {1: 0.0} or [g["weight_decay"] for g in made["optimizer"].param_groups] == [0.05, 0.0]


def test_average_against_a_loop() -> None:
    class Module:
        network = nn.Linear(1, 1, bias=False)

    module: Any = Module()
    average = WeightAverage(0.9)
    module.network.weight.data.fill_(0.0)
    average.on_fit_start(None, module)  # type: ignore[arg-type]
    expected = 0.0
    for i, value in enumerate([1.0, 2.0, 5.0]):
        module.network.weight.data.fill_(value)
        average.on_train_batch_end(None, module, None, None, i)  # type: ignore[arg-type]
        decay = min(0.9, (1 + i) / (10 + i))
        expected = decay * expected + (1 - decay) * value
    assert float(average.average["weight"]) == pytest.approx(expected)
    average.on_validation_start(None, module)  # type: ignore[arg-type]
    assert module.network.weight.item() == pytest.approx(expected)
    average.on_validation_end(None, module)  # type: ignore[arg-type]
    assert module.network.weight.item() == 5.0


def test_trainer_config_refuses() -> None:
    wrong: tuple[tuple[str, Any], ...] = (("max_steps", 0), ("batch_size", 0), ("average_decay", 1.0))
    for key, value in wrong:
        with pytest.raises(ValueError, match=key):
            TrainerConfig(**{key: value})


def test_tile_places_pictures_in_rows() -> None:
    images = torch.stack([torch.full((3, 2, 2), v) for v in (-1.0, 0.0, 1.0)])
    sheet = tile(images, columns=2)
    assert sheet.shape == (4, 4, 3)
    assert sheet[0, 0, 0] == 0 and sheet[0, 2, 0] == 128 and sheet[2, 0, 0] == 255 and sheet[3, 3, 0] == 255
