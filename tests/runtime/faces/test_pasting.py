"""The way back: what is touched, what keeps its bits, and that the edit lands where it was cut out."""

from typing import Any

import numpy as np
import pytest
from support.ffhq_twin import five_at, some_picture

from limner.runtime.errors import InputError
from limner.runtime.faces.alignment import AlignedFace, align_face
from limner.runtime.faces.landmarks import check_landmarks
from limner.runtime.faces.pasting import change_mask, paste_face

PLACES = [  # centre, width, degrees, size of the square
    ((120, 85), 24, 0, 128),
    ((120, 85), 24, 30, 48),
    ((117, 80), 36, -20, 24),
    ((25, 40), 24, 12, 64),  # over the border
]


def cut(picture: np.ndarray, place: tuple[Any, ...]) -> AlignedFace:
    centre, width, degrees, size = place
    return align_face(picture, check_landmarks(five_at(centre, width, degrees).tolist()), size)


def positions(face: AlignedFace, picture: np.ndarray) -> np.ndarray:
    """Where each pixel of the picture lies in the square, [H,W,2] in parts of its sides."""
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]].astype(np.float64)
    sides = np.stack([face.quad[3] - face.quad[0], face.quad[1] - face.quad[0]], axis=1)
    return (np.stack([x, y], axis=2) - face.quad[0]) @ np.linalg.inv(sides).T


@pytest.mark.parametrize("mode", ["replace", "difference"])
@pytest.mark.parametrize("place", PLACES)
def test_nothing_changed_gives_the_picture_back(place: tuple[Any, ...], mode: str) -> None:
    picture = some_picture()
    face = cut(picture, place)
    pasted = paste_face(picture, face.quad, face.image_u8, face.image_u8, face.image_u8, mode)  # type: ignore[arg-type]
    assert np.array_equal(pasted, picture)


@pytest.mark.parametrize("place", PLACES[:2])
def test_the_whole_square_put_back_is_the_picture(place: tuple[Any, ...]) -> None:
    """Cut and put over the picture, with nothing changed; the square has as many pixels as the picture, or more."""
    picture = smooth_picture()
    face = cut(picture, place)
    square = face.image_u8
    pasted = paste_face(picture, face.quad, square, square, square, "replace", threshold=0)
    error = pasted.astype(int) - picture
    inside = ((positions(face, picture) > 0.1) & (positions(face, picture) < 0.9)).all(axis=2)
    assert (error[inside] != 0).any()  # the square was put there
    assert abs(error[inside].mean() + 0.5) < 0.2  # half a level is what Pillow's bilinear sampling cuts off
    assert np.abs(error).max() <= 4


@pytest.mark.parametrize("mode", ["replace", "difference"])
@pytest.mark.parametrize("place", PLACES)
def test_a_change_lands_where_it_belongs(place: tuple[Any, ...], mode: str) -> None:
    """A ramp across the square is added to the reconstruction; the picture gets it at the right pixels."""
    picture = np.full((180, 240, 3), 60, np.uint8)
    face = cut(picture, place)
    size = len(face.image_u8)
    ramp = np.rint(40 + 100 * (np.arange(size) + 0.5) / size).astype(np.uint8)
    after = face.image_u8.copy()
    after[:, :, 0] += ramp[None, :]
    after[:, :, 1] += ramp[:, None]
    pasted = paste_face(picture, face.quad, face.image_u8, face.image_u8, after, mode)  # type: ignore[arg-type]
    where = positions(face, picture)
    inside = ((where > 0.12) & (where < 0.88)).all(axis=2)
    for axis in (0, 1):
        error = pasted[inside][:, axis].astype(float) - 60 - (40 + 100 * where[inside][:, axis])
        assert np.abs(error).max() < 1.5  # levels; rounded twice
        assert abs(error.mean()) < 0.1  # a shift of a pixel of the square would be 100 / size
    assert np.array_equal(pasted[:, :, 2], picture[:, :, 2])
    outside = ((where < 0) | (where > 1)).any(axis=2)
    assert np.array_equal(pasted[outside], picture[outside])


