"""The whole way at Stable Diffusion 1.5's size: 860 million random weights, 512 pixels, two steps."""

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.scale_diffusion import run_scale


@pytest.mark.slow
def test_stable_diffusion_15_at_full_size(tmp_path: Path) -> None:
    figures = run_scale(tmp_path, steps=2)
    assert figures["write"]["printed"]["unet, parameters"] == 859_520_964
    assert max(figures["export"]["printed"]["max_rel_error"].values()) <= 1e-4
    assert figures["edit"]["peak, GiB"] < 16
    assert Image.open(tmp_path / "edited.png").size == (512, 512)
