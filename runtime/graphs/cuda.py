"""The few calls of CUDA that running an engine takes, by the driver's own library: no CUDA package is needed.

`Device` is what `session` asks for; `CudaDevice` is the real one, and the tests have a twin in host memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from limner.runtime.errors import LimnerError
from limner.runtime.graphs.driver import LIBRARY, Driver, probe_driver

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


class Device(Protocol):
    """Memory and one queue of work of a GPU. Addresses and the stream are plain numbers."""

    stream: int

    def attach(self) -> None:
        """Make this GPU the one of the calling thread."""

    def allocate(self, size: int) -> int:
        """Return the address of `size` bytes."""

    def free(self, address: int) -> None:
        """Give memory back."""

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy of a contiguous array to the GPU."""

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy from the GPU into a contiguous array."""

    def synchronize(self) -> None:
        """Wait until everything queued is done."""

    def capture(self, work: Callable[[], None]) -> int:
        """Record what `work` queues, without doing it, as a graph that `launch` repeats."""

    def launch(self, graph: int) -> None:
        """Queue a recorded graph."""

    def forget(self, graph: int) -> None:
        """Drop a recorded graph."""


class CudaDevice:
    """The first GPU, by the CUDA driver API."""

    def __init__(self, driver: Driver | None = None, library: str = LIBRARY) -> None:
        (probe_driver() if driver is None else driver).require("engine")
        self._cuda = ctypes.CDLL(library)
        self._call("cuInit", ctypes.c_uint(0))
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._context = context
        self.attach()
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(NON_BLOCKING))
        self.stream = stream.value or 0

    def attach(self) -> None:
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return address.value

    def free(self, address: int) -> None:
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, array: NDArray[Any]) -> None:
        source, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), source, size, self._stream())

    def download(self, address: int, array: NDArray[Any]) -> None:
        target, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        self._call("cuMemcpyDtoHAsync_v2", target, ctypes.c_uint64(address), size, self._stream())

    def synchronize(self) -> None:
        self._call("cuStreamSynchronize", self._stream())

    def capture(self, work: Callable[[], None]) -> int:
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream(), ctypes.c_int(THREAD_LOCAL))
        try:
            work()
        finally:
            self._call("cuStreamEndCapture", self._stream(), ctypes.byref(graph))
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_uint64(0))
        self._call("cuGraphDestroy", graph)
        return executable.value or 0

    def launch(self, graph: int) -> None:
        self._call("cuGraphLaunch", ctypes.c_void_p(graph), self._stream())

    def forget(self, graph: int) -> None:
        self._call("cuGraphExecDestroy", ctypes.c_void_p(graph))

    def _stream(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.stream)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code != 0:
            text = ctypes.c_char_p()
            self._cuda.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text))
            reason = (text.value or b"no reason given").decode(errors="replace")
            raise LimnerError(f"the GPU refused {name}: {reason} (CUDA error {code})")


class Buffers:
    """Named pieces of GPU memory that grow when they must and are used again."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._held: dict[str, tuple[int, int]] = {}  # name -> address, size
        self.moves = 0  # how often memory was given back: addresses known from before are void

    def address(self, name: str, size: int) -> int:
        """The address of at least `size` bytes kept under that name; it changes only when they grow."""
        held = self._held.get(name)
        if held is not None and held[1] >= size:
            return held[0]
        if held is not None:
            self.device.free(held[0])
            del self._held[name]
            self.moves += 1
        address = self.device.allocate(size)
        self._held[name] = (address, size)
        return address

    def close(self) -> None:
        """Give all of it back."""
        self.moves += 1
        while self._held:
            _, (address, _) = self._held.popitem()
            self.device.free(address)


def host_array(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """An uninitialised contiguous array to download into."""
    return np.empty(shape, np.dtype(dtype))
