"""What a command line gives as text: bundles by name, limits, the usual places."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from limner.runtime.bundle.shipped import is_shipped, shipped_bundle
from limner.runtime.errors import InputError
from limner.runtime.schema import read_value
from limner.runtime.settings import Settings, typed
from limner.runtime.storage.caches import cache_folder

__all__ = ["named_bundle", "pairs", "settings_from_texts", "shipped_bundles", "usual_work"]

S = TypeVar("S", bound=Settings)


def named_bundle(given: str) -> tuple[str, Path]:
    """FOLDER, or NAME=FOLDER; the name is empty for the bundle's own."""
    name, sign, folder = given.partition("=")
    if not sign:
        return "", Path(given)
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise InputError("bundle", repr(given), "NAME=FOLDER with letters, numbers, '-', '_' and '.' in the name")
    return name, Path(folder)


def shipped_bundles() -> tuple[tuple[str, Path], ...]:
    """Both, as far as they are there."""
    return tuple(("", shipped_bundle(family)) for family in ("stylegan2", "diffusion") if is_shipped(family))


def usual_work() -> Path:
    """Where a server keeps uploads, jobs and results if nothing is said."""
    return cache_folder() / "server"


def pairs(given: Iterable[str], field: str) -> dict[str, str]:
    """NAME=VALUE, each name once."""
    found: dict[str, str] = {}
    for one in given:
        name, sign, value = one.partition("=")
        if not sign or name in found:
            raise InputError(field, repr(one), "NAME=VALUE, each name once")
        found[name] = value
    return found


def settings_from_texts(cls: type[S], texts: Mapping[str, str]) -> S:
    """Settings from the texts of their values; InputError naming what is wrong."""
    where = cls.where
    return typed(cls, {name: read_value(value, f"{where}.{name}") for name, value in texts.items()}, where)
