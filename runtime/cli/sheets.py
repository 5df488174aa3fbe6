"""What the verbs draw and pack: sheets of one edit or inversion, a grid of samples, .npy bytes."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limner.runtime.edit import Edit
from limner.runtime.methods.registry import find_method
from limner.runtime.pictures.images import read_photo, write_png_atomically
from limner.runtime.pictures.sheets import Cell, SheetRow, make_sheet
from limner.runtime.pictures.xmp import COMPOSITE
from limner.runtime.recipe import PromptEdit
from limner.runtime.stylegan2.inversion import Inversion

__all__ = ["array_bytes", "edit_rows", "grid", "inversion_sheet", "write_pictures"]

ImageU8 = NDArray[np.uint8]


def edit_rows(edit: Edit, whole: ImageU8 | None = None) -> list[SheetRow]:
    """Return the rows of a sheet: source | reconstruction | half the strength | the edit.

    Half the strength is left out where it would be a whole run of a diffusion model. `whole`, the photograph that an
    edited face is back in, makes a row of its own.
    """
    diffusion = find_method(edit.recipe.method).family == "diffusion"
    words = " + ".join(_shown(prompt, edit.recipe.method) for prompt in edit.recipe.prompts)
    cells = [Cell(edit.image, words)]
    if not diffusion:
        cells.insert(0, Cell(edit.at(0.5).image, "half the strength"))
    if edit.recipe.source.kind == "image":
        cells.insert(
            0, Cell(edit.reconstruction, "as the model makes it" if diffusion else "as the generator makes it")
        )
    rows = [SheetRow(Cell(edit.source, "source"), tuple(cells), edit.recipe.method)]
    source = edit.recipe.source
    if source.face is not None and source.path is not None and whole is not None:
        before = Cell(read_photo(source.path, "source").on_white(), "photograph")
        rows.append(SheetRow(before, (Cell(_opaque(whole), words),), f"pasted back: {source.face.paste}"))
    return rows


def _opaque(image_u8: ImageU8) -> ImageU8:
    """[H,W,4] on white -> [H,W,3]."""
    if image_u8.shape[2] == 3:
        return image_u8
    alpha = image_u8[:, :, 3:] / np.float32(255)
    return np.rint(image_u8[:, :, :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def _shown(prompt: PromptEdit, method: str) -> str:
    """The text; a concept that is taken away has a minus."""
    away = method == "sega" and prompt.strength is not None and prompt.strength < 0
    return f"- {prompt.text}" if away else prompt.text


def write_pictures(folder: Path, pictures: Mapping[str, ImageU8]) -> list[Path]:
    """Write each picture as <folder>/<name>.png, making the folder; return the paths."""
    folder.mkdir(exist_ok=True)
    used: dict[str, int] = {}
    paths = []
    for name, picture in pictures.items():
        stem = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "picture"
        used[stem] = used.get(stem, 0) + 1
        stem = stem if used[stem] == 1 else f"{stem}-{used[stem]}"
        paths.append(write_png_atomically(folder / f"{stem}.png", picture, field="maps", mark=COMPOSITE))
    return paths


def inversion_sheet(found: Inversion, name: str, warnings: Sequence[str] = ()) -> ImageU8:
    """Draw picture | reconstruction; uint8 [H,W,3]."""
    cells = (Cell(found.reconstruction, "as the generator makes it"),)
    return make_sheet([SheetRow(Cell(found.picture, name), cells)], notes=warnings)


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
