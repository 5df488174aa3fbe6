"""What would run here, and why the rest would not: one line a back end, without starting any of them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from limner.runtime.errors import LimnerError
from limner.runtime.graphs.driver import Driver, probe_driver
from limner.runtime.graphs.providers import PLUGIN
from limner.runtime.graphs.selection import this_machine


@dataclass(frozen=True)
class Backend:
    """One way to run graphs."""

    name: str  # as `--provider` takes it
    what: str
    usable: bool
    reason: str = ""  # why not


def backends(driver: Driver | None = None) -> list[Backend]:
    """All of them, the usable ones and the others."""
    from limner.runtime.graphs.providers import import_onnxruntime

    driver = probe_driver() if driver is None else driver
    try:
        built_in = set(import_onnxruntime().get_available_providers())
        missing = ""
    except LimnerError as error:
        built_in, missing = set(), str(error)
    rows = [("cpu", "ONNX Runtime, CPU", missing or _lacks(built_in, "CPUExecutionProvider"))]
    for name, what, provider in (
        ("cuda", "ONNX Runtime, CUDA", "CUDAExecutionProvider"),
        ("tensorrt", "ONNX Runtime, TensorRT", "TensorrtExecutionProvider"),
    ):
        rows.append((name, what, missing or _lacks(built_in, provider) or driver.reason))
    plugin = "" if importlib.util.find_spec(PLUGIN) is not None else f"the package {PLUGIN} is not installed"
    if plugin and "NvTensorRTRTXExecutionProvider" in built_in:
        plugin = ""
    rows.append(("tensorrt-rtx", "ONNX Runtime, TensorRT for RTX", missing or plugin or driver.reason))
    packages = this_machine(driver).versions
    bare = "" if packages else "neither tensorrt nor tensorrt-rtx is installed"
    about = " and ".join(f"{name} {version}" for name, version in packages.items())
    rows.append(("engine", f"engines of the bundle ({about or 'no TensorRT'})", bare or driver.reason))
    return [Backend(name, what, not reason, reason) for name, what, reason in rows]


def _lacks(built_in: set[str], provider: str) -> str:
    return "" if provider in built_in else f"the installed onnxruntime has no {provider}"