@pytest.mark.parametrize("mode", ["replace", "difference"])
def test_pixels_away_from_a_change_keep_their_bits(mode: str) -> None:
    picture = some_picture()
    face = cut(picture, ((120, 85), 30, 20, 64))
    before = np.clip(face.image_u8.astype(int) + 9, 0, 255).astype(np.uint8)  # a reconstruction in other tones
    after = before.copy()
    after[30:40, 20:30] = 255 - before[30:40, 20:30]
    pasted = paste_face(picture, face.quad, face.image_u8, before, after, mode)  # type: ignore[arg-type]
    where = positions(face, picture) * 64  # x, y in the square
    reach = 64 * 0.06 * 2.5  # grown by half of the feather, and four sigma of a quarter
    far = (where[..., 0] < 20 - reach) | (where[..., 0] > 30 + reach)
    far |= (where[..., 1] < 30 - reach) | (where[..., 1] > 40 + reach)
    assert np.array_equal(pasted[far], picture[far])
    near = (np.abs(where - (25, 35)) < 4).all(axis=2)
    assert (np.abs(pasted[near].astype(int) - picture[near]).max(axis=1) > 20).mean() > 0.9


def test_replace_brings_the_picture_its_tones() -> None:
    """The reconstruction is darker by a tint everywhere; what is pasted is not."""
    picture = smooth_picture()
    face = cut(picture, ((120, 85), 24, 10, 64))
    before = (face.image_u8.astype(int) - (20, 10, 0)).clip(0, 255).astype(np.uint8)
    after = before.copy()
    after[20:44, 20:44, 2] ^= 64
    pasted = paste_face(picture, face.quad, face.image_u8, before, after, "replace")
    where = positions(face, picture)
    inside = ((where > 0.35) & (where < 0.65)).all(axis=2)
    assert np.abs(pasted[inside][:, :2].astype(int) - picture[inside][:, :2]).max() <= 4


def test_difference_keeps_the_detail_of_the_picture() -> None:
    """A change of one level everywhere: the picture's noise, which no reconstruction has, stays."""
    picture = some_picture().clip(0, 200)
    face = cut(picture, ((120, 85), 24, 0, 32))
    before = np.full_like(face.image_u8, 100)
    pasted = paste_face(picture, face.quad, face.image_u8, before, before + 40, "difference")
    where = positions(face, picture)
    inside = ((where > 0.1) & (where < 0.9)).all(axis=2)
    assert np.array_equal(pasted[inside], picture[inside] + 40)


def test_the_mask_is_soft_and_ends_at_the_border() -> None:
    before = np.zeros((64, 64, 3), np.uint8)
    after = before.copy()
    after[20:40, 0:30] = (0, 90, 0)
    mask = change_mask(before, after, 0.1, 0.1)
    assert mask.dtype == np.float32 and mask.shape == (64, 64)
    assert mask[30, 15] > 0.99
    assert mask[:, 0].max() == 0  # on the square's border
    assert mask[5, 15] == 0 and mask[30, 50] == 0
    assert np.abs(np.diff(mask, axis=0)).max() < 0.35
    whole = change_mask(before, before, 0.0, 0.1)
    assert whole[32, 32] == 1 and whole[0].max() == 0 and (np.diff(whole[:32, 32]) >= 0).all()
    assert not change_mask(before, before + 25, 0.1, 0.1).any()  # 25 of 255 is below a tenth
    assert change_mask(before, before + 26, 0.1, 0.1)[32, 32] == 1


def test_refuses_squares_that_differ() -> None:
    picture = some_picture()
    face = cut(picture, PLACES[0])
    with pytest.raises(InputError, match="three squares"):
        paste_face(picture, face.quad, face.image_u8, face.image_u8, face.image_u8[:64, :64])


def smooth_picture() -> np.ndarray:
    y, x = np.mgrid[:180, :240]
    waves = [np.sin(x / 13) + np.cos(y / 11), np.sin((x + y) / 17), np.cos((x - y) / 15)]
    return np.rint(128 + 45 * np.stack(waves, axis=2)).astype(np.uint8)
