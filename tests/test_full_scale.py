"""Published files of random weights -> import -> export -> runtime -> an edit with each method, all by the command
line, each step in a process of its own whose time and peak memory are reported. `make full-scale` takes real sizes:
a generator at 1024 px, ViT-B/32, IR-SE50, e4e and a mapper.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
MAKER = ROOT / "tests/training/importers/published.py"
TIMER = ROOT / "tests/support/full_scale.py"
TEXT = "a person with a beard"
EDITS = {
    "global-directions": [TEXT, "--neutral", "a person", "--beta", "0.05"],
    "latent-mapper": ["--mapper", "afro"],
    "latent-optimization": [TEXT, "--set", "steps=3"],
}
SIZES = {"small": (32, 16, 16.0), "full": (1024, 512, 14.0)}  # pixels, w_dim, GB that no step may exceed


@dataclass(frozen=True)
class Step:
    """One process: seconds of wall and processor time, and the largest resident memory in GB."""

    name: str
    wall: float
    processor: float
    peak: float
    output: str


class Steps:
    """Runs processes and keeps what they took."""

    def __init__(self) -> None:
        self.done: list[Step] = []

    def run(self, name: str, *words: object) -> str:
        start = time.monotonic()
        environment = dict(os.environ, OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"))
        process = subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                                   env=environment)  # fmt: skip
        output = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        step = Step(name, time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6, output)
        self.done.append(step)
        assert process.returncode == 0, name
        return output

    def limner(self, name: str, *words: object) -> Any:
        return json.loads(self.run(name, "-m", "limner.runtime", *words, "--json"))

    def table(self) -> str:
        rows = [f"{s.name:<24} {s.wall:8.1f} s {s.processor:8.1f} s {s.peak:6.2f} GB" for s in self.done]
        return "\n".join([f"{'step':<24} {'wall':>10} {'processor':>10} {'peak':>9}", *rows])


@pytest.fixture
def steps() -> Iterator[Steps]:
    found = Steps()
    yield found
    print(f"\n{found.table()}")


@pytest.mark.slow
@pytest.mark.parametrize("scale", SIZES)
def test_from_files_to_edits(scale: str, tmp_path: Path, steps: Steps) -> None:
    size, w_dim, memory = SIZES[scale]
    files, checkpoints, bundle = tmp_path / "files", tmp_path / "set", tmp_path / "bundle"
    files.mkdir()
    steps.run("make the files", MAKER, files, scale)
    bpe = ["--tokenizer", files / "bpe_simple_vocab_16e6.txt.gz"]
    for name in ("stylegan2-ffhq-config-f.pt", "ViT-B-32.pt", "model_ir_se50.pth", "e4e_ffhq_encode.pt", "afro.pt",
                 "fs3.npy"):  # fmt: skip
        extra = bpe if name == "ViT-B-32.pt" else []
        steps.limner(f"import {name[:16]}", "models", "import", files / name, "--out", checkpoints, *extra)
        (files / name).unlink()
    found = steps.limner("export", "export", "onnx", "--checkpoints", checkpoints, "--out", bundle, "--batches", "1",
                         "--name", scale, "--tolerance", "1e-3")  # fmt: skip
    assert found["max_rel_error"]["synthesis_w"] < 1e-4 and found["max_rel_error"]["mapper_afro"] < 1e-4
    pictures = {}
    for method, words in EDITS.items():
        picture = tmp_path / f"{method}.png"
        found = steps.limner(f"edit {method[:16]}", "edit", "seed:1", *words, "--method", method, "--bundle", bundle,
                             "-o", picture)  # fmt: skip
        pictures[method] = np.asarray(Image.open(picture))
        assert pictures[method].shape == (size, size, 3)
        assert found["scores"]["pixel"] > 0, method  # the mean change of a pixel
    assert len({picture.tobytes() for picture in pictures.values()}) == len(EDITS)
    print(steps.run("time the edits", TIMER, checkpoints, bundle, "afro"))
    assert max(step.peak for step in steps.done) < memory
    config = json.loads((checkpoints / "stylegan2/config.json").read_text())["config"]
    assert (config["size"], config["w_dim"]) == (size, w_dim)
