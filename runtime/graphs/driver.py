"""Is there an NVIDIA GPU? Asked of the driver's own library, since TensorRT's runtime ends the process without one."""

import ctypes
import functools
import sys
from dataclasses import dataclass
from typing import Any

from limner.runtime.errors import ProviderError

MAJOR, MINOR = 75, 76  # CUdevice_attribute: COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR
NAME_BYTES = 128
LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


@dataclass(frozen=True)
class Gpu:
    """One GPU that CUDA sees."""

    name: str
    target: str  # "sm89"
    memory: int  # bytes


@dataclass(frozen=True)
class Driver:
    """The driver and its GPUs, or why there are none."""

    version: str | None  # the newest CUDA that it can run, "13.0"
    gpus: tuple[Gpu, ...] = ()
    reason: str = ""  # why nothing can run; empty if something can

    def require(self, what: str) -> Gpu:
        """Return the first GPU, or raise ProviderError saying why `what` cannot run."""
        if self.gpus:
            return self.gpus[0]
        raise ProviderError("provider", f"{what!r} on a machine where {self.reason}", "an NVIDIA GPU and its driver")


@functools.cache
def probe_driver(library: str = LIBRARY) -> Driver:
    """Ask the driver once; never raises."""
    try:
        cuda = ctypes.CDLL(library)
    except OSError:
        return Driver(None, reason=f"there is no NVIDIA driver ({library} is missing)")
    try:
        return _ask(cuda)
    except AttributeError as reason:
        return Driver(None, reason=f"{library} is not an NVIDIA driver ({reason})")


def _ask(cuda: Any) -> Driver:
    code = cuda.cuInit(0)
    number = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(number))
    version = f"{number.value // 1000}.{number.value % 1000 // 10}"
    if code != 0:
        return Driver(version, reason=f"the NVIDIA driver does not start (CUDA error {code})")
    count = ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    gpus = tuple(_gpu(cuda, index) for index in range(count.value))
    return Driver(version, gpus, "" if gpus else "the NVIDIA driver sees no GPU")


def _gpu(cuda: Any, index: int) -> Gpu:
    device, major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(NAME_BYTES)
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, NAME_BYTES, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), MINOR, device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return Gpu(name.value.decode(errors="replace"), f"sm{major.value}{minor.value}", memory.value)
