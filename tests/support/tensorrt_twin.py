"""Twins of a GPU and of TensorRT, in host memory: an "engine" is an engine's header with an ONNX graph behind it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

VERSION = (1, 7, 1, 116)
HEADER = 64


def plan(model: bytes, version: tuple[int, ...] = VERSION) -> bytes:
    """An engine file of the twin, with the header that TensorRT for RTX writes."""
    return b"vtrt" + bytes(20) + bytes(version) + bytes(HEADER - 28) + model


class HostDevice:
    """`Device` in host memory. Work is done at once, but for what is being captured."""

    def __init__(self) -> None:
        self.stream = 7
        self.memory: dict[int, Any] = {}
        self.freed: list[int] = []
        self.graphs: dict[int, Callable[[], None]] = {}
        self.launches = 0
        self.capturing: list[Callable[[], None]] | None = None

    def attach(self) -> None:
        pass

    def allocate(self, size: int) -> int:
        block = (ctypes.c_char * size)()
        address = ctypes.addressof(block)
        self.memory[address] = block
        return address

    def free(self, address: int) -> None:
        del self.memory[address]
        self.freed.append(address)

    def upload(self, address: int, array: NDArray[Any]) -> None:
        assert address in self.memory
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, address: int, array: NDArray[Any]) -> None:
        assert address in self.memory
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def synchronize(self) -> None:
        pass

    def enqueue(self, work: Callable[[], None]) -> None:
        if self.capturing is None:
            work()
        else:
            self.capturing.append(work)

    def capture(self, work: Callable[[], None]) -> int:
        self.capturing = []
        work()
        recorded, self.capturing = self.capturing, None
        graph = len(self.graphs) + 1

        def again() -> None:
            for step in recorded:
                step()

        self.graphs[graph] = again
        return graph

    def launch(self, graph: int) -> None:
        self.launches += 1
        self.graphs[graph]()

    def forget(self, graph: int) -> None:
        del self.graphs[graph]


class FakeTrt:
    """What `session` uses of the tensorrt packages."""

    class TensorIOMode:
        INPUT, OUTPUT = "in", "out"

    class CudaGraphStrategy:
        WHOLE_GRAPH_CAPTURE = "whole"

    def __init__(self, device: HostDevice) -> None:
        self.device = device
        self.Runtime, self.Logger = self._runtime, FakeLogger

    @staticmethod
    def nptype(kind: str) -> type:
        return {"tensor(float)": np.float32, "tensor(int64)": np.int64}[kind]

    def _runtime(self, logger: FakeLogger) -> FakeRuntime:
        return FakeRuntime(self.device)


class FakeLogger:
    ERROR = 1

    def __init__(self, level: int) -> None:
        self.level = level


class FakeRuntime:
    def __init__(self, device: HostDevice) -> None:
        self.device = device

    def deserialize_cuda_engine(self, data: bytes) -> FakeEngine | None:
        return FakeEngine(data[HEADER:], self.device) if len(data) > HEADER else None


class FakeEngine:
    def __init__(self, model: bytes, device: HostDevice) -> None:
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self.device = device
        self.values = {v.name: (True, v) for v in self.session.get_inputs()}
        self.values |= {v.name: (False, v) for v in self.session.get_outputs()}
        self.num_io_tensors = len(self.values)
        self.configs: list[FakeConfig] = []

    def get_tensor_name(self, index: int) -> str:
        return list(self.values)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if self.values[name][0] else "out"

    def get_tensor_dtype(self, name: str) -> str:
        return str(self.values[name][1].type)

    def create_runtime_config(self) -> FakeConfig:
        self.configs.append(FakeConfig())
        return self.configs[-1]

    def create_execution_context(self, *config: FakeConfig) -> FakeContext:
        return FakeContext(self)


class FakeConfig:
    def __init__(self) -> None:
        self.cuda_graph_strategy = ""
        self.data = b""

    def create_runtime_cache(self) -> FakeConfig:
        return self

    def deserialize(self, data: bytes) -> None:
        self.data = data

    def set_runtime_cache(self, cache: FakeConfig) -> None:
        assert cache is self

    def serialize(self) -> bytes:
        return self.data or b"kernels"


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def infer_shapes(self) -> list[str]:
        return [n for n, (given, _) in self.engine.values.items() if given and n not in self.shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch = next(iter(self.shapes.values()))[0]
        return tuple(batch if isinstance(size, str) else size for size in self.engine.values[name][1].shape)

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == self.engine.device.stream
        shapes, addresses = dict(self.shapes), dict(self.addresses)

        def work() -> None:
            feed = {name: self._view(addresses[name], shape) for name, shape in shapes.items()}
            names = [name for name, (given, _) in self.engine.values.items() if not given]
            for name, array in zip(names, self.engine.session.run(names, feed), strict=True):
                np.copyto(self._view(addresses[name], array.shape), array)

        self.engine.device.enqueue(work)
        return True

    def _view(self, address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        assert address in self.engine.device.memory, "memory that was given back"
        kind = ctypes.c_float * int(np.prod(shape))
        numbers: NDArray[np.float32] = np.ctypeslib.as_array(kind.from_address(address)).reshape(shape)
        return numbers
