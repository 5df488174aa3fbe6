"""What the verbs draw and pack: sheets of one edit or inversion, a grid of samples, .npy bytes."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from limner.runtime.edit import Edit
from limner.runtime.inversion import Inversion
from limner.runtime.sheets import Cell, SheetRow, make_sheet

__all__ = ["array_bytes", "edit_sheet", "grid", "inversion_sheet"]

ImageU8 = NDArray[np.uint8]


def edit_sheet(edit: Edit) -> ImageU8:
    """Draw source | reconstruction | half the strength | the edit; uint8 [H,W,3]."""
    words = " + ".join(prompt.text for prompt in edit.recipe.prompts)
    cells = [Cell(edit.at(0.5).image, "half the strength"), Cell(edit.image, words)]
    if edit.recipe.source.kind == "image":
        cells.insert(0, Cell(edit.reconstruction, "as the generator makes it"))
    return make_sheet([SheetRow(Cell(edit.source, "source"), tuple(cells), edit.recipe.method)])


def inversion_sheet(found: Inversion, name: str) -> ImageU8:
    """Draw picture | reconstruction; uint8 [H,W,3]."""
    cells = (Cell(found.reconstruction, "as the generator makes it"),)
    return make_sheet([SheetRow(Cell(found.picture, name), cells)])


def grid(images: Sequence[ImageU8], columns: int = 8) -> ImageU8:
    """Lay pictures uint8 [H,W,3] of one size out in rows; what is left of the last row is white."""
    columns = min(columns, len(images))
    height, width, _ = images[0].shape
    rows = -(-len(images) // columns)
    sheet = np.full((rows * height, columns * width, 3), 255, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = (index // columns) * height, (index % columns) * width
        sheet[top : top + height, left : left + width] = image
    return sheet


def array_bytes(array: NDArray[np.float32]) -> bytes:
    """Return the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
