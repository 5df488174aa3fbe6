"""The engine of a graph for this machine, or one sentence saying why there is none."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from limner.runtime.bundle.engines import Builder, EngineMeta, source_hash
from limner.runtime.bundle.loading import Bundle
from limner.runtime.bundle.parts import GraphMeta
from limner.runtime.errors import InputError, ProviderError
from limner.runtime.graphs.driver import Driver, probe_driver
from limner.runtime.versions import package_version

RUNTIMES: dict[Builder, str] = {"tensorrt-rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
RTX_MAGIC = b"vtrt"  # the first bytes of an engine of TensorRT for RTX; its version follows at byte 24
RTX_VERSION_AT = 24


@dataclass(frozen=True)
class Here:
    """What an engine has to fit: the GPU's architecture and the TensorRT packages with their versions."""

    target: str | None  # "sm89"; None without a GPU
    versions: Mapping[str, str]  # builder -> installed version
    reason: str = ""  # why there is no GPU


def this_machine(driver: Driver | None = None) -> Here:
    """Look at the driver and at the installed packages; TensorRT is not imported."""
    driver = probe_driver() if driver is None else driver
    found = {name: module_version(module) for name, module in RUNTIMES.items()}
    versions: dict[str, str] = {name: text for name, text in found.items() if text is not None}
    return Here(driver.gpus[0].target if driver.gpus else None, versions, driver.reason)


def module_version(module: str) -> str | None:
    """The version of an importable package, without importing it; None where there is none."""
    return package_version(module) if importlib.util.find_spec(module) is not None else None


def graph_source(bundle: Bundle, name: str) -> str:
    """The hash of what a graph consists of now."""
    graph = bundle.graph(name)
    return source_hash(bundle.manifest.files, (graph.file, *graph.data))


def why_stale(bundle: Bundle, engine: EngineMeta) -> str | None:
    """Say in a phrase why an engine is not of the graph that the bundle holds now, or None."""
    if graph_source(bundle, engine.graph) == engine.source:
        return None
    return f"it was built from another {engine.graph!r} than the bundle has now"


def why_foreign(engine: EngineMeta, here: Here) -> str | None:
    """Say in a phrase why an engine does not run on this machine, or None."""
    installed = here.versions.get(engine.builder)
    if installed is None:
        return f"it needs {engine.builder} {engine.version}, which is not installed"
    if installed != engine.version:
        return f"it was built by {engine.builder} {engine.version}, and {installed} is installed"
    if here.target is None:
        return here.reason or "there is no GPU"
    if here.target not in engine.targets:
        return f"it was built for {', '.join(engine.targets)}, and this GPU is {here.target}"
    return None


def select_engine(bundle: Bundle, graph: str, here: Here) -> EngineMeta:
    """The engine of a graph that may run here, the fastest first; ProviderError names every other and why not."""
    bundle.graph(graph)
    engines = [engine for engine in bundle.manifest.engines if engine.graph == graph]
    if not engines:
        given = f"no engine for the graph {graph!r}"
        raise ProviderError("engine", given, "a bundle with engines", "make them with `limner export tensorrt`")
    reasons = {}
    usable = []
    for engine in engines:
        reason = why_stale(bundle, engine) or why_foreign(engine, here)
        if reason is None:
            usable.append(engine)
        else:
            reasons[engine.file] = reason
    if not usable:
        given = "; ".join(f"{file} ({reason})" for file, reason in reasons.items())
        raise ProviderError(
            "engine",
            given,
            "an engine built from this graph, for this GPU, by the installed version",
            "make one with `limner export tensorrt`",
        )
    return min(usable, key=lambda engine: (engine.precision != "fp16", engine.file))


def check_plan(engine: EngineMeta, data: bytes) -> None:
    """Look at an engine's own header before TensorRT does; LimnerError if it is not what bundle.json says."""
    if engine.builder != "tensorrt-rtx":
        return
    if data[:4] != RTX_MAGIC:
        raise ProviderError("engine", f"{engine.file}, which is no engine of {engine.builder}", "the engine as built")
    numbers = data[RTX_VERSION_AT : RTX_VERSION_AT + 4]
    found = ".".join(map(str, numbers))
    if found != ".".join(engine.version.split(".")[:4]):
        raise ProviderError("engine", f"{engine.file}, whose header says version {found}", engine.version)


def check_sizes(engine: EngineMeta, graph: GraphMeta, inputs: Mapping[str, NDArray[Any]]) -> None:
    """Raise InputError naming the input and the dimension that the engine was not built for."""
    for tensor in graph.inputs:
        for size, symbol in zip(inputs[tensor.name].shape, tensor.shape, strict=True):
            limits = engine.sizes.get(symbol) if isinstance(symbol, str) else None
            if limits is not None and not limits[0] <= size <= limits[2]:
                allowed = f"{limits[0]} to {limits[2]}, which {engine.file} was built for"
                hint = f"build one with `limner export tensorrt --shapes {symbol}=...`"
                raise InputError(f"{engine.graph}.{tensor.name}", f"{symbol} = {size}", allowed, hint)


def survey(bundle: Bundle, here: Here) -> dict[str, str]:
    """Each engine's file -> "usable", or why it is not."""
    engines = bundle.manifest.engines
    return {engine.file: why_stale(bundle, engine) or why_foreign(engine, here) or "usable" for engine in engines}
