"""Fixtures of the importers' tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.importing import Import

from limner.training.importers.registry import Report, import_file
from limner.training.importers.states import Options


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def bring(tmp_path: Path) -> Import:
    """A function that imports a file into the set `tmp_path`/set."""

    def run(path: Path, family: str = "", **options: Any) -> Report:
        extra = {name: options.pop(name) for name in ("licence", "replace_old", "dry_run") if name in options}
        return import_file(path, Options(tmp_path / "set", **options), family, **extra)

    return run
