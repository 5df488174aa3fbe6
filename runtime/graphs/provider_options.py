"""Options of ONNX Runtime's TensorRT providers: caches and profiles, set from the bundle.

A cache belongs to one graph, its profile, precision and one version of ONNX Runtime: what was built for other shapes
or another graph is never picked up.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from limner.runtime.bundle.engines import RangeMeta
from limner.runtime.bundle.loading import Bundle
from limner.runtime.bundle.parts import GraphMeta
from limner.runtime.bundle.ranges import graph_ranges
from limner.runtime.graphs.selection import graph_source
from limner.runtime.storage.caches import cache_folder

ENDS = ("min", "opt", "max")


def tensorrt_options(bundle: Bundle, name: str, onnxruntime: str) -> dict[str, str]:
    """For TensorrtExecutionProvider, which builds an engine for the GPU at hand when a graph is loaded first."""
    profiles = profile_texts(bundle, name)
    folder = str(_folder("onnxruntime-tensorrt", bundle, name, profiles, onnxruntime))
    options = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
        "trt_fp16_enable": "1" if bundle.manifest.precision == "fp16" else "0",
    }
    return options | {f"trt_profile_{end}_shapes": text for end, text in profiles.items()}


def rtx_options(bundle: Bundle, name: str, onnxruntime: str) -> dict[str, str]:
    """For the plugin NvTensorRTRTXExecutionProvider, which compiles kernels when a graph is loaded first."""
    profiles = profile_texts(bundle, name)
    folder = str(_folder("onnxruntime-tensorrt-rtx", bundle, name, profiles, onnxruntime))
    return {"nv_runtime_cache_path": folder} | {f"nv_profile_{end}_shapes": text for end, text in profiles.items()}


def profile_texts(bundle: Bundle, name: str) -> dict[str, str]:
    """min, opt, max -> "input:1x3x128x128,..."; empty where the bundle leaves a dimension without a range."""
    graph, ranges = bundle.graph(name), graph_ranges(bundle.manifest, name)
    texts = {end: _shapes(graph, ranges, index) for index, end in enumerate(ENDS)}
    return {end: text for end, text in texts.items() if text is not None} if all(texts.values()) else {}


def _shapes(graph: GraphMeta, ranges: dict[str, RangeMeta], end: int) -> str | None:
    parts = []
    for tensor in graph.inputs:
        if not any(isinstance(size, str) for size in tensor.shape):
            continue
        numbers = []
        for size in tensor.shape:
            declared = ranges.get(size) if isinstance(size, str) else None
            if isinstance(size, str) and declared is None:
                return None
            sizes = (size,) * 3 if declared is None else (declared.minimum, declared.best, declared.maximum)
            numbers.append(str(sizes[end]))
        parts.append(f"{tensor.name}:{'x'.join(numbers)}")
    return ",".join(parts)


def _folder(kind: str, bundle: Bundle, name: str, profiles: dict[str, str], onnxruntime: str) -> Path:
    """The cache of exactly this graph, profile, precision and version, made if it is not there."""
    parts = [graph_source(bundle, name), bundle.manifest.precision, onnxruntime, *profiles.values()]
    folder = cache_folder() / kind / f"{name}-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
