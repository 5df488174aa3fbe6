"""Landmarks: what is a face, which face, and files of them; finders of other packages."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.ffhq_twin import five_at, some_picture
from support.landmark_finders import FIVE, SIXTY_EIGHT, installed  # noqa: F401 - a fixture

from limner.runtime.errors import InputError, LimnerError
from limner.runtime.faces import finders
from limner.runtime.faces.face import Face, Framing
from limner.runtime.faces.landmarks import check_landmarks, choose_face, key_points, read_landmarks


def changed(index: int, point: object) -> list[Any]:
    return [*FIVE[:index], point, *FIVE[index + 1 :]]


def test_key_points_of_68_are_means_and_corners() -> None:
    found = key_points(SIXTY_EIGHT)
    expected = five_at((40, 30), 12)
    for name, row in (("eye_left", 0), ("eye_right", 1), ("mouth_left", 3), ("mouth_right", 4)):
        assert np.allclose(getattr(found, name), expected[row])


@pytest.mark.parametrize(
    ("points", "word"),
    [
        (FIVE[:4], "4 points"),
        ([*SIXTY_EIGHT, [1, 2]], "69 points"),
        ([], "0 points"),
        ("five", "str"),
        (changed(2, [1, 2, 3]), "a point [x, y]"),
        (changed(2, "ab"), "a point [x, y]"),
        (changed(2, ["1", "2"]), "finite numbers"),
        (changed(2, [True, 1]), "finite numbers"),
        (changed(0, [math.nan, 60]), "finite numbers"),
        (changed(0, [math.inf, 60]), "finite numbers"),
        (changed(0, [1e9, 60]), "finite numbers"),
        (changed(0, FIVE[1]), "both eyes at (132, 85.6)"),
        ([[5, 5]] * 5, "both eyes at (5, 5)"),
        ([FIVE[0], FIVE[1], FIVE[2], FIVE[0], FIVE[1]], "the mouth between the eyes"),
        ([[10, 10], [30, 10], [20, 10], [60, 10], [70, 10]], "in one line"),
        ([FIVE[1], FIVE[0], FIVE[2], FIVE[4], FIVE[3]], "mirrored"),
    ],
)
def test_refuses_what_is_no_face(points: Any, word: str) -> None:
    for make in (check_landmarks, Face):
        with pytest.raises(InputError) as caught:
            make(points)
        assert word in str(caught.value)


def test_a_face_checks_how_it_goes_back() -> None:
    for wrong in ({"paste": "replaced"}, {"threshold": 1.5}, {"threshold": math.nan}, {"feather": 0.0}):
        with pytest.raises(InputError, match="paste"):
            Face(FIVE, **wrong)
    for square in ({"scale": 0.1}, {"shift": 2.0}, {"scale": "1"}):
        with pytest.raises(InputError, match="framing"):
            Framing(**square)


def write(path: Path, data: object) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_reads_one_face_and_several(tmp_path: Path) -> None:
    assert read_landmarks(write(tmp_path / "one.json", FIVE)) == [check_landmarks(FIVE)]
    several = read_landmarks(write(tmp_path / "two.json", {"faces": [FIVE, SIXTY_EIGHT]}))
    assert several == [check_landmarks(FIVE), check_landmarks(SIXTY_EIGHT)]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ({"faces": []}, "0 faces"),
        ({"faces": [FIVE] * 257}, "257 faces"),
        ({"faces": [FIVE, FIVE[:3]]}, "landmarks.faces[1]: got 3 points"),
        ({"faces": FIVE}, "2 points"),
        ({"landmarks": FIVE}, "other JSON"),
        (7, "other JSON"),
        ("[[NaN, 1]", "NaN"),
        ("[[1e999, 1]]", "the number 1e999"),
        ("[" * 100_000, "landmarks"),
        ("", "not JSON"),
        ("[" + "1," * 600_000 + "1]", "1.2 MB"),
    ],
)
def test_refuses_other_files(tmp_path: Path, data: object, word: str) -> None:
    with pytest.raises(InputError) as caught:
        read_landmarks(write(tmp_path / "face.json", data))
    assert word in str(caught.value)


def test_refuses_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.json", tmp_path):
        with pytest.raises(InputError, match="landmarks"):
            read_landmarks(path)


def test_one_of_several_faces_is_named() -> None:
    faces = [check_landmarks(FIVE), check_landmarks(SIXTY_EIGHT)]
    assert choose_face(faces[:1], None) == faces[0]
    assert choose_face(faces, 1) == faces[1]
    with pytest.raises(InputError) as caught:
        choose_face(faces, None)
    assert "2 faces, 0 at (120, 85), 1 at (40, 30)" in str(caught.value)
    for index in (2, -1):
        with pytest.raises(InputError, match="0 to 1"):
            choose_face(faces, index)
    with pytest.raises(InputError, match="without a face"):
        choose_face([], None)


# --- finders ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("installed")
def test_a_finder_is_an_entry_point() -> None:
    found = finders.find_landmarks("two", some_picture())
    assert np.allclose(found[0], FIVE)
    assert len(found[1]) == 68
    assert finders.finder_names() == ("fails", "gone", "nonsense", "number", "two")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "word"),
    [("nonsense", "both eyes"), ("fails", "no model"), ("number", "not a function"), ("gone", "does not load")],
)
def test_a_broken_finder_is_named(name: str, word: str) -> None:
    with pytest.raises(LimnerError) as caught:
        finders.find_landmarks(name, some_picture())
    assert repr(name) in str(caught.value)
    assert word in str(caught.value)
    assert caught.value.exit_code == 1


@pytest.mark.usefixtures("installed")
def test_an_unknown_finder_lists_the_known() -> None:
    with pytest.raises(InputError, match="did you mean 'two'"):
        finders.load_finder("tow")


def test_without_a_package_none_is_known() -> None:
    with pytest.raises(InputError, match="none, since no package"):
        finders.load_finder("dlib")
