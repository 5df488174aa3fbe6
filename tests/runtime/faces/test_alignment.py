"""The FFHQ crop against the published formulas in float64."""

import numpy as np
import pytest
import scipy.ndimage
from support.ffhq_twin import five_at, sixty_eight, some_picture, twin_align, twin_quad

from limner.runtime.errors import InputError
from limner.runtime.faces.alignment import align_face, face_quad, sampled_quad
from limner.runtime.faces.face import Framing
from limner.runtime.faces.landmarks import check_landmarks
from limner.runtime.faces.padding import gaussian_blur

# Of 255 levels. Rounding to whole ones gives 0.5 and 0.25 at the end; on the way, values between two levels may
# fall to the other one, since Pillow's weights have 22 bits and the padding is float32.
LARGEST, MEAN = 1.5, 0.3


@pytest.mark.parametrize("degrees", [0, 17, -40, 135])
def test_the_square_is_that_of_the_formulas(degrees: float) -> None:
    five = five_at((400, 300), 60, degrees)
    for points in (five, sixty_eight(five)):
        quad = face_quad(check_landmarks(points.tolist()))
        assert np.abs(quad - twin_quad(points)).max() < 1e-9


@pytest.mark.parametrize(
    ("centre", "width", "degrees", "size"),
    [
        ((120, 85), 20, 0, 64),  # the face has fewer pixels than the result
        ((120, 85), 24, 25, 48),
        ((121, 84), 34, -30, 16),  # shrunk four times
        ((120, 90), 36, 8, 20),  # shrunk three times, with rounded sizes
        ((30, 40), 24, 10, 32),  # padded left and above
        ((217, 138), 26, -15, 32),  # padded right and below
        ((120, 55), 80, 3, 32),  # larger than the picture: padded all around, shrunk
    ],
)
def test_the_crop_is_that_of_the_formulas(centre: tuple[float, float], width: float, degrees: float, size: int) -> None:
    picture, points = some_picture(), five_at(centre, width, degrees)
    face = align_face(picture, check_landmarks(points.tolist()), size)
    error = np.abs(face.image_u8 - twin_align(picture.astype(np.float64), points, size))
    assert face.image_u8.shape == (size, size, 3)
    assert error.max() <= LARGEST
    assert error.mean() <= MEAN


def test_five_points_cut_what_68_cut() -> None:
    picture, five = some_picture(), five_at((120, 90), 30, 12)
    few, many = (align_face(picture, check_landmarks(points.tolist()), 32) for points in (five, sixty_eight(five)))
    assert np.array_equal(few.image_u8, many.image_u8)


def test_a_turned_picture_gives_the_same_face() -> None:
    """A quarter turn moves pixels and makes none, so the crop differs by rounding alone."""
    picture, points = some_picture(), five_at((120, 85), 24, 12)
    turned = np.rot90(picture, -1)  # clockwise: (x, y) -> (H - 1 - y, x)
    moved = np.stack([picture.shape[0] - 1 - points[:, 1], points[:, 0]], axis=1)
    pairs = ((picture, points), (turned, moved))
    one, other = (align_face(picture, check_landmarks(points.tolist()), 48) for picture, points in pairs)
    assert np.abs(one.image_u8.astype(int) - other.image_u8).max() <= 2


@pytest.mark.parametrize(("width", "size"), [(24, 48), (36, 16), (33, 20)])
def test_the_quad_says_where_the_samples_were(width: float, size: int) -> None:
    """On ramps of x and of y the crop's levels are positions; a shift of a tenth of a pixel would show."""
    height, length = 173, 247  # no multiples of what they are shrunk by
    y, x = np.mgrid[:height, :length]
    picture = np.stack([x * 255.0 / length, y * 255.0 / height, 0 * x], axis=2).round().astype(np.uint8)
    face = align_face(picture, check_landmarks(five_at((120, 80), width, 20).tolist()), size)
    u = (np.arange(size) + 0.5) / size
    across, down = face.quad[3] - face.quad[0], face.quad[1] - face.quad[0]
    where = face.quad[0] + u[None, :, None] * across + u[:, None, None] * down  # [v,u,2]
    for axis, scale in ((0, length / 255.0), (1, height / 255.0)):
        levels = face.image_u8[:, :, axis] + 0.5  # what Pillow's bilinear sampling cuts off on average
        away = levels * scale - where[:, :, axis]
        assert abs(away[2:-2, 2:-2].mean()) < 0.1
        assert np.abs(away[2:-2, 2:-2]).max() < 2.0


def test_framing_scales_and_shifts_along_the_face() -> None:
    points = check_landmarks(five_at((120, 80), 20, 30).tolist())
    usual, framed = face_quad(points), face_quad(points, Framing(1.5, 0.2))
    down = usual[1] - usual[0]
    assert np.allclose(framed.mean(axis=0), usual.mean(axis=0) + 0.2 * down)
    assert np.allclose(framed[1] - framed[0], 1.5 * down)
    assert np.array_equal(sampled_quad((240, 180), points, 64, Framing(1.5, 0.2)), framed)


@pytest.mark.parametrize("sigma", [0.1, 0.4, 1.7, 9.3])
def test_the_blur_is_that_of_scipy(sigma: float) -> None:
    plane = np.random.RandomState(0).uniform(0, 255, (37, 300)).astype(np.float32)
    expected = scipy.ndimage.gaussian_filter(plane.astype(np.float64), sigma)
    assert np.abs(gaussian_blur(plane, sigma) - expected).max() < 1e-4  # of 255, in float32


@pytest.mark.parametrize(
    ("points", "size", "word"),
    [
        (five_at((1000, 85), 24), 32, "outside the picture"),
        (five_at((-2, 85), 24), 32, "eye_left"),
        (five_at((120, 178), 24), 32, "mouth_left"),
        (five_at((120, 85), 3), 32, "12.2 pixels"),
        (five_at((120, 85), 24), 8, "size"),
        (five_at((120, 85), 24), 4096, "size"),
    ],
)
def test_refuses_what_is_no_face_in_the_picture(points: np.ndarray, size: int, word: str) -> None:
    with pytest.raises(InputError, match=word):
        align_face(some_picture(), check_landmarks(points.tolist()), size)


def test_refuses_a_face_all_over_a_strip() -> None:
    points = check_landmarks([[100, 4], [500, 4], [300, 8], [110, 15], [490, 15]])
    with pytest.raises(InputError, match="times the picture's shorter side"):
        align_face(some_picture(600, 20), points, 32)


def test_a_chin_outside_the_picture_is_allowed() -> None:
    points = sixty_eight(five_at((120, 110), 24))
    points[8] = (120, 400)
    assert align_face(some_picture(), check_landmarks(points.tolist()), 32).image_u8.shape == (32, 32, 3)
