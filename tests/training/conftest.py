"""A tiny cache of rendered avatars, shared by the tests of trainings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from limner.training.avatars.dataset import AvatarsConfig, build_all

TINY = AvatarsConfig(size=32, train=24, validation=8, test=8)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache folder of TINY, rendered once."""
    cache = tmp_path_factory.mktemp("avatars")
    build_all(TINY, cache)
    return cache


@pytest.fixture
def tiny_data() -> dict[str, object]:
    """TINY as the `data` part of a run's YAML."""
    return {"size": 32, "train": 24, "validation": 8, "test": 8}
