"""parity.json and parity.md of a diffusion bundle, and the limit that every error must keep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from limner.export.diffusion.picture import LEVELS, PictureParity
from limner.export.report import parity
from limner.runtime.errors import LimnerError

NOTE = """
`unet`: random controls against surgery on attention maps, made, edited and applied one by one in torch; ", plain" is
identity control against diffusers' own UNet. Pictures are square, broad and high by turns.
"""


def add_picture(folder: Path, found: PictureParity) -> None:
    """Add the comparison with the folder's pipeline to both files; LimnerError if the picture is another one."""
    data = json.loads((folder / "parity.json").read_text(encoding="utf-8"))
    data["picture"] = found.as_json()
    (folder / "parity.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    text = (folder / "parity.md").read_text(encoding="utf-8")
    (folder / "parity.md").write_text(f"{text}\nThe bundle beside the folder's own pipeline: {found.sentence()}.\n",
                                      encoding="utf-8")  # fmt: skip
    if not found.passed:
        raise LimnerError(
            f"the {found.sentence()}; allowed is {LEVELS:g}: something of the folder is not in the graphs"
        )


def write_reports(folder: Path, reports: Sequence[parity.GraphParity], tolerance: float) -> None:
    """Write both files; LimnerError names the graphs that are off by more than their tolerance."""
    text = json.dumps(parity.as_json(reports), indent=1) + "\n"
    (folder / "parity.json").write_text(text, encoding="utf-8")
    (folder / "parity.md").write_text(parity.as_markdown(reports) + NOTE, encoding="utf-8")
    failed = [f"{report.graph} {report.max_rel_error:.1e}" for report in reports if not report.passed]
    if failed:
        raise LimnerError(f"{len(failed)} graphs differ from torch by more than {tolerance:g}: {', '.join(failed)}")
