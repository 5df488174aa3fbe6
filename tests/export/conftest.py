"""Fixtures of the export tests."""

import pytest
import torch
from support.tiny import tiny_bundle, tiny_checkpoints

__all__ = ["tiny_bundle", "tiny_checkpoints"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
