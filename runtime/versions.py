"""Versions of installed distributions."""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["package_version"]


def package_version(name: str) -> str | None:
    """Return the version of an installed distribution without importing it, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
