"""Execution providers: which exist, which this machine has, and wheels that get in each other's way."""

import importlib
import importlib.metadata
from typing import Any

from limner.runtime.errors import ProviderError, nearest

# Our name -> ONNX Runtime's providers in order of precedence; the first is the one asked for, and only
# TensorRT may hand nodes that it cannot run to CUDA.
PROVIDERS: dict[str, tuple[str, ...]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
    "tensorrt-rtx": ("NvTensorRTRTXExecutionProvider",),
    "rocm": ("ROCMExecutionProvider",),
    "migraphx": ("MIGraphXExecutionProvider",),
    "directml": ("DmlExecutionProvider",),
    "openvino": ("OpenVINOExecutionProvider",),
    "coreml": ("CoreMLExecutionProvider",),
}

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
    """Import onnxruntime, or raise ProviderError saying which extra brings it."""
    try:
        return importlib.import_module("onnxruntime")
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
    return tuple(sorted(names, key=lambda name: (name != "cpu", name)))


def installed_wheels() -> dict[str, str]:
    """Return the installed onnxruntime wheels with their versions; they all share one import path."""
    versions = {wheel: _version(wheel) for wheel in WHEELS}
    return {wheel: version for wheel, version in versions.items() if version is not None}


def _version(wheel: str) -> str | None:
    try:
        return importlib.metadata.version(wheel)
    except importlib.metadata.PackageNotFoundError:
        return None


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
    if name not in PROVIDERS:
        hint = nearest(name, PROVIDERS) or f"known names are {', '.join(PROVIDERS)}"
        raise ProviderError("provider", repr(name), f"{allowed} (available here)", hint)
    conflict = wheel_conflict()
    if conflict and name != "cpu":
        hint = "uninstall all of them and install the one you need again"
        raise ProviderError("provider", f"{name!r} while {conflict}", "one onnxruntime wheel", hint)
    if name not in available:
        hint = "install limner[gpu] in place of limner[cpu]" if name in NEEDS_CUDA_LIBRARIES else ""
        raise ProviderError(
            "provider",
            f"{name!r}, which is not available",
            f"{allowed} (available here)",
            hint,
        )
    if name in NEEDS_CUDA_LIBRARIES:
        preload = getattr(import_onnxruntime(), "preload_dlls", None)  # from 1.21 on
        if preload is not None:
            preload()
    return PROVIDERS[name]
