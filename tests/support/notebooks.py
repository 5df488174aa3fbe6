"""Notebooks run as a reader runs them, and their pictures as one sheet; `python tests/support/notebooks.py` makes the
goldens anew: tests/support/notebooks/NAME.jpg.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["FOLDER", "GOLDENS", "executed", "sheet_of"]

ROOT = Path(__file__).parents[2]
FOLDER, GOLDENS = ROOT / "docs" / "notebooks", Path(__file__).parent / "notebooks"
SAVE = "import numpy as np; np.savez('pictures.npz', **pictures)"
SIDE = 128  # of a picture in a sheet
COLUMNS = 8


def executed(path: Path, folder: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """Run a notebook in a folder, but for its `pip install`; its cells with what they put out, and its `pictures`."""
    import nbformat
    from nbclient import NotebookClient

    notebook: Any = nbformat.read(path, 4)  # type: ignore[no-untyped-call]
    notebook.cells.append(nbformat.v4.new_code_cell(SAVE))  # type: ignore[no-untyped-call]
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    with np.load(folder / "pictures.npz") as found:
        return notebook, {name: found[name] for name in found.files}


def sheet_of(pictures: dict[str, np.ndarray]) -> np.ndarray:
    """All pictures in their order, uint8 [H,W,3]."""
    cells = [np.array(Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BOX)) for one in pictures.values()]
    cells += [np.zeros((SIDE, SIDE, 3), np.uint8)] * (-len(cells) % COLUMNS)
    return np.vstack([np.hstack(cells[first : first + COLUMNS]) for first in range(0, len(cells), COLUMNS)])


if __name__ == "__main__":
    GOLDENS.mkdir(exist_ok=True)
    for path in sorted(FOLDER.glob("*.ipynb")):
        if sys.argv[1:] and path.stem not in sys.argv[1:]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            sheet = sheet_of(executed(path, Path(folder))[1])
        Image.fromarray(sheet).save(GOLDENS / f"{path.stem}.jpg", quality=90)
        print(path.stem, sheet.shape)
