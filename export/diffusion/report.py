"""parity.json and parity.md of a diffusion bundle, and the limit that every error must keep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from limner.export import parity
from limner.runtime.errors import LimnerError

NOTE = """
`unet`: random controls against surgery on attention maps, made, edited and applied one by one in torch; ", plain" is
identity control against diffusers' own UNet. Pictures are square, broad and high by turns.
"""


def write_reports(folder: Path, reports: Sequence[parity.GraphParity], tolerance: float) -> None:
    """Write both files; LimnerError names the graphs that are off by more than their tolerance."""
    text = json.dumps(parity.as_json(reports), indent=1) + "\n"
    (folder / "parity.json").write_text(text, encoding="utf-8")
    (folder / "parity.md").write_text(parity.as_markdown(reports) + NOTE, encoding="utf-8")
    failed = [f"{report.graph} {report.max_rel_error:.1e}" for report in reports if not report.passed]
    if failed:
        raise LimnerError(f"{len(failed)} graphs differ from torch by more than {tolerance:g}: {', '.join(failed)}")
