"""One engine, warm: arrays in, arrays out, on the GPU in between. It stands in for an ONNX Runtime session.

Shapes that come again are replayed as a CUDA graph: one launch in place of one for each kernel. TensorRT for RTX does
that itself (its kernels are still being specialised in the first runs); for TensorRT the second run of a shape records
it.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.engines import EngineMeta
from limner.runtime.bundle.loading import Bundle
from limner.runtime.errors import BundleError, GraphError, ProviderError
from limner.runtime.graphs.cuda import Buffers, CudaDevice, Device, host_array
from limner.runtime.graphs.driver import probe_driver
from limner.runtime.graphs.selection import (
    RUNTIMES,
    Here,
    check_plan,
    check_sizes,
    select_engine,
    this_machine,
)
from limner.runtime.storage.caches import cache_folder
from limner.runtime.storage.files import sha256_bytes, write_atomically


class EngineSession:
    """The engine of one graph of a bundle.

    Raises ProviderError when the bundle has none for this machine, naming every engine and why it does not fit.
    """

    def __init__(
        self,
        bundle: Bundle,
        graph: str,
        *,
        here: Here | None = None,
        device: Device | None = None,
        trt: Any = None,  # the TensorRT package; imported only after the driver has shown a GPU
    ) -> None:
        here = this_machine() if here is None else here
        self.meta = bundle.graph(graph)
        self.engine_meta = select_engine(bundle, graph, here)
        plan = read_plan(bundle, self.engine_meta)
        self._device = shared_device() if device is None else device
        self._device.attach()
        self._trt = _import(self.engine_meta) if trt is None else trt
        self._engine = self._deserialize(plan)
        self._check_interface()
        self._cache = Kernels(self._trt, self._engine, self.engine_meta)
        self._context = self._cache.context()
        self._buffers = Buffers(self._device)
        self._lock = threading.Lock()
        self._moves = 0  # of the buffers, when the graphs below were recorded
        self._seen: set[tuple[Any, ...]] = set()  # shapes that ran once with the present buffers
        self._graphs: dict[tuple[Any, ...], int] = {}

    def run(self, wanted: Sequence[str], feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the named outputs. InputError when a size lies outside those that the engine was built for."""
        check_sizes(self.engine_meta, self.meta, feed)
        with self._lock:
            self._device.attach()
            for name, array in feed.items():
                if not self._context.set_input_shape(name, tuple(array.shape)):
                    raise GraphError(f"the engine of {self.engine_meta.graph!r} refused {name} {list(array.shape)}")
            outputs = self._outputs()
            key = self._bind(feed, outputs)
            for name, array in feed.items():
                self._device.upload(self._buffers.address(name, array.nbytes), array)
            self._execute(key)
            for name in wanted:
                self._device.download(self._buffers.address(name, outputs[name].nbytes), outputs[name])
            self._device.synchronize()
            self._cache.save()
        return [outputs[name] for name in wanted]

    def close(self) -> None:
        """Give the GPU's memory back."""
        with self._lock:
            self._drop_graphs()
            self._buffers.close()

    def _outputs(self) -> dict[str, NDArray[Any]]:
        """Empty arrays for every output, of the shapes that the inputs lead to."""
        missing = self._context.infer_shapes()
        if missing:
            raise GraphError(f"the engine of {self.engine_meta.graph!r} lacks {', '.join(missing)}")
        shapes = {t.name: tuple(self._context.get_tensor_shape(t.name)) for t in self.meta.outputs}
        return {t.name: host_array(shapes[t.name], t.dtype) for t in self.meta.outputs}

    def _bind(self, feed: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> tuple[Any, ...]:
        """Tell the engine where everything lies; return what makes this call equal to another one."""
        arrays = {**feed, **outputs}
        key = tuple((name, array.shape, self._buffers.address(name, array.nbytes)) for name, array in arrays.items())
        for name, _, address in key:
            self._context.set_tensor_address(name, address)
        if self._moves != self._buffers.moves:  # what was recorded points to memory that is gone
            self._drop_graphs()
            self._moves = self._buffers.moves
        return key

    def _execute(self, key: tuple[Any, ...]) -> None:
        def enqueue() -> None:
            if not self._context.execute_async_v3(self._device.stream):
                raise GraphError(f"the engine of {self.engine_meta.graph!r} did not start")

        if key in self._graphs:
            self._device.launch(self._graphs[key])
        elif key in self._seen and self._cache.records_here:
            self._graphs[key] = self._device.capture(enqueue)
            self._device.launch(self._graphs[key])
        else:
            self._seen.add(key)
            enqueue()

    def _drop_graphs(self) -> None:
        for graph in self._graphs.values():
            self._device.forget(graph)
        self._graphs.clear()
        self._seen.clear()

    def _deserialize(self, plan: bytes) -> Any:
        runtime = _runtime(self._trt)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            given = f"{self.engine_meta.file}, which {self.engine_meta.builder} does not load"
            raise ProviderError("engine", given, "an engine for this GPU", "make one with `limner export tensorrt`")
        return engine

    def _check_interface(self) -> None:
        """Compare the engine's inputs and outputs with the graph's: an engine of another graph is refused."""
        trt, found = self._trt, {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            is_input = self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            found[name] = (is_input, np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))).name)
        declared = {t.name: (True, t.dtype) for t in self.meta.inputs}
        declared |= {t.name: (False, t.dtype) for t in self.meta.outputs}
        if found != declared:
            names = ", ".join(declared)
            given = f"{self.engine_meta.file} with {', '.join(found)}"
            raise BundleError(f"engines.{self.engine_meta.graph}", given, f"the tensors of the graph: {names}")


