"""Channel relevance goes on after a cut: rows that were kept are not computed again, and are the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.tiny import write_tiny_checkpoints
from torch import Tensor

from limner.training.families.relevance import run as job
from limner.training.families.relevance.module import RelevanceModule
from limner.training.families.relevance.rows import RowKeeper, kept_rows
from limner.training.running import resolve


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoints(tmp_path_factory.mktemp("relevance") / "tiny")


def run(checkpoints: Path, *more: str) -> job.Run:
    found: Any = resolve("relevance", overrides=[
        f"generator={checkpoints / 'stylegan2'}", f"clip={checkpoints / 'clip'}", "latents=samples",
        "relevance={stat_samples: 50, pictures: 3, chunk: 2}", "trainer={accelerator: cpu}", *more,
    ])  # fmt: skip
    return found


class Cut(Exception):
    """The power goes."""


def cut_after(monkeypatch: pytest.MonkeyPatch, channels: int) -> list[int]:
    """Stop predict after so many channels; the list is of those that were computed."""
    step = RelevanceModule.predict_step
    computed: list[int] = []

    def counted(self: RelevanceModule, batch: tuple[Tensor], index: int) -> tuple[int, Tensor]:
        if len(computed) == channels:
            raise Cut
        computed.append(int(batch[0][0, 0]))
        return step(self, batch, index)

    monkeypatch.setattr(RelevanceModule, "predict_step", counted)
    return computed


def test_goes_on_with_the_same_numbers(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    job.predict(run(checkpoints), whole)
    monkeypatch.setattr("limner.training.families.relevance.rows.EVERY_S", -1.0)  # after every channel
    with monkeypatch.context() as patch:
        first = cut_after(patch, 9)
        with pytest.raises(Cut):
            job.predict(run(checkpoints), cut)
    assert not (cut / "relevance.safetensors").exists()
    with monkeypatch.context() as patch:
        second = cut_after(patch, 10**6)
        job.predict(run(checkpoints), cut)
    expected, found = (load_file(f / "relevance.safetensors") for f in (whole, cut))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert len(first) == 9 and not set(first) & set(second)
    assert len(first) + len(second) == int(expected["relevance"].any(dim=1).sum())
    assert sorted(p.name for p in cut.iterdir()) == ["relevance.json", "relevance.safetensors"]
    assert json.loads((cut / "relevance.json").read_text())["pictures"] == 3


def test_nothing_left_to_do(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut after the last channel and before the result was written."""
    monkeypatch.setattr("limner.training.families.relevance.run.forget_rows", lambda folder: None)
    job.predict(run(checkpoints), tmp_path)
    expected = load_file(tmp_path / "relevance.safetensors")["relevance"]
    computed = cut_after(monkeypatch, 10**6)
    job.predict(run(checkpoints), tmp_path)
    assert computed == [] and torch.equal(load_file(tmp_path / "relevance.safetensors")["relevance"], expected)


def test_rows_of_other_settings_are_passed_over(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limner.training.families.relevance.run.forget_rows", lambda folder: None)
    job.predict(run(checkpoints), tmp_path)
    computed = cut_after(monkeypatch, 10**6)
    job.predict(run(checkpoints, "relevance.sigma=3"), tmp_path)
    assert computed


def test_a_broken_file_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keeper = RowKeeper(tmp_path, "key", {3: torch.ones(4)})
    keeper._write(0)
    (tmp_path / "rows-1.safetensors").write_bytes(b"\x09\x00\x00\x00\x00\x00\x00\x00{")
    with caplog.at_level("WARNING", logger="limner"):
        found = kept_rows(tmp_path, "key")
    assert list(found) == [3] and torch.equal(found[3], torch.ones(4))
    assert "rows-1.safetensors is not used" in caplog.text
    assert kept_rows(tmp_path, "another key") == {}
