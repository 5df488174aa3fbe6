"""Where the files that ship with Limner lie: the package `limner.checkpoints`, data only."""

from importlib.resources import files
from pathlib import Path

__all__ = ["BUNDLES", "checkpoints_folder", "demo_file", "shipped_bundle"]

FAMILY = "avatars"
BUNDLES = {"stylegan2": "bundle", "diffusion": "diffusion_bundle"}


def checkpoints_folder() -> Path:
    """Return the folder of the package limner.checkpoints."""
    return Path(str(files("limner.checkpoints")))


def shipped_bundle(family: str = "stylegan2") -> Path:
    """Return the folder of the bundle of that family that is used when none is named; it need not exist."""
    return checkpoints_folder() / FAMILY / BUNDLES[family]


def demo_file() -> Path:
    """Return the list of edits that `limner demo` shows; it need not exist."""
    return checkpoints_folder() / FAMILY / "demo.json"
