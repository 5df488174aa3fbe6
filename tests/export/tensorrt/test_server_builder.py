"""TensorRT 10 and 11, which need a GPU to build: what they would be told, by a twin that writes it down."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from limner.export.tensorrt.api import ServerBuilder
from limner.export.tensorrt.profiles import Profile
from limner.export.tensorrt.request import RefusedError, Request
from limner.runtime.errors import InputError
from limner.runtime.graphs.driver import Driver, Gpu

GPU = Driver("13.0", (Gpu("a GPU", "sm89", 1),))


class Layer:
    def __init__(self, name: str, kind: str) -> None:
        self.name, self.kind, self.num_outputs = name, kind, 1
        self.precision: str | None = None
        self.outputs: list[tuple[int, str]] = []

    def get_output(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(dtype=self.kind)

    def set_output_type(self, index: int, kind: str) -> None:
        self.outputs.append((index, kind))


class Tensorrt:
    """A twin of the package `tensorrt`."""

    float32 = "float32"
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    BuilderFlag = SimpleNamespace(TF32="tf32", FP16="fp16", REFIT="refit", OBEY_PRECISION_CONSTRAINTS="obey")

    class ILogger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)

    class IProgressMonitor:
        pass

    def __init__(self, version: str, refuses: bool = False) -> None:
        self.__version__, self.refuses = version, refuses
        self.flags: set[str] = {"tf32"}
        self.creation, self.parsed = -1, ""
        self.profiles: list[Any] = []
        self.layers = [Layer("norm", "float32"), Layer("shape", "int64"), Layer("conv", "float32")]
        self.cache = b""

    def Builder(self, logger: Any) -> Any:
        plan = None if self.refuses else b"plan"
        return SimpleNamespace(
            create_network=self._network,
            create_builder_config=lambda: self._config(),
            create_optimization_profile=lambda: SimpleNamespace(set_shape=lambda *given: self.profiles.append(given)),
            build_serialized_network=lambda network, config: plan,
        )

    def _network(self, flags: int) -> Any:
        self.creation = flags
        return SimpleNamespace(num_layers=len(self.layers), get_layer=self.layers.__getitem__)

    def _config(self) -> Any:
        def use(cache: Any, ignore: bool) -> bool:
            self.cache = cache.data
            return cache.data != b"of another GPU"

        return SimpleNamespace(
            set_flag=self.flags.add,
            clear_flag=self.flags.discard,
            add_optimization_profile=lambda profile: None,
            create_timing_cache=lambda data: SimpleNamespace(data=data),
            set_timing_cache=use,
            get_timing_cache=lambda: SimpleNamespace(serialize=lambda: self.cache + b"+timed"),
        )

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        def parse(path: str) -> bool:
            self.parsed = path
            return True

        return SimpleNamespace(parse_from_file=parse)


def request(cache: Path | None = None) -> Request:
    shapes = {"z": Profile((1, 4), (1, 4), (8, 4))}
    return Request("mapping", Path("mapping.onnx"), shapes, ("sm89",), "fp16", ("norm", "shape"), True, cache)


def test_version_11_is_strongly_typed() -> None:
    trt = Tensorrt("11.0.0.114")
    assert ServerBuilder(trt, GPU).build(request()) == b"plan"
    assert trt.creation == 1 << 1
    assert trt.flags == {"refit"}
    assert trt.profiles == [("z", (1, 4), (1, 4), (8, 4))]
    assert all(layer.precision is None for layer in trt.layers)


def test_version_10_is_weakly_typed_and_holds_what_has_to_stay() -> None:
    trt = Tensorrt("10.3.0")
    ServerBuilder(trt, GPU).build(request())
    assert trt.creation == 0
    assert trt.flags == {"fp16", "obey", "refit"}
    assert [layer.precision for layer in trt.layers] == ["float32", None, None]
    assert trt.layers[0].outputs == [(0, "float32")]


def test_kernel_timings_are_kept(tmp_path: Path) -> None:
    trt, path = Tensorrt("11.0.0"), tmp_path / "deep" / "timing.cache"
    builder = ServerBuilder(trt, GPU)
    builder.build(request(path))
    assert path.read_bytes() == b"+timed"
    builder.build(request(path))
    assert path.read_bytes() == b"+timed+timed"
    path.write_bytes(b"of another GPU")
    builder.build(request(path))
    assert path.read_bytes() == b"+timed"


def test_it_builds_for_the_gpu_at_hand_alone() -> None:
    builder = ServerBuilder(Tensorrt("11.0.0"), GPU)
    assert builder.resolve_targets(["sm89"]) == ("sm89",)
    with pytest.raises(InputError, match=r"'sm120'; allowed: sm89, the GPU at hand \(a GPU\).*limner\[tensorrt-rtx\]"):
        builder.resolve_targets(["sm89", "sm120"])


def test_a_build_without_a_plan() -> None:
    with pytest.raises(RefusedError, match="the graph 'mapping' does not compile: the compiler gave no reason"):
        ServerBuilder(Tensorrt("11.0.0", refuses=True), GPU).build(request())
