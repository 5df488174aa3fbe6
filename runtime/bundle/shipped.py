"""Where the files that ship with Limner lie: the package `limner.checkpoints`, data only."""

from importlib.resources import files
from pathlib import Path

__all__ = ["BUNDLES", "checkpoints_folder", "demo_file", "is_shipped", "shipped_bundle"]

FAMILY, MANIFEST = "avatars", "bundle.json"
BUNDLES = {"stylegan2": "bundle", "diffusion": "diffusion"}  # the second lies among its model's own weights


def checkpoints_folder() -> Path:
    """Return the folder of the package limner.checkpoints."""
    return Path(str(files("limner.checkpoints")))


def shipped_bundle(family: str = "stylegan2") -> Path:
    """Return the folder of the bundle of that family that is used when none is named; it need not exist."""
    return checkpoints_folder() / FAMILY / BUNDLES[family]


def is_shipped(family: str) -> bool:
    """Whether there is a bundle of that family."""
    return (shipped_bundle(family) / MANIFEST).is_file()


def demo_file() -> Path:
    """Return the list of edits that `limner demo` shows; it need not exist."""
    return checkpoints_folder() / FAMILY / "demo.json"
