"""Execution providers: which exist, which this machine has, and wheels that get in each other's way."""

import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Mapping
from typing import Any

from limner.runtime.errors import ProviderError, nearest
from limner.runtime.graphs.driver import probe_driver
from limner.runtime.graphs.selection import this_machine
from limner.runtime.versions import package_version

# Our name -> ONNX Runtime's providers in order of precedence; the first is the one asked for, and only
# TensorRT may hand nodes that it cannot run to CUDA.
PROVIDERS: dict[str, tuple[str, ...]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
    "tensorrt-rtx": ("NvTensorRTRTXExecutionProvider",),  # built in, or the plugin
    "rocm": ("ROCMExecutionProvider",),
    "migraphx": ("MIGraphXExecutionProvider",),
    "directml": ("DmlExecutionProvider",),
    "openvino": ("OpenVINOExecutionProvider",),
    "coreml": ("CoreMLExecutionProvider",),
}

ENGINE = "engine"  # the bundle's own engines, without ONNX Runtime
PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"  # the package of the plugin behind "tensorrt-rtx"
PLUGIN_PROVIDER = "NvTensorRTRTXExecutionProvider"
NEEDS_DRIVER = {"tensorrt", "tensorrt-rtx", ENGINE}  # TensorRT ends the process where there is none

# fp32 means fp32, and the same algorithm on every start: a recipe replays to the same pixels.
PROVIDER_OPTIONS: dict[str, dict[str, str]] = {
    "CUDAExecutionProvider": {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"},
}

WHEELS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-rocm",
    "onnxruntime-migraphx",
    "onnxruntime-silicon",
)
NEEDS_CUDA_LIBRARIES = {"cuda", "tensorrt"}


def import_onnxruntime() -> Any:
    """Import onnxruntime, or raise ProviderError saying which extra brings it. Its telemetry stays off."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when it is imported, from 1.32 on
    try:
        onnxruntime = importlib.import_module("onnxruntime")
        getattr(onnxruntime, "disable_telemetry_events", lambda: None)()  # before; Windows alone had any
        return onnxruntime
    except ImportError as reason:
        hint = "run `pip install 'limner[cpu]'` or `pip install 'limner[gpu]'`"
        raise ProviderError(
            "provider",
            f"no usable onnxruntime ({reason})",
            "an installed onnxruntime",
            hint,
        ) from reason


def available_providers() -> tuple[str, ...]:
    """Return our names of the providers that the installed onnxruntime has, sorted, "cpu" first."""
    present = set(import_onnxruntime().get_available_providers())
    names = [name for name, providers in PROVIDERS.items() if providers[0] in present]
    if importlib.util.find_spec(PLUGIN) is not None and "tensorrt-rtx" not in names:
        names.append("tensorrt-rtx")
    if this_machine().versions:
        names.append(ENGINE)
    names = [name for name in names if name not in NEEDS_DRIVER or probe_driver().gpus]
    return tuple(sorted(names, key=lambda name: (name != "cpu", name)))


def installed_wheels() -> dict[str, str]:
    """Return the installed onnxruntime wheels with their versions; they all share one import path."""
    versions = {wheel: package_version(wheel) for wheel in WHEELS}
    return {wheel: version for wheel, version in versions.items() if version is not None}


def wheel_conflict() -> str | None:
    """Return one sentence if several onnxruntime wheels overwrite each other's files, else None."""
    wheels = installed_wheels()
    if len(wheels) < 2:
        return None
    listed = " and ".join(f"{name} {version}" for name, version in wheels.items())
    return f"{listed} are installed together and share one import path"


def check_provider(name: str) -> tuple[str, ...]:
    """Return ONNX Runtime's providers for our `name`, or raise ProviderError naming those available."""
    available = available_providers()
    allowed = ", ".join(available) or "none"
    known = (*PROVIDERS, ENGINE)
    if name not in known:
        hint = nearest(name, known) or f"known names are {', '.join(known)}"
        raise ProviderError("provider", repr(name), f"{allowed} (available here)", hint)
    conflict = wheel_conflict()
    if conflict and name != "cpu":
        hint = "uninstall all of them and install the one you need again"
        raise ProviderError("provider", f"{name!r} while {conflict}", "one onnxruntime wheel", hint)
    if name not in available:
        raise ProviderError("provider", f"{name!r}, which {_why_not(name)}", f"{allowed} (available here)", _way(name))
    if name == ENGINE:
        return ()
    if name in NEEDS_CUDA_LIBRARIES:
        preload = getattr(import_onnxruntime(), "preload_dlls", None)  # from 1.21 on
        if preload is not None:
            preload()
    return PROVIDERS[name]


def _why_not(name: str) -> str:
    reason = probe_driver().reason
    return f"is not available: {reason}" if name in NEEDS_DRIVER and reason else "is not available"


def _way(name: str) -> str:
    if name in NEEDS_CUDA_LIBRARIES:
        return "install limner[gpu] in place of limner[cpu]"
    ways = {ENGINE: "limner[tensorrt-rtx] or limner[tensorrt]", "tensorrt-rtx": PLUGIN.replace("_", "-")}
    return f"install {ways[name]}; see `limner check`" if name in ways else ""


def add_plugin(options: Any, provider_options: Mapping[str, str]) -> None:
    """Put the plugin provider of TensorRT for RTX into session options; ProviderError where it finds no GPU.

    Nodes that it cannot run are an error: nothing goes to the CPU unasked.
    """
    probe_driver().require("tensorrt-rtx")
    onnxruntime, plugin = import_onnxruntime(), importlib.import_module(PLUGIN)
    name = plugin.get_ep_name()
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
    if not devices:
        onnxruntime.register_execution_provider_library(name, plugin.get_library_path())
        devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
    if not devices:
        raise ProviderError("provider", "'tensorrt-rtx', which finds no GPU that it supports", "an RTX GPU")
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_provider_for_devices(devices[:1], dict(provider_options))
