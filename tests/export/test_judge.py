"""The judge as a graph: the words of torch's on avatars, without torch; nothing else than its weights is read."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from limner.export.judge import PARITY, export_judge
from limner.runtime.errors import BundleError, InputError
from limner.runtime.study.judge import GRAPH, JudgeGraph
from limner.training.avatars.attributes import AVATAAARS, sample_in_split
from limner.training.avatars.render import render
from limner.training.models.judge import Judge
from limner.training.models.store import load_model


@pytest.fixture(scope="module")
def folder(repository: Path) -> Path:
    return repository / "checkpoints" / "avatars" / "judge"


def test_words_and_features_are_those_of_torch(folder: Path) -> None:
    avatars = [sample_in_split(AVATAAARS, "validation", 7000 + index) for index in range(60)]
    images = np.stack([render(AVATAAARS, avatar, 128) for avatar in avatars])
    judge = load_model(folder).eval()
    assert isinstance(judge, Judge)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    graph = JudgeGraph(folder)
    assert graph.words(images) == judge.words(judge.read(pixels))
    with torch.no_grad():
        features = judge.features(pixels).numpy()
    found = graph.run(images)[1]
    assert np.linalg.norm(found - features) / np.linalg.norm(features) < 1e-5  # fp32, sums in another order
    seen = [words == avatar.attributes(AVATAAARS) for words, avatar in zip(graph.words(images), avatars, strict=True)]
    assert np.mean(seen) > 0.95


def test_the_shipped_graph_is_what_is_exported_today(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "judge"))
    for name in (GRAPH, PARITY):
        (copy / name).unlink()
    assert export_judge(copy) < 1e-5
    images = np.random.RandomState(3).randint(0, 256, (3, 128, 128, 3), np.uint8)
    for mine, shipped in zip(JudgeGraph(copy).run(images), JudgeGraph(folder).run(images), strict=True):
        np.testing.assert_allclose(mine, shipped, rtol=1e-5, atol=1e-5)
    assert json.loads((copy / PARITY).read_text())["max_rel_error"] < 1e-5
    assert (copy / GRAPH).stat().st_size < 100_000 and not (copy / "weights.bin").exists()  # it reads the safetensors


def test_judging_needs_no_torch(folder: Path) -> None:
    code = f"""
import sys
sys.modules["torch"] = None
import numpy as np
from limner.runtime.study.judge import JudgeGraph
print(JudgeGraph({str(folder)!r}).words(np.zeros((1, 128, 128, 3), np.uint8)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "expression" in done.stdout, done.stderr


def test_what_is_no_judge_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="limner export judge"):
        JudgeGraph(tmp_path)
    with pytest.raises(InputError, match=r"uint8 \[N, 128, 128, 3\]"):
        JudgeGraph(folder).run(np.zeros((1, 64, 64, 3), np.uint8))
    copy = Path(shutil.copytree(folder, tmp_path / "judge"))
    model = onnx.load(copy / GRAPH, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../secret"
    onnx.save(model, copy / GRAPH)
    with pytest.raises(BundleError, match="secret"):
        JudgeGraph(copy)
    (copy / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"config\.json"):
        JudgeGraph(copy)
