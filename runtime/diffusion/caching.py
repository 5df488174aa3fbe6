"""Deep features of the UNet, kept between steps: DeepCache (Ma, Fang & Wang 2024, "DeepCache: Accelerating Diffusion
Models for Free", section 3.3, uniform 1:N inference).

What the deepest layers say changes little from step to step. Every N calls the whole UNet runs and gives, beside its
output, what its last residual block gets from the deeper ones; the calls between run the layers around that alone: the
first convolution, the last residual block with its attention, and the convolution behind. The picture is another one
than without, and N = 1 is exact.

Attention maps come from deeper layers and stay those of the last whole call. Where other rows are asked for than in the
last one (a text, a picture's size), the whole UNet runs, and N counts from there.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from limner.runtime.errors import InputError

__all__ = ["CACHED", "DEEP", "DeepFeatures", "Graphs", "no_cached_graph"]

FloatArray = NDArray[np.float32]
Arrays = Mapping[str, NDArray[Any]]
CACHED, DEEP = "unet_cached", "deep_features"  # a graph, and an output of "unet" that is its input
SAME = "encoder_hidden_states"  # tells the rows of two calls apart


class Graphs(Protocol):
    """What runs a graph by name: `Sessions`, or a twin of it in the tests."""

    def run(
        self, graph: str, /, *, only: Sequence[str] | None = None, **inputs: NDArray[Any]
    ) -> dict[str, NDArray[Any]]:
        """Return output name -> array."""
        ...


class DeepFeatures:
    """The UNet of one run: whole every `interval` calls, between them its last layers alone."""

    def __init__(self, graphs: Graphs, names: Sequence[str], interval: int) -> None:
        self.graphs = graphs
        self.names = [name for name in names if name != DEEP]  # inputs of the graph of the last layers
        self.interval = interval
        self._calls = 0  # since the last whole one
        self._before: dict[str, NDArray[Any]] = {}  # features, maps and texts of the last whole one

    def __call__(self, inputs: Arrays, maps: bool) -> tuple[FloatArray, FloatArray | None]:
        """Return the output [B,C,h,w] and, if asked for, the maps [B,K,h_a,w_a] for the inputs of the graph "unet"."""
        if self._calls < self.interval - 1 and self._fits(inputs, maps):
            self._calls += 1
            read = {name: inputs[name] for name in self.names}
            found = self.graphs.run(CACHED, only=["noise_pred"], **read, **{DEEP: self._before[DEEP]})
            return found["noise_pred"], self._before.get("blend_maps")
        wanted = ["noise_pred", DEEP, "blend_maps"] if maps else ["noise_pred", DEEP]
        found = self.graphs.run("unet", only=wanted, **inputs)
        self._calls = 0
        self._before = {**found, SAME: inputs[SAME]}
        return found["noise_pred"], found.get("blend_maps")

    def _fits(self, inputs: Arrays, maps: bool) -> bool:
        """Whether the last whole call was for these rows."""
        if not self._before or (maps and "blend_maps" not in self._before):
            return False
        same_size = inputs["sample"].shape[-2:] == self._before[DEEP].shape[-2:]
        return same_size and np.array_equal(self._before[SAME], inputs[SAME])


def no_cached_graph(interval: int) -> InputError:
    """The error of a bundle that has no graph for the steps between."""
    allowed = f"1 with a bundle that has no graph {CACHED!r}"
    return InputError("parameters.cache_interval", interval, allowed, "`limner export onnx` writes it")
