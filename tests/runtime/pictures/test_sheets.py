"""A sheet shows every picture once, in order, with its words under it."""

import numpy as np
import pytest

from limner.runtime.errors import InputError
from limner.runtime.pictures.sheets import Cell, SheetRow, _font, make_sheet, wrap_caption

RED, GREEN, BLUE = (200, 10, 10), (10, 200, 10), (10, 10, 200)


def flat(colour: tuple[int, int, int], height: int = 16, width: int = 16) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def box_of(sheet: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """left, top, right, bottom of the pixels of that colour"""
    rows, columns = np.nonzero((sheet == colour).all(-1))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_layout() -> None:
    rows = [SheetRow(Cell(flat(RED), "source"), (Cell(flat(GREEN), "glasses"), Cell(flat(BLUE), "beard")))]
    sheet = make_sheet(rows, title="Edits", cell=64, gap=8)
    assert sheet.dtype == np.uint8
    assert sheet.ndim == 3
    assert sheet.shape[2] == 3
    boxes = [box_of(sheet, colour) for colour in (RED, GREEN, BLUE)]
    assert all(right - left == 64 and bottom - top == 64 for left, top, right, bottom in boxes)
    assert boxes[0][0] < boxes[1][0] < boxes[2][0]
    assert len({top for _, top, _, _ in boxes}) == 1
    assert boxes[1][0] - boxes[0][2] > boxes[2][0] - boxes[1][2]  # the source stands apart
    for left, _, right, bottom in boxes:
        assert sheet[bottom : bottom + 20, left:right].min() < 100  # ink under each picture
    assert sheet[: boxes[0][1]].min() < 100  # the title


def test_no_words_no_ink() -> None:
    sheet = make_sheet([SheetRow(Cell(flat(RED)), (Cell(flat(GREEN)),))], cell=64)
    _, _, _, bottom = box_of(sheet, RED)
    assert sheet[bottom + 1 :].min() == 255


def test_rows_of_different_lengths_and_labels() -> None:
    rows = [
        SheetRow(Cell(flat(RED)), (Cell(flat(GREEN)),) * 3, label="latent optimization"),
        SheetRow(Cell(flat(BLUE)), ()),
    ]
    sheet = make_sheet(rows, cell=48, gap=6)
    assert box_of(sheet, RED)[3] < box_of(sheet, BLUE)[1]
    assert sheet.shape[1] == 6 + 4 * (48 + 6) + 6


def test_pictures_keep_their_aspect_ratio() -> None:
    sheet = make_sheet([SheetRow(Cell(flat(RED, 32, 64)), ())], cell=64)
    left, top, right, bottom = box_of(sheet, RED)
    assert (right - left, bottom - top) == (64, 32)


def test_captions_wrap_and_shorten() -> None:
    font = _font(12)
    assert wrap_caption("", 100, font) == []
    assert wrap_caption("a beard", 100, font) == ["a beard"]
    lines = wrap_caption("a portrait of a person with a very long beard and round glasses", 100, font)
    assert len(lines) == 2
    assert lines[1].endswith("...")
    assert all(font.getlength(line) <= 100 for line in lines)
    assert wrap_caption("x" * 200, 100, font)[0].endswith("...")


def test_same_input_same_pixels() -> None:
    rows = [SheetRow(Cell(flat(RED), "a"), (Cell(flat(GREEN), "b"),))]
    np.testing.assert_array_equal(make_sheet(rows), make_sheet(rows))


def test_bad_input() -> None:
    good = SheetRow(Cell(flat(RED)), ())
    with pytest.raises(InputError, match="no rows"):
        make_sheet([])
    with pytest.raises(InputError, match=r"sheet.cell"):
        make_sheet([good], cell=4)
    with pytest.raises(InputError, match=r"sheet.gap"):
        make_sheet([good], gap=-1)
    with pytest.raises(InputError, match=r"sheet.rows\[1\]: got float64"):
        make_sheet([good, SheetRow(Cell(np.zeros((4, 4, 3))), ())])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at most 100 megapixels"):
        make_sheet([good] * 200, cell=1024)
