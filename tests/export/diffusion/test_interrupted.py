"""An export that is asked to end: the signal's code, one word, nothing left, and what was there before stays."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.tiny_diffusion import write_folder

from limner.export.diffusion.writer import DiffusionExport, export_folder
from limner.runtime.bundle.loading import load_bundle


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("verb", ["onnx", "onnx in place", "precision"])
def test_an_export_ends(tmp_path: Path, verb: str, number: signal.Signals) -> None:
    model = write_folder(tmp_path / "model", "sd1")
    old = export_folder(model, tmp_path / "bundle", DiffusionExport(batches=(1,)), say=lambda line: None)
    for path in tmp_path.glob("tokens"):  # of the folder's maker
        for inner in path.iterdir():
            inner.unlink()
        path.rmdir()
    arguments = {
        "onnx": ["onnx", "--model", str(model), "--out", str(tmp_path / "bundle")],
        "onnx in place": ["onnx", "--model", str(model), "--in-place"],
        "precision": ["precision", str(tmp_path / "bundle"), "--out", str(tmp_path / "half")],
    }[verb]
    before = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    process = subprocess.Popen([sys.executable, "-m", "limner.runtime", "export", *arguments],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
    while process.poll() is None and not list(tmp_path.glob(".*.part/*")):
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err[-2000:]
    assert err.strip().splitlines()[-1] == {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}[number]
    assert "Traceback" not in err and "Exception ignored" not in err
    after = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before
    assert load_bundle(tmp_path / "bundle").digest == old.digest
