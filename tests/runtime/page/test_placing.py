"""A face's square over its photograph and back, against the cut itself."""

import math

import numpy as np
import pytest
from PIL import Image

from limner.runtime.faces.alignment import align_face, sampled_quad
from limner.runtime.faces.face import Framing
from limner.runtime.page.placing import LAID_SIDE, TAKEN_SIDE, Square

FACE = np.array([[-45.0, -25.0], [45.0, -25.0], [0.0, 0.0], [-20.0, 35.0], [20.0, 35.0]])


def smooth(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 41.0 + k) + np.cos(y / 37.0 - k) for k in range(3)]
    return np.rint(127.5 + 60 * np.stack(waves, axis=2)).astype(np.uint8)


def face_at(degrees: float, scale: float, centre: tuple[float, float]) -> tuple[tuple[float, ...], ...]:
    turn = math.radians(degrees)
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) * scale
    return tuple(map(tuple, FACE @ matrix.T + centre))


CASES = [(0, 1.0, (700, 500)), (25, 1.4, (640, 900)), (-70, 0.8, (500, 500)), (10, 3.0, (1800, 1500))]


@pytest.mark.parametrize(("degrees", "scale", "size"), CASES)
def test_laid_is_where_it_was_cut(degrees: float, scale: float, size: tuple[int, int]) -> None:
    width, height = size
    photo, points = smooth(width, height), face_at(degrees, scale, (width / 2, height / 2))
    framing = Framing(1.3, 0.1)
    cut = align_face(photo, points, 256, framing)
    quad = sampled_quad((width, height), points, 256, framing)
    corners = tuple((float(x), float(y)) for x, y in (quad + 0.5) / np.array(size))
    square = Square(corners, width, height)
    laid = np.asarray(square.laid(Image.fromarray(cut.image_u8).convert("RGBA")))
    assert max(laid.shape[:2]) == min(LAID_SIDE, max(size))
    small = np.asarray(Image.fromarray(photo).resize((laid.shape[1], laid.shape[0]), Image.Resampling.BOX), int)
    inside = laid[..., 3] > 0
    share = abs(float(np.linalg.det(np.stack([quad[3] - quad[0], quad[1] - quad[0]])))) / (width * height)
    assert inside.mean() == pytest.approx(min(share, 1.0), rel=0.25)
    assert np.abs(laid[..., :3].astype(int) - small)[inside].mean() < 4


def test_there_and_back() -> None:
    points = face_at(20, 1.2, (300.0, 260.0))
    quad = sampled_quad((640, 480), points, 128)
    square = Square(tuple((float(x), float(y)) for x, y in (quad + 0.5) / np.array([640, 480])), 640, 480)
    mask = np.zeros((128, 128, 4), np.uint8)
    mask[30:90, 20:100] = 255
    laid = np.asarray(square.laid(Image.fromarray(mask)))[..., 3] > 127
    back = square.taken(laid)
    wanted = np.repeat(np.repeat(mask[..., 3] > 0, 2, 0), 2, 1)
    assert back.shape == (TAKEN_SIDE, TAKEN_SIDE) and (back != wanted).mean() < 0.02
    assert not square.taken(~laid & (np.mgrid[:384, :512][1] < 0)).any()
