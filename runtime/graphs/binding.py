"""Graphs that are called many times with most inputs the same: arrays stay where the graph runs (IO binding)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.errors import GraphError
from limner.runtime.graphs.linear import linear_graph
from limner.runtime.graphs.providers import PROVIDER_OPTIONS, import_onnxruntime

__all__ = ["DEVICES", "BoundGraph", "Linear", "to_device"]

# Provider -> ONNX Runtime's name of the memory that its arrays lie in. Where a provider is not named, arrays go to and
# from the host at every call.
DEVICES = {"cpu": "cpu", "cuda": "cuda", "tensorrt": "cuda"}
Array = NDArray[Any]


def to_device(array: Array, device: str) -> Any:
    """An OrtValue of the array. On the CPU it is the array itself, which must not change afterwards."""
    return import_onnxruntime().OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, 0)


class BoundGraph:
    """A session with some inputs fixed. Calls give OrtValues, each in memory of its own."""

    def __init__(
        self, name: str, session: Any, device: str, outputs: Sequence[str], fixed: Mapping[str, Array]
    ) -> None:
        self.name, self.device, self.outputs = name, device, tuple(outputs)
        self._session, self._binding = session, session.io_binding()
        self._kept: dict[str, Any] = {}  # a binding does not keep what it points to
        for name_, array in fixed.items():
            self._give(name_, array)

    def __call__(self, **changed: Any) -> list[Any]:
        """Run with these inputs anew, numpy arrays or OrtValues; return the outputs in order."""
        for name, value in changed.items():
            self._give(name, value)
        for name in self.outputs:
            self._binding.bind_output(name, self.device)  # else the last call's memory would be written again
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as reason:
            first = (str(reason).strip() or type(reason).__name__).splitlines()[0]
            raise GraphError(f"graph {self.name!r} failed: {first[:200]}") from reason
        found: list[Any] = self._binding.get_outputs()
        return found

    def _give(self, name: str, value: Any) -> None:
        if isinstance(value, np.ndarray):
            value = to_device(value, self.device)
        self._kept[name] = value
        self._binding.bind_ortvalue_input(name, value)


class Linear:
    """Weighted sums of latents on the device, see `linear`; graphs are made at first use."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._graphs: dict[tuple[int, int, int], BoundGraph] = {}

    def __call__(
        self,
        plain: Sequence[tuple[Any, float]],  # OrtValue [N,C,h,w], its weight
        pairs: Sequence[tuple[Any, float, float]],  # OrtValue [2N,C,h,w], the weights of its halves
        scale: float,  # of `sample`
        copies: int,  # in `sample`
    ) -> tuple[Any, Any, float]:
        """Return latents and sample as OrtValues, and the sum of squares."""
        key = len(plain), len(pairs), copies
        if key not in self._graphs:
            outputs = ("latents", "sample", "square")
            self._graphs[key] = BoundGraph("linear", self._session(linear_graph(*key)), self.device, outputs, {})
        weights = [weight for _, weight in plain] + [weight for _, *both in pairs for weight in both]
        feed = {f"x{k}": value for k, (value, _) in enumerate(plain)}
        feed |= {f"p{k}": value for k, (value, *_) in enumerate(pairs)}
        latents, sample, square = self._graphs[key](
            weights=np.array(weights, np.float32), scale=np.array([scale], np.float32), **feed
        )
        return latents, sample, float(square.numpy())

    def _session(self, model: bytes) -> Any:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        provider = "CPUExecutionProvider" if self.device == "cpu" else "CUDAExecutionProvider"
        chosen = [(provider, dict(PROVIDER_OPTIONS.get(provider, {})))]
        return onnxruntime.InferenceSession(model, options, providers=chosen, enable_fallback=0)
