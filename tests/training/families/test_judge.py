"""The judge: shapes, reading, the perceptual distance, augmentation, a short training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from limner.runtime.errors import InputError
from limner.training.families.augment import AugmentConfig, augment
from limner.training.models.judge import Judge, JudgeConfig, perceptual_distance
from limner.training.running import resolve

CONFIG = JudgeConfig((("hair", ("bald", "long")), ("eyewear", ("none", "glasses", "sunglasses"))), 32, 2,
                     (16, 16, 32), (1,), 24)  # fmt: skip


def test_outputs() -> None:
    judge, image = Judge(CONFIG).eval(), torch.rand(3, 3, 32, 32) * 2 - 1
    logits = judge(image)
    assert {name: tuple(v.shape) for name, v in logits.items()} == {"hair": (3, 2), "eyewear": (3, 3)}
    assert judge.features(image).shape == (3, 24)
    rows = judge.read(image)
    assert rows.shape == (3, 2) and rows.dtype == torch.int64
    assert judge.words(rows)[0]["eyewear"] == CONFIG.attributes[1][1][int(rows[0, 1])]


def test_perceptual_distance_is_zero_only_for_the_same() -> None:
    judge, image = Judge(CONFIG).eval(), torch.rand(2, 3, 32, 32) * 2 - 1
    assert perceptual_distance(judge, image, image).tolist() == [0.0, 0.0]
    assert (perceptual_distance(judge, image, -image) > 0).all()


def test_config_is_refused_when_it_does_not_halve() -> None:
    with pytest.raises(ValueError, match="halve"):
        JudgeConfig(CONFIG.attributes, 30)


def test_augmentation_is_seeded_and_stays_in_range() -> None:
    image = torch.rand(16, 3, 32, 32) * 2 - 1
    config = AugmentConfig(blur=0.5, noise=0.5, jpeg=0.5, cutout=0.5, cutout_size=8)
    one, two = (augment(image, config, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(one, two) and one.shape == image.shape
    assert float(one.min()) >= -1 and float(one.max()) <= 1
    other = augment(image, config, torch.Generator().manual_seed(5))
    assert not torch.equal(one, other)


def test_no_augmentation_changes_nothing() -> None:
    image = torch.rand(4, 3, 16, 16) * 2 - 1
    nothing = AugmentConfig(0, 0.0, 0.0, 0.0, 0.0)
    assert torch.equal(augment(image, nothing, torch.Generator().manual_seed(0)), image)


def tiny_run(**more: object) -> object:
    return resolve("judge", overrides=[
        "data={size: 32, train: 24, validation: 8, test: 8}", "model.channels=[16, 16, 16]", "model.blocks=[1]",
        "model.features=16", "trainer.batch_size=8", "trainer.precision=32-true", "trainer.validation_limit=8",
        *(f"{key}={value}" for key, value in more.items()),
    ])  # fmt: skip


def test_fast_dev_run_and_checkpoint(tiny_cache: Path, tmp_path: Path) -> None:
    from limner.training.families.judge import run as family
    from limner.training.loop.runner import fit
    from limner.training.models.store import load_model

    run = tiny_run()
    module, data = family.build(run, tiny_cache)  # type: ignore[arg-type]
    fit(module, data, run.trainer, tmp_path / "run", run, fast_dev_run=True)  # type: ignore[attr-defined]
    figures = family.save(run, module, tmp_path / "judge", tiny_cache)  # type: ignore[arg-type]
    assert figures["test pictures"] == 8 and len(figures["accuracy, %"]) == 9
    card = (tmp_path / "judge" / "README.md").read_text()
    assert "Pablo Stanley" in card and "mean accuracy" in card
    assert isinstance(load_model(tmp_path / "judge"), Judge)


def test_unknown_weight_is_refused(tiny_cache: Path) -> None:
    from limner.training.families.judge import run as family

    with pytest.raises(InputError, match="weights"):
        family.build(tiny_run(**{"weights.har": 2.0}), tiny_cache)  # type: ignore[arg-type]
