"""This machine, as reports name it."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["machine"]


def machine() -> dict[str, Any]:
    """Return what timings hang on: system, processor, cores, memory, Python and GPUs, as JSON data."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return {
        "system": platform.platform(),
        "processor": _processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(pages / 2**30, 1),
        "python": platform.python_version(),
        "executable": sys.executable,
        "gpus": _gpus(),
    }


def _processor() -> str | None:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return None
    names = [line.partition(":")[2].strip() for line in path.read_text().splitlines() if "model name" in line]
    return names[0] if names else None


def _gpus() -> list[str]:
    """Return name, memory and driver of the NVIDIA GPUs, or nothing where there is no driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
