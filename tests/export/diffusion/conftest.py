"""One exported bundle for all tests of this folder."""

from pathlib import Path

import pytest
from support.tiny_diffusion import write_folder

from limner.export.diffusion.writer import DiffusionExport, export_folder
from limner.runtime.bundle.loading import Bundle


@pytest.fixture(scope="session")
def sd1_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the shape of Stable Diffusion 1.x; read-only by agreement."""
    return write_folder(tmp_path_factory.mktemp("folders") / "sd1", words=True)


@pytest.fixture(scope="session")
def sd1_bundle(sd1_folder: Path) -> Bundle:
    """The bundle exported from it; read-only by agreement."""
    out = sd1_folder.with_name("sd1_bundle")
    return export_folder(sd1_folder, out, DiffusionExport(name="sd1"), say=lambda line: None)
