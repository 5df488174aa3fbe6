"""Graphs as ONNX Runtime has them after loading: folded, fused, and packed for this CPU, in files that are mapped.

The first load of a graph that takes long is written down; later ones, in this process or in others, map the files and
share their pages, where else each would read, widen and pack all weights into memory of its own. The numbers are the
same to the bit. What is written is for exactly this graph, this version of ONNX Runtime and this kind of CPU.

Folders lie in the cache (`storage.caches`); they can be removed at any time, and one that was not used for a month is.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from limner.runtime.bundle.engines import source_hash
from limner.runtime.bundle.loading import Bundle
from limner.runtime.storage.caches import cache_folder
from limner.runtime.storage.folders import folder_beside, put_in_place

__all__ = ["HEAVY", "SLOW_S", "forget_old", "has_room", "place_of", "prepare", "use_prepared", "wanted"]

VARIABLE = "LIMNER_PREPARED"
SLOW_S = 0.1  # a load that takes longer is worth a file
HEAVY = 1 << 28  # bytes of weights that surely take longer
GRAPH, WEIGHTS = "graph.onnx", "graph.onnx.data"
GROWTH = 6  # what is written, over what was stored: fp16 weights in fp32, and a packed copy of some
PACKS = (1, 32)  # the first ONNX Runtime that writes packed weights right
SMALLEST = 1024  # bytes of a constant that is kept beside the graph
MONTH_S = 30 * 24 * 3600
CPUINFO = Path("/proc/cpuinfo")


def wanted() -> bool:
    """Whether loads are written down: unless LIMNER_PREPARED is "no"."""
    return os.environ.get(VARIABLE, "") != "no"


def place_of(bundle: Bundle, name: str, version: str) -> Path:
    """The folder of exactly this graph, version of ONNX Runtime and CPU; it need not be there."""
    meta = bundle.graph(name)
    source = source_hash(bundle.manifest.files, (meta.file_on("cpu"), *meta.data))
    key = "|".join((source, version, _cpu(), "packed" if _packs(version) else ""))
    return cache_folder() / "prepared" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def has_room(place: Path, size: int) -> bool:
    """Whether the cache can be written to and has room for a graph whose files have so many bytes."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        forget_old(place.parent)
        return os.access(place.parent, os.W_OK) and shutil.disk_usage(place.parent).free > GROWTH * size
    except OSError:
        return False


def use_prepared(place: Path, options: Any, onnxruntime: Any) -> str | None:
    """The graph to load with these session options, or None if nothing is written down there."""
    path = place / GRAPH
    if not path.is_file():
        return None
    with suppress(OSError):  # a cache that can only be read
        os.utime(place)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # it is done
    return str(path)


def prepare(place: Path, graph: str, options: Any, onnxruntime: Any) -> bool:
    """Load a graph once more, and write down what comes of it; False where there is no room for it, or no right.

    `options` are those of a new session on the CPU.
    """
    try:
        with folder_beside(place) as beside:
            options.optimized_model_filepath = str(beside / GRAPH)
            packed = "1" if _packs(onnxruntime.__version__) else "0"
            for key, value in (
                ("session.optimized_model_external_initializers_file_name", WEIGHTS),
                ("session.optimized_model_external_initializers_min_size_in_bytes", str(SMALLEST)),
                ("session.save_external_prepacked_constant_initializers", packed),
            ):
                options.add_session_config_entry(key, value)
            onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            put_in_place(beside, place)
        _trim()
    except (OSError, RuntimeError):  # ONNX Runtime's own errors are RuntimeErrors: a full disk is one of them
        return False
    return True


def forget_old(folder: Path, age_s: float = MONTH_S) -> None:
    """Remove what was not used for so long."""
    with suppress(OSError):  # another process was quicker
        for place in list(folder.iterdir()):
            if place.is_dir() and time.time() - place.stat().st_mtime > age_s:
                shutil.rmtree(place, ignore_errors=True)


def _packs(version: str) -> bool:
    """Whether weights may be written as kernels lay them out: ONNX Runtime before 1.32 writes those of some fused
    operators (a text encoder's attention) in a way that ends the process when they are read.
    """
    return tuple(int(part) for part in version.split(".")[:2]) >= PACKS


def _trim() -> None:
    """Give the memory of a load back to the system, where the C library keeps it for itself."""
    with suppress(OSError, AttributeError, TypeError):  # other systems have no such call
        ctypes.CDLL(None).malloc_trim(0)


@cache
def _cpu() -> str:
    """What kernels and layouts are chosen by."""
    try:
        lines = CPUINFO.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    named = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return hashlib.sha256("\n".join(sorted(set(named))).encode()).hexdigest()
