"""Landmarks: the points of a face, checked, and read from a JSON file.

A face is a list of 68 or 5 points `[x, y]`:

    68   the contour points of dlib and FFHQ (iBUG 300-W): chin 0-16, brows 17-26, nose 27-35, eyes 36-47, mouth 48-67
     5   left eye, right eye, nose, left corner of the mouth, right corner, as MTCNN, RetinaFace and InsightFace give

Left and right are those of the picture when the face is upright. A file holds one face, or several:
`{"faces": [[[x, y], ...], ...]}`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.errors import InputError
from limner.runtime.schema import read_json

__all__ = ["KeyPoints", "Points", "check_landmarks", "choose_face", "key_points", "read_landmarks", "shown_point"]

Points = tuple[tuple[float, ...], ...]  # pairs

COUNTS = (68, 5)
ALLOWED = "68 or 5 points [x, y] of a face"
MAX_COORDINATE = 1e6
MAX_BYTES = 1_000_000
MAX_FACES = 256
MIN_RATIO = 0.02  # between the distances of the eyes and of eyes and mouth: below, points have fallen together
MIN_SINE = 0.1  # of the angle between the two


@dataclass(frozen=True, eq=False)
class KeyPoints:
    """What the crop is made from, float64 [2] each. Of 68 points, an eye is the mean of its six."""

    eye_left: NDArray[np.float64]
    eye_right: NDArray[np.float64]
    mouth_left: NDArray[np.float64]
    mouth_right: NDArray[np.float64]

    @property
    def eyes(self) -> NDArray[np.float64]:
        return (self.eye_left + self.eye_right) * 0.5

    @property
    def eye_to_eye(self) -> NDArray[np.float64]:
        return self.eye_right - self.eye_left

    @property
    def eye_to_mouth(self) -> NDArray[np.float64]:
        return (self.mouth_left + self.mouth_right) * 0.5 - self.eyes


def key_points(landmarks: Sequence[Sequence[float]]) -> KeyPoints:
    """Return eyes and corners of the mouth of 68 or 5 points. The nose of the five is not needed."""
    points = np.asarray(landmarks, dtype=np.float64)  # [68,2] or [5,2]
    if len(points) == 5:
        return KeyPoints(points[0], points[1], points[3], points[4])
    return KeyPoints(points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[48], points[54])


def check_landmarks(points: object, field: str = "landmarks") -> Points:
    """Return the points as pairs of floats; InputError unless they are 68 or 5 that can belong to a face."""
    if not isinstance(points, Sequence) or isinstance(points, (str, bytes)):
        raise InputError(field, type(points).__name__, ALLOWED)
    if len(points) not in COUNTS:
        raise InputError(field, f"{len(points)} points", ALLOWED)
    checked = tuple(_point(point, number, field) for number, point in enumerate(points))
    found = key_points(checked)
    across, down = found.eye_to_eye, found.eye_to_mouth
    width, height = math.hypot(*across), math.hypot(*down)
    if width <= MIN_RATIO * height or width == 0:
        raise InputError(field, f"both eyes at {shown_point(found.eye_left)}", "two eyes apart from each other")
    if height <= MIN_RATIO * width:
        raise InputError(field, f"the mouth between the eyes at {shown_point(found.eyes)}", "a mouth below the eyes")
    sine = float(across[0] * down[1] - across[1] * down[0]) / (width * height)
    if abs(sine) < MIN_SINE:
        raise InputError(field, "eyes and mouth in one line", "a mouth below the eyes")
    if sine < 0:
        given = f"left eye {shown_point(found.eye_left)}, right eye {shown_point(found.eye_right)}, a face mirrored"
        raise InputError(field, given, "left and right as in the picture when the face is upright")
    return checked


def read_landmarks(path: str | Path, field: str = "landmarks") -> list[Points]:
    """Read the faces of a JSON file, one or more; InputError naming `field`."""
    return _faces(read_json(Path(path), field, limit=MAX_BYTES), field)


def choose_face(faces: Sequence[Points], index: int | None, field: str = "face") -> Points:
    """Return the face of that index, counted from 0, or the only one; InputError says where the faces are."""
    if not faces:
        raise InputError(field, "a picture without a face", "one face or more")
    last = len(faces) - 1
    if index is None and last == 0:
        return faces[0]
    places = ", ".join(f"{n} at {shown_point(key_points(face).eyes)}" for n, face in enumerate(faces[:8]))
    if index is None:
        given = f"{len(faces)} faces, {places}{', ...' if last > 7 else ''}"
        raise InputError(field, given, f"the index of one of them, --face 0 to {last}")
    if not 0 <= index <= last:
        raise InputError(field, str(index), f"0 to {last}" if last else "0, since there is one face")
    return faces[index]


def shown_point(point: NDArray[np.float64]) -> str:
    return f"({point[0]:.6g}, {point[1]:.6g})"


def _faces(data: Any, field: str) -> list[Points]:
    if isinstance(data, list):
        return [check_landmarks(data, field)]
    if not isinstance(data, dict) or set(data) != {"faces"} or not isinstance(data["faces"], list):
        raise InputError(field, "other JSON", 'a list of points, or {"faces": [...]} with one such list a face')
    if not 1 <= len(data["faces"]) <= MAX_FACES:
        raise InputError(field, f"{len(data['faces'])} faces", f"1 to {MAX_FACES} faces")
    return [check_landmarks(face, f"{field}.faces[{number}]") for number, face in enumerate(data["faces"])]


def _point(point: object, number: int, field: str) -> tuple[float, float]:
    where = f"{field}[{number}]"
    if not isinstance(point, Sequence) or isinstance(point, (str, bytes)) or len(point) != 2:
        raise InputError(where, repr(point)[:60], "a point [x, y]")
    x, y = (_coordinate(value, where) for value in point)
    return x, y


def _coordinate(value: object, where: str) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not abs(value) <= MAX_COORDINATE:  # type: ignore[arg-type]  # NaN is not
        raise InputError(where, repr(value)[:60], "finite numbers of pixels")
    return float(value)  # type: ignore[arg-type]
