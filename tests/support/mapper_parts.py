"""Tiny checkpoints, latents and a run for the tests of mapper trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from limner.training.config import to_plain
from limner.training.families.mapper.run import Run, with_prompts
from limner.training.models.judge import Judge, JudgeConfig
from limner.training.models.store import save_model
from limner.training.running import resolve
from support.tiny import GENERATOR, SIZE, write_tiny_checkpoints

NUM_WS, W_DIM = GENERATOR.num_ws, GENERATOR.w_dim
JUDGE = JudgeConfig((("facial_hair", ("none", "beard")), ("eyewear", ("none", "glasses"))), SIZE, 2, (16, 16), (1,), 8)
PROMPTS = ("beard=a person with a beard", "glasses=a person with glasses")


@pytest.fixture(scope="session")
def mapper_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny checkpoints with a judge, and latents.npy of 24 latents; read-only by agreement."""
    import numpy as np

    folder = write_tiny_checkpoints(tmp_path_factory.mktemp("mapper") / "tiny")
    torch.manual_seed(3)
    save_model(folder / "judge", "judge", to_plain(JUDGE), Judge(JUDGE).state_dict())
    np.save(folder / "latents.npy", torch.randn(24, NUM_WS, W_DIM).numpy())
    return folder


def settings(folder: Path, *more: str) -> list[str]:
    """`--set` values of a run of seconds."""
    parts = {"generator": "stylegan2", "clip": "clip", "identity": "identity", "judge": "judge"}
    return [
        *(f"{key}={folder / name}" for key, name in parts.items()),
        f"latents={{source: file, path: {folder / 'latents.npy'}, held_out: 8}}",
        "optimizer={name: ranger, learning_rate: 0.5}",
        "training={clip: 1.0, identity: 0.1, latent: 0.8}",
        "trainer={max_steps: 6, batch_size: 4, precision: 32-true, average_decay: 0.9, gradient_clip: 0.0, "
        "validate_every: 2, validation_limit: 8, checkpoint_every: 3, log_every: 1, accelerator: cpu}",
        *more,
    ]


def tiny_run(folder: Path, *more: str, prompts: tuple[str, ...] = PROMPTS) -> Run:
    """A run over the tiny checkpoints."""
    run: Any = resolve("mapper", overrides=settings(folder, *more))
    return with_prompts(run, prompts)
