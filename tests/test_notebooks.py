"""The notebooks of the documentation: they run as they are, show what they showed, and are stored without output."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.notebooks import FOLDER, GOLDENS, SIDE, executed, sheet_of

from limner.runtime.methods.registry import method_names

NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
# Of 255, mean over a picture: JPEG's own loss is 2 here; another processor's rounding moves an optimization by as much
LIMIT = 8.0


def test_there_is_one_for_each_method_and_one_for_all() -> None:
    assert {*method_names(), "five-methods"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_stored_without_output(name: str) -> None:
    data = json.loads((FOLDER / f"{name}.ipynb").read_text())
    code = [cell for cell in data["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert code[0]["metadata"]["tags"] == ["skip-execution"] and "pip install" in code[0]["source"][0]
    text = "".join(line for cell in data["cells"] for line in cell["source"])
    assert "## Your own weights" in text and ("$$" in text or name == "five-methods")
    assert not re.search(r"/(work|home|root|tmp)/", text)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_shows_what_it_showed(name: str, tmp_path: Path) -> None:
    notebook, pictures = executed(FOLDER / f"{name}.ipynb", tmp_path)
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", [])]
    assert not [one for one in outputs if one.output_type == "error" or one.get("name") == "stderr"]
    assert sum("image/png" in one.get("data", {}) for one in outputs) >= 4
    golden = np.array(Image.open(GOLDENS / f"{name}.jpg")).astype(int)
    sheet = sheet_of(pictures)
    assert sheet.shape == golden.shape
    change = np.abs(sheet - golden).mean(-1).reshape(sheet.shape[0] // SIDE, SIDE, -1, SIDE).mean((1, 3)).ravel()
    far = {key: round(float(one), 1) for key, one in zip(pictures, change, strict=False) if one > LIMIT}
    assert not far, far
