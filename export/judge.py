"""A judge as a graph beside its weights, which it reads where they lie: `limner export judge FOLDER`.

The attribute judge and the second judge have the same outputs, so that one stands in for the other.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from limner.export.diffusion.in_place import FolderWeights
from limner.export.diffusion.trace import export_module
from limner.export.stylegan2.graphs import OPSET
from limner.runtime.bundle.parts import TensorMeta
from limner.runtime.errors import InputError, LimnerError
from limner.runtime.storage.files import write_atomically
from limner.runtime.storage.folders import folder_beside
from limner.runtime.study.judge import GRAPH, WEIGHTS, JudgeGraph
from limner.training.models.judge import Judge
from limner.training.models.reader import Reader
from limner.training.models.store import load_model

PARITY = "judge.parity.json"
TOLERANCE = 1e-4  # of logits and features, relative to their norm: fp32 sums in another order
CASES = 8  # random pictures that both are compared on


class Reading(nn.Module):
    """image [N,3,S,S] in [-1,1] -> logits of all attributes one after another [N,V], features [N,F]."""

    def __init__(self, judge: Judge | Reader) -> None:
        super().__init__()
        self.judge = judge

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.judge, Reader):
            options, _, features = self.judge.read_options(image)
            return torch.cat(list(self.judge.attribute_logits(options).values()), 1), features
        features = self.judge.features(image)
        return torch.cat([head(features) for head in self.judge.heads.values()], 1), features

    @property
    def width(self) -> int:
        """Of the features."""
        return self.judge.config.width if isinstance(self.judge, Reader) else self.judge.config.features


def export_judge(folder: Path) -> float:
    """Write judge.onnx and its parity report into a judge's folder; returns the largest relative error.

    Raises InputError for a folder that holds no judge, LimnerError if the graph is not what torch computes.
    """
    judge = load_model(folder).eval()
    if not isinstance(judge, (Judge, Reader)):
        raise InputError("judge", f"{folder}, which holds no judge", "the folder of an attribute judge")
    module, size = Reading(judge), judge.config.image_size
    values = sum(len(names) for _, names in judge.config.attributes)
    shape = ("batch", 3, size, size)
    outputs = (TensorMeta("logits", "float32", ("batch", values)),
               TensorMeta("features", "float32", ("batch", module.width)))  # fmt: skip
    inputs = [TensorMeta("image", "float32", shape)]
    model = export_module(module, (torch.zeros(2, 3, size, size),), inputs, outputs, OPSET)
    with folder_beside(folder) as beside:
        (beside / "config.json").write_bytes((folder / "config.json").read_bytes())
        weights = FolderWeights(beside, "fp16", folder, (folder / WEIGHTS[0],))
        weights.save(model, beside / GRAPH)
        error = compare(module, JudgeGraph(beside))
        report = {"max_rel_error": error, "tolerance": TOLERANCE, "pictures": CASES}
        for name in (*(WEIGHTS[1:] if weights.size else ()), GRAPH):
            write_atomically(folder / name, (beside / name).read_bytes())
    write_atomically(folder / PARITY, (json.dumps(report, indent=1) + "\n").encode())
    return error


@torch.no_grad()
def compare(module: Reading, graph: JudgeGraph) -> float:
    """The largest relative error of the graph on random pictures; LimnerError above the tolerance."""
    images = np.random.RandomState(0).randint(0, 256, (CASES, graph.size, graph.size, 3), np.uint8)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    errors = [float(np.linalg.norm(mine - theirs.numpy()) / np.linalg.norm(theirs.numpy()))
              for mine, theirs in zip(graph.run(images), module(pixels), strict=True)]  # fmt: skip
    if not max(errors) <= TOLERANCE:
        raise LimnerError(f"the judge's graph is {max(errors):.2g} off, more than {TOLERANCE:g}")
    return max(errors)
