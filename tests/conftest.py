"""Fixtures that several folders of tests share: the repository, the command line, toy bundle and picture."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

# One thread: the networks of the tests are tiny, and threads that wait for each other are slower than none.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(
    "LIMNER_PREPARED", "no"
)  # graphs are loaded as they are stored, but in the tests of the other way

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Ran:
    """What one run of the command line gave."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture
def limner(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """A function that runs `limner ARGUMENTS` in this process."""
    from limner.runtime.cli import main

    def run(*arguments: object) -> Ran:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete bundle of toy networks; read-only by agreement, copy it before altering it."""
    from support.toy_bundle import build_toy_bundle

    bundle, _ = build_toy_bundle(tmp_path_factory.mktemp("toy-cli") / "bundle")
    return bundle.root


@pytest.fixture
def portrait(tmp_path: Path) -> Path:
    """A picture file, 40 x 30 pixels of soft noise."""
    from PIL import Image

    levels = np.random.RandomState(0).randint(0, 256, (6, 8, 3)).astype(np.uint8)
    path = tmp_path / "portrait.png"
    Image.fromarray(levels).resize((40, 30)).save(path)
    return path
