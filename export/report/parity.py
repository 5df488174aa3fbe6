"""How far an exported graph is from the torch module that it was made from.

For each output the relative error is ||a - b|| / ||b|| over all cases together, a from ONNX Runtime and b from
torch in fp32. The worst single case is reported beside it. A gradient through ReLUs is not smooth: an activation
within rounding of zero may fall on either side. Most pictures of the shipped networks are at 5e-6, but now and then
one has such an activation that matters, and is off by 1e-3, as torch's own fp32 gradient is against its fp64 one. If
a gradient fails, rows that are off by more than the tolerance are settled in float64 (`kinks`): one that float64 gives
too, with activations within rounding of zero on their other side, counts with its error against that. The report lists
each of them with its errors before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from limner.export.report.kinks import Kink, settle
from limner.export.stylegan2.graphs import GraphSpec, Tensors

TOLERANCE = 1e-4  # relative, fp32: sums of some thousand products in another order
BATCHES = (1, 2, 3, 5)
GRADIENT = "gradient"  # the output that kinks are looked for in


@dataclass(frozen=True)
class GraphParity:
    """The errors of one graph."""

    graph: str
    tolerance: float
    batches: tuple[int, ...]
    outputs: dict[str, float] = field(default_factory=dict)  # output -> relative error over all cases
    worst: dict[str, float] = field(default_factory=dict)  # output -> that of the worst case
    kinks: tuple[Kink, ...] = ()  # rows that were settled in float64, or could not be

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
    cases = [_run(spec, session, batch, seed + k) for k, batch in enumerate(batches)]
    kinks: list[Kink] = []
    if spec.modules and _overall([case.difference[GRADIENT] for case in cases], cases, GRADIENT) > tolerance:
        kinks = [kink for case in cases for kink in _settle(spec, case, tolerance)]
    overall = {name: _overall([case.difference[name] for case in cases], cases, name) for name in names}
    worst = {name: max(_overall([case.difference[name]], [case], name) for case in cases) for name in names}
    return GraphParity(spec.name, tolerance, tuple(batches), overall, worst, tuple(kinks))


@dataclass
class _Case:
    """One batch: norms by row of an output, what was wanted and how far off it is."""

    inputs: Tensors
    found: dict[str, np.ndarray]
    difference: dict[str, np.ndarray]  # [N]
    length: dict[str, np.ndarray]  # [N]


def _run(spec: GraphSpec, session: onnxruntime.InferenceSession, batch: int, seed: int) -> _Case:
    inputs = spec.sample(batch, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected = spec.reference(*inputs)
    names = [tensor.name for tensor in spec.outputs]
    feed = {tensor.name: array.numpy() for tensor, array in zip(spec.inputs, inputs, strict=True)}
    case = _Case(inputs, dict(zip(names, session.run(names, feed), strict=True)), {}, {})
    for name, made in zip(names, expected, strict=True):
        wanted = made.detach().numpy().astype(np.float64)
        found = case.found[name].astype(np.float64)
        case.length[name] = _by_row(wanted)
        case.difference[name] = _by_row(found - wanted) if found.shape == wanted.shape else np.full(1, np.inf)
    return case


def _by_row(array: np.ndarray) -> np.ndarray:
    """Norms over all but the first axis."""
    norms: np.ndarray = np.linalg.norm(array.reshape(len(array), -1), axis=1)
    return norms


def _overall(differences: Sequence[np.ndarray], cases: Sequence[_Case], output: str) -> float:
    lengths = np.concatenate([case.length[output] for case in cases])
    return float(np.linalg.norm(np.concatenate(differences)) / np.linalg.norm(lengths))


def _settle(spec: GraphSpec, case: _Case, tolerance: float) -> list[Kink]:
    """Settle the case's rows that are off, and put the errors that remain in their place."""
    difference, length = case.difference[GRADIENT], case.length[GRADIENT]
    kinks = []
    for row in np.flatnonzero(np.isfinite(difference) & (difference > tolerance * length)):
        found = torch.from_numpy(case.found[GRADIENT][row : row + 1])
        kink = settle(spec, case.inputs, int(row), GRADIENT, found, tolerance)
        if kink.settled <= tolerance:
            difference[row] = kink.settled * length[row]
        kinks.append(kink)
    return kinks


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
                "kinks": [asdict(kink) for kink in report.kinks],
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
        "||onnxruntime - torch|| / ||torch|| over all cases together; `worst` is that of the worst single case.",
        "",
        "| graph | output | error | worst | tolerance | batches |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for report in reports:
        batches = ", ".join(map(str, report.batches))
        for name, error in report.outputs.items():
            worst = f"{report.worst[name]:.1e}"
            lines.append(f"| {report.graph} | {name} | {error:.1e} | {worst} | {report.tolerance:g} | {batches} |")
    return "\n".join([*lines, *_kinks_as_markdown(reports)]) + "\n"


def _kinks_as_markdown(reports: Sequence[GraphParity]) -> list[str]:
    """The section on rows that were settled, if there are any."""
    rows = [
        f"| {report.graph} | {k.batch} | {k.row} | {k.torch_fp32:.1e} | {k.onnxruntime:.1e} | {k.units} |"
        f" {k.settled:.1e} |"
        for report in reports
        for k in report.kinks
    ]
    if not rows:
        return []
    return [
        "",
        "## Kinks",
        "",
        "Gradients that fp32 alone does not settle, against torch in float64: an activation within rounding of zero",
        "may take either side of a ReLU's kink. `settled` is the error of ONNX Runtime against float64 with that many",
        "such activations, and no others, on their other side; these rows count with it above.",
        "",
        "| graph | batch | row | torch, fp32 | ONNX Runtime | activations | settled |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *rows,
    ]
