"""StyleGAN2's stages in a row: planned as a whole, each from the last, resumed where they ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from limner.runtime.errors import InputError
from limner.training.config import read_yaml
from limner.training.families.stylegan2.stages import Stage, plan, read_stages, run_stages
from limner.training.models.store import load_model
from limner.training.models.stylegan2 import Generator
from limner.training.running import CONFIGS, resolve, run_family

SHIPPED = read_yaml(CONFIGS / "stylegan2_stages.yaml")
TINY = ["data={size: 32, train: 24, validation: 8, test: 8}", "compile=false", "judge=",
        "model={size: 32, z_dim: 16, w_dim: 16, n_mlp: 2, channels: {4: 16, 8: 16, 16: 16, 32: 16}}",
        "warmup.stages=[[32, 2]]", "mapping.batch_size=8", "trainer.batch_size=4", "trainer.precision=32-true",
        "trainer.validation_limit=4", "trainer.validate_every=1", "trainer.max_steps=2"]  # fmt: skip


def resolved(settings: list[str]) -> Any:
    return resolve("stylegan2", None, settings)


def finish(run: Any, folder: Path, model: Path, on: bool) -> dict[str, Any]:
    """Stands for a stage's training: leaves the files that a finished one leaves."""
    model.mkdir(parents=True)
    for name in ("code_embedding.safetensors", "model.safetensors"):
        (model / name).write_bytes(b"")
    return {"stage": run.stage, "on": on}


def test_each_stage_starts_from_the_last_and_only_the_last_is_measured(tmp_path: Path) -> None:
    stages = read_stages(SHIPPED)
    assert [stage.name for stage in stages] == ["warmup", "mapping", "adversarial"]
    planned = plan(stages, resolved, tmp_path, tmp_path / "model", ["trainer.seed=5"])
    runs = [run for _, run, _, _ in planned]
    assert [run.start for run in runs] == ["", str(tmp_path / "warmup/model"), str(tmp_path / "mapping/model")]
    assert [bool(run.judge) for run in runs] == [False, False, True]
    assert {run.trainer.seed for run in runs} == {5}
    assert [model for *_, model in planned][-1] == tmp_path / "model"


def test_a_wrong_setting_is_found_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        plan([Stage("warmup"), Stage("mapping", ("mapping.speed=3",))], resolved, tmp_path, tmp_path / "model", [])
    with pytest.raises(InputError, match="adversarial"):
        read_stages(SHIPPED, ["adverserial"])


def test_resume_passes_over_what_is_finished(tmp_path: Path) -> None:
    planned = plan(read_stages(SHIPPED), resolved, tmp_path, tmp_path / "model", [])
    seen: list[tuple[str, bool]] = []

    def stop_in_mapping(run: Any, folder: Path, model: Path, on: bool) -> dict[str, Any]:
        seen.append((run.stage, on))
        if run.stage == "mapping" and not on:
            folder.mkdir(parents=True)
            (folder / "last.ckpt").write_bytes(b"")
            raise KeyboardInterrupt
        return finish(run, folder, model, on)

    with pytest.raises(KeyboardInterrupt):
        run_stages(planned, stop_in_mapping, resume=False)
    assert run_stages(planned, stop_in_mapping, resume=True) == {"stage": "adversarial", "on": False}
    assert seen == [("warmup", False), ("mapping", False), ("mapping", True), ("adversarial", False)]


@pytest.mark.slow
def test_three_tiny_stages_make_a_generator(tmp_path: Path, tiny_cache: Path) -> None:
    planned = plan(read_stages(SHIPPED), resolved, tmp_path, tmp_path / "model", TINY)
    run_stages(
        planned, lambda run, folder, model, on: run_family("stylegan2", run, folder, model, tiny_cache, on), False
    )
    made, begun = load_model(tmp_path / "model"), load_model(tmp_path / "warmup/model")
    assert isinstance(made, Generator) and isinstance(begun, Generator)
    assert made.config.size == 32
    assert not torch.equal(made.input.input, begun.input.input)
    first, second = (next(iter(one.style.parameters())) for one in (made, begun))
    assert not torch.equal(first, second)