class Kernels:
    """What TensorRT for RTX compiles on this GPU, kept from one start to the next; of `tensorrt` nothing is to keep."""

    def __init__(self, trt: Any, engine: Any, meta: EngineMeta) -> None:
        self._engine = engine
        self._config: Any = None
        self._cache: Any = None
        self._size = 0
        self.records_here = meta.builder == "tensorrt"  # the caller records CUDA graphs
        if self.records_here:
            return
        self._path = kernel_file(meta)
        self._config = engine.create_runtime_config()
        self._config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache = self._config.create_runtime_cache()
        if self._path.is_file():
            data = self._path.read_bytes()
            self._cache.deserialize(data)
            self._size = len(data)
        self._config.set_runtime_cache(self._cache)

    def context(self) -> Any:
        """An execution context with these kernels."""
        return self._engine.create_execution_context(*([] if self._config is None else [self._config]))

    def save(self) -> None:
        """Write the kernels if there are more of them than before."""
        if self._cache is None:
            return
        data = bytes(self._cache.serialize())
        if len(data) > self._size:
            self._size = len(data)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, data, "cache")


def kernel_file(meta: EngineMeta) -> Path:
    """Where the kernels of an engine are kept: one file for each graph's content, version and precision."""
    return cache_folder() / "kernels" / f"{meta.graph}-{meta.source[:16]}-{meta.precision}-{meta.version}.bin"


def read_plan(bundle: Bundle, meta: EngineMeta) -> bytes:
    """Read an engine and check it against bundle.json and its own header; BundleError naming the file."""
    path = bundle.file(meta.file)
    try:
        plan = path.read_bytes()
    except OSError as reason:
        raise BundleError(meta.file, f"{reason.strerror or reason}", "a readable file") from reason
    if sha256_bytes(plan) != bundle.manifest.files[meta.file].sha256:
        raise BundleError(meta.file, "other content than bundle.json knows", "the engine as it was built")
    check_plan(meta, plan)
    return plan


@functools.cache
def shared_device() -> Device:
    """The one GPU that all sessions of the process use."""
    return CudaDevice()


@functools.cache
def _runtime(trt: Any) -> Any:
    """TensorRT's runtime, one for the process; only ever made after the driver has shown a GPU."""
    return trt.Runtime(trt.Logger(trt.Logger.ERROR))


def _import(meta: EngineMeta) -> Any:
    probe_driver().require("engine")
    return importlib.import_module(RUNTIMES[meta.builder])
