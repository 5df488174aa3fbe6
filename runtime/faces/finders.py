"""Landmarks from other packages: a finder is one function and one entry point in `limner.landmark_finders`.

    [project.entry-points."limner.landmark_finders"]
    insightface = "my_package.faces:find"

The function takes a picture uint8 [H,W,3], RGB, as it is displayed, and returns one array of points a face, [68,2] or
[5,2] (their order: `landmarks`); no face gives an empty list. With dlib's model of 68 points:

    detect = dlib.get_frontal_face_detector()
    predict = dlib.shape_predictor("shape_predictor_68_face_landmarks.dat")

    def find(image_u8):
        shapes = (predict(image_u8, box) for box in detect(image_u8, 1))
        return [np.array([(point.x, point.y) for point in shape.parts()]) for shape in shapes]

Finders are chosen by name among those that are installed. None comes with Limner: the usual models have terms of
their own. A recipe carries the points that were found, so that a replay needs no finder.
"""

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from limner.runtime.errors import InputError, LimnerError, nearest
from limner.runtime.faces.landmarks import Points, check_landmarks
from limner.runtime.pictures.images import read_photo

__all__ = ["LandmarkFinder", "faces_in", "find_landmarks", "finder_names", "load_finder"]

GROUP = "limner.landmark_finders"


class LandmarkFinder(Protocol):
    """Finds faces in a picture uint8 [H,W,3] RGB: [68,2] or [5,2] points x, y a face."""

    def __call__(self, image_u8: NDArray[np.uint8], /) -> Sequence[ArrayLike]: ...


def finder_names() -> tuple[str, ...]:
    """Return the names of the finders that are installed, sorted, without importing them."""
    return tuple(sorted(_entries()))


def load_finder(name: str, field: str = "landmark-finder") -> LandmarkFinder:
    """Return the finder of that name; InputError lists the known ones and the nearest."""
    entries = _entries()
    if name not in entries:
        known = ", ".join(sorted(entries)) or "none, since no package that brings one is installed"
        hint = nearest(name, entries) or "give --landmarks FILE, or install a package that finds them"
        raise InputError(field, repr(name), known, hint)
    value = entries[name].value
    try:
        finder: Any = entries[name].load()
    except (ImportError, AttributeError) as reason:
        raise LimnerError(f"the landmark finder {name!r} does not load from {value!r}: {reason}") from reason
    if not callable(finder):
        raise LimnerError(f"the landmark finder {name!r} at {value!r} is not a function")
    found: LandmarkFinder = finder
    return found


def find_landmarks(name: str, image_u8: NDArray[np.uint8]) -> list[Points]:
    """Return the faces that the finder of that name finds; LimnerError if it fails or returns other things."""
    finder = load_finder(name)
    try:
        faces = [np.asarray(face, dtype=np.float64).tolist() for face in finder(image_u8)]
        return [check_landmarks(face, "landmarks") for face in faces]
    except InputError as reason:
        raise LimnerError(f"the landmark finder {name!r} gave points that are no face: {reason}") from reason
    except Exception as reason:  # code of another package
        raise LimnerError(f"the landmark finder {name!r} failed: {type(reason).__name__}: {reason}") from reason


def faces_in(name: str, path: str | Path, field: str = "landmark-finder", hint: str = "") -> list[Points]:
    """Return the faces that the finder of that name finds in a picture file; InputError naming `field` for none."""
    load_finder(name, field)
    faces = find_landmarks(name, read_photo(path, "source").on_white())
    if not faces:
        raise InputError(field, f"{Path(path).name!r}, in which {name!r} finds no face", "a picture of a face", hint)
    return faces


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
