"""How large the numbers inside a graph get, measured on samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime

from limner.export.precision.samples import Samples
from limner.runtime.bundle.loading import Bundle
from limner.runtime.storage.folders import scratch

CHUNK = 200  # values that are read at once: each is kept in memory until the run ends
Ranges = dict[str, float]  # value -> the largest magnitude seen; infinity where it was not finite


def measure_ranges(bundle: Bundle, graph: str, model: ir.Model, batch: int = 2, seed: int = 0) -> Ranges:
    """Run `model`, a form of the bundle's graph `graph`, and look at every floating-point value that it computes."""
    feed = Samples(bundle, seed)(graph, batch)
    inner = [value for node in model.graph for value in node.outputs if value.dtype == ir.DataType.FLOAT]
    outputs = list(model.graph.outputs)
    known = {id(value) for value in outputs}
    found: Ranges = {name: _largest(array) for name, array in feed.items()}
    with scratch("limner-ranges-") as beside:
        path = beside / "graph.onnx"
        extra = [value for value in inner if id(value) not in known]
        try:
            for start in range(0, max(len(extra), 1), CHUNK):
                model.graph.outputs[:] = [*outputs, *extra[start : start + CHUNK]]
                ir.save(model, path, external_data="weights")
                found |= _run(path, [value.name or "" for value in model.graph.outputs], feed)
        finally:
            model.graph.outputs[:] = outputs
    return found


def _run(path: Path, names: list[str], feed: dict[str, np.ndarray]) -> Ranges:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    arrays = session.run(names, feed)
    pairs = zip(names, arrays, strict=True)
    return {name: _largest(a) for name, a in pairs if np.issubdtype(a.dtype, np.floating)}


def _largest(array: np.ndarray) -> float:
    if not array.size or not np.issubdtype(array.dtype, np.floating):
        return 0.0
    largest = float(np.abs(array).max())
    return largest if np.isfinite(largest) else float("inf")
