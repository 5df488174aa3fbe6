"""The dial of a GPU: steps that end in time, results that travel as few files, and their taking over."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from limner.runtime.errors import InputError
from limner.training.dial import (
    COUNTED,
    MOST_STEPS,
    PARTS,
    UNCOUNTED,
    Deadline,
    adopt,
    check_loads,
    pack,
    settings_of,
    settle_card,
    train_all,
    unpack,
)
from limner.training.families.judge import run as judge
from limner.training.loop.runner import cosine, fit, seed_all
from limner.training.running import resolve

TINY = ["data={size: 32, train: 24, validation: 8, test: 8}", "model.channels=[16, 16, 16]", "model.blocks=[1]",
        "model.features=16", "trainer.batch_size=8", "trainer.precision=32-true", "trainer.max_steps=1000000",
        "trainer.validate_every=1000000", "trainer.loggers=[csv]", "trainer.monitor=''"]  # fmt: skip


def test_a_deadline_sets_the_steps_and_the_learning_rates_follow(tiny_cache: Path, tmp_path: Path) -> None:
    run: Any = resolve("judge", overrides=TINY)
    seed_all(run.trainer)
    module, data = judge.build(run, tiny_cache)
    deadline = Deadline(time.monotonic() + 3.0, run.optimizer.warmup)
    trainer = fit(module, data, run.trainer, tmp_path / "run", run, callbacks=(deadline,))
    assert trainer.global_step == deadline.steps == module.max_steps < 1_000_000
    rate = trainer.optimizers[0].param_groups[0]["lr"]
    wanted = run.optimizer.learning_rate * cosine(run.optimizer.warmup, deadline.steps)(deadline.steps)
    assert rate == pytest.approx(wanted, abs=1e-9)


def test_a_deadline_that_is_over_takes_one_step_more(tiny_cache: Path, tmp_path: Path) -> None:
    run: Any = resolve("judge", overrides=TINY)
    module, data = judge.build(run, tiny_cache)
    trainer = fit(module, data, run.trainer, tmp_path / "run", run, callbacks=(Deadline(0.0, 0.05),))
    assert trainer.global_step == UNCOUNTED + COUNTED + 1


def test_a_card_names_what_was_done_and_what_is_shipped(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text(f"autoencoder: /lent/work/models/autoencoder\n  max_steps: {MOST_STEPS}\n")
    settle_card(tmp_path, Path("/lent/work/models"), Path("checkpoints/avatars"), 8212)
    assert card.read_text() == "autoencoder: checkpoints/avatars/autoencoder\n  max_steps: 8212\n"


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_every_parts_settings_fit_its_family(part: Any, repository: Path, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(repository)
    resolve(part.family, overrides=settings_of(part, tmp_path, Path("checkpoints/avatars")))


def results(folder: Path, repository: Path) -> Path:
    """What a run would leave, of the shipped encoder with one weight moved."""
    made = folder / "encoder"
    shutil.copytree(repository / "checkpoints" / "avatars" / "encoder", made)
    tensors = load_file(made / "model.safetensors")
    key = next(key for key in sorted(tensors) if key.endswith("weight"))
    tensors[key] = tensors[key] * 0.5
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    out = folder / "out"
    out.mkdir()
    (made / "part.json").write_text(json.dumps({"steps": 3, "megabytes": 5.7}))
    pack(made, out / "encoder.tar")
    failed = folder / "stylegan2"
    failed.mkdir()
    (failed / "part.json").write_text(json.dumps({"failed": "OutOfMemoryError"}))
    pack(failed, out / "stylegan2.tar")
    return out


def test_results_are_taken_over(tmp_path: Path, repository: Path) -> None:
    out = results(tmp_path, repository)
    shipped = tmp_path / "shipped"
    shutil.copytree(repository / "checkpoints" / "avatars" / "encoder", shipped / "encoder")
    (shipped / "encoder" / "notes.txt").write_text("mine")
    said: list[str] = []
    assert adopt(out, shipped, say=said.append) == [shipped / "encoder"]
    assert (shipped / "encoder" / "model.safetensors").read_bytes() == (
        tmp_path / "encoder" / "model.safetensors"
    ).read_bytes()
    assert (shipped / "encoder" / "notes.txt").read_text() == "mine" and "3 steps" in said[0]


def test_what_is_no_result_changes_nothing(tmp_path: Path, repository: Path) -> None:
    shipped = tmp_path / "shipped"
    shutil.copytree(repository / "checkpoints" / "avatars" / "encoder", shipped / "encoder")
    before = (shipped / "encoder" / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="no finished part"):
        adopt(tmp_path, shipped)
    out = results(tmp_path, repository)
    tensors = load_file(tmp_path / "encoder" / "model.safetensors")
    tensors[sorted(tensors)[0]] = torch.full_like(tensors[sorted(tensors)[0]], float("nan"))
    save_file(tensors, tmp_path / "encoder" / "model.safetensors", metadata={"format": "pt"})
    pack(tmp_path / "encoder", out / "encoder.tar")
    with pytest.raises(InputError, match="NaN or infinity"):
        adopt(out, shipped)
    for name in ("../outside", "/tmp/outside"):
        with tarfile.open(out / "encoder.tar", "w") as archive:
            entry = tarfile.TarInfo(name)
            entry.size = 1
            archive.addfile(entry, io.BytesIO(b"x"))
        with pytest.raises(InputError, match="outside"):
            adopt(out, shipped)
    (out / "encoder.tar").write_bytes(b"no tar")
    with pytest.raises(InputError, match="does not read"):
        unpack(out / "encoder.tar", tmp_path / "unpacked")
    assert (shipped / "encoder" / "model.safetensors").read_bytes() == before
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("text", ["autoencoder", "vae.start=x", "autoencoder.start"])
def test_settings_of_parts_are_checked_before_anything_is_made(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        train_all(3.0, tmp_path / "out", tmp_path / "work", Path("checkpoints/avatars"), settings=(text,))
    assert caught.value.field == "--set" and list(tmp_path.iterdir()) == []


def test_bad_values_are_named(tmp_path: Path) -> None:
    for minutes, only, field in ((0.0, (), "--minutes"), (float("nan"), (), "--minutes"), (3.0, ("vae",), "--part")):
        with pytest.raises(InputError) as caught:
            train_all(minutes, tmp_path / "out", tmp_path / "work", Path("checkpoints/avatars"), only)
        assert caught.value.field == field
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_one_minute_gives_results_that_load(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    report = train_all(1.0, tmp_path / "out", tmp_path / "work", Path("checkpoints/avatars"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.json", "autoencoder.tar", "diffusion.tar", "stylegan2.tar", "encoder.tar", "mappers.tar",
    }  # fmt: skip
    assert all(part["figures"] for part in report["parts"].values())
    for part in [part for part in PARTS if part.name in report["parts"]]:
        unpack(tmp_path / "out" / f"{part.stem}.tar", tmp_path / "back" / part.name)
        check_loads(tmp_path / "back" / part.name, part.name)
