"""How far an exported graph is from the torch module that it was made from.

For each output the relative error is ||a - b|| / ||b|| over all cases together, a from ONNX Runtime and b from
torch in fp32. The worst single case is reported beside it. A gradient through leaky ReLUs is not smooth: an
activation within rounding of zero may fall on either side. Most pictures of the shipped networks are at 5e-6, but one
in ten has such an activation and is off by up to 2e-4, as torch's own fp32 gradient is against its fp64 one. So single
cases scatter, and the limit holds for all of them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from limner.export.graphs import GraphSpec

TOLERANCE = 1e-4  # relative, fp32: sums of some thousand products in another order
BATCHES = (1, 2, 3, 5)


@dataclass(frozen=True)
class GraphParity:
    """The errors of one graph."""

    graph: str
    tolerance: float
    batches: tuple[int, ...]
    outputs: dict[str, float] = field(default_factory=dict)  # output -> relative error over all cases
    worst: dict[str, float] = field(default_factory=dict)  # output -> that of the worst case

    @property
    def max_rel_error(self) -> float:
        """The largest relative error over the outputs; NaN counts as infinite."""
        return max((e if np.isfinite(e) else float("inf") for e in self.outputs.values()), default=float("inf"))

    @property
    def passed(self) -> bool:
        return self.max_rel_error <= self.tolerance


def measure(
    spec: GraphSpec,
    path: Path,
    batches: Sequence[int] = BATCHES,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    threads: int = 1,
) -> GraphParity:
    """Run the graph at `path` and its torch reference on the same inputs, one case a batch size."""
    session = open_session(path, threads)
    names = [tensor.name for tensor in spec.outputs]
    difference, length = (np.zeros((len(batches), len(names))) for _ in range(2))
    for case, batch in enumerate(batches):
        inputs = spec.sample(batch, torch.Generator().manual_seed(seed + case))
        with torch.no_grad():
            expected = spec.reference(*inputs)
        feed = {tensor.name: array.numpy() for tensor, array in zip(spec.inputs, inputs, strict=True)}
        found = session.run(names, feed)
        for column, (a, b) in enumerate(zip(found, expected, strict=True)):
            wanted = b.detach().numpy().astype(np.float64)
            if a.shape != wanted.shape:
                difference[case, column] = np.inf
                continue
            difference[case, column] = np.linalg.norm(a.astype(np.float64) - wanted)
            length[case, column] = np.linalg.norm(wanted)
    overall = np.linalg.norm(difference, axis=0) / np.linalg.norm(length, axis=0)
    worst = (difference / length).max(axis=0)
    return GraphParity(
        spec.name,
        tolerance,
        tuple(batches),
        {name: float(value) for name, value in zip(names, overall, strict=True)},
        {name: float(value) for name, value in zip(names, worst, strict=True)},
    )


def open_session(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """A CPU session on a graph file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def as_json(reports: Sequence[GraphParity]) -> dict[str, Any]:
    """What parity.json holds."""
    return {
        "metric": "||onnxruntime - torch|| / ||torch||, fp32, over all cases together; worst: of a single case",
        "versions": {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
        "graphs": {
            report.graph: {
                "max_rel_error": report.max_rel_error,
                "tolerance": report.tolerance,
                "batches": list(report.batches),
                "outputs": report.outputs,
                "worst": report.worst,
            }
            for report in reports
        },
    }


def as_markdown(reports: Sequence[GraphParity]) -> str:
    """What parity.md holds: one row an output."""
    lines = [
        "# Parity",
        "",
        f"ONNX Runtime {onnxruntime.__version__} against torch {torch.__version__}, CPU, fp32. The error is",
        "||onnxruntime - torch|| / ||torch|| over all cases together; `worst` is that of the worst single case. A",
        "gradient's cases scatter: where an activation lies within rounding of the kink of a ReLU, torch's own fp32",
        "gradient differs from its fp64 one by as much.",
        "",
        "| graph | output | error | worst | tolerance | batches |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for report in reports:
        batches = ", ".join(map(str, report.batches))
        for name, error in report.outputs.items():
            worst = f"{report.worst[name]:.1e}"
            lines.append(f"| {report.graph} | {name} | {error:.1e} | {worst} | {report.tolerance:g} | {batches} |")
    return "\n".join(lines) + "\n"
