"""Finders of landmarks, as a package would bring them."""

from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest

from limner.runtime.faces import finders
from support.ffhq_twin import five_at, sixty_eight

FIVE = five_at((120, 85), 24).tolist()
SIXTY_EIGHT = sixty_eight(five_at((40, 30), 12)).tolist()


def find_two(image_u8: np.ndarray) -> list[Any]:
    assert image_u8.dtype == np.uint8 and image_u8.shape[2] == 3
    return [np.array(FIVE, dtype=np.float32), SIXTY_EIGHT]


def find_nonsense(image_u8: np.ndarray) -> list[Any]:
    return [np.zeros((5, 2))]


def fail(image_u8: np.ndarray) -> list[Any]:
    raise RuntimeError("no model")


number = 7


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finders of this file, as a package would bring them."""
    names = {"two": "find_two", "nonsense": "find_nonsense", "fails": "fail", "number": "number", "gone": "none"}
    entries = {n: EntryPoint(n, f"{__name__}:{attribute}", finders.GROUP) for n, attribute in names.items()}
    monkeypatch.setattr(finders, "_entries", lambda: entries)
