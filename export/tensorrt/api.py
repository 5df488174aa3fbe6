"""Builders over TensorRT's Python API, which TensorRT for RTX shares but for targets, types and timing."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limner.export.tensorrt.request import Progress, Refusal, RefusedError, Request
from limner.runtime.bundle.engines import Builder
from limner.runtime.errors import InputError
from limner.runtime.graphs.driver import Driver
from limner.runtime.storage.files import write_atomically


class ApiBuilder:
    """Parse, profile, configure, build. Subclasses say what differs; `trt` is the imported package."""

    name: Builder
    strongly_typed = True
    fused_attention = False

    def __init__(self, trt: Any) -> None:
        self.trt = trt
        self.version = str(trt.__version__)

    def check_refit(self) -> None:
        """Raise InputError where engines whose weights can be replaced cannot be built."""

    def build(self, request: Request, progress: Progress | None = None) -> bytes:
        logger = _collecting_logger(self.trt)
        logger.errors.clear()
        builder = self.trt.Builder(logger)
        network = builder.create_network(self._creation_flags())
        self._parse(request, network, logger)
        config = builder.create_builder_config()
        config.clear_flag(self.trt.BuilderFlag.TF32)  # fp32 means fp32
        if request.refit:
            config.set_flag(self.trt.BuilderFlag.REFIT)
        if request.profiles:
            config.add_optimization_profile(self._profile(request, builder))
        self._configure(request, network, config)
        monitor = None if progress is None else _monitor(self.trt, progress)
        if monitor is not None:
            config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        if monitor is not None and monitor.interrupted:
            raise KeyboardInterrupt
        if plan is None:
            raise RefusedError(request.graph, [Refusal("", "", logger.first_error())])
        self._after(request, config)
        return bytes(plan)

    def _creation_flags(self) -> int:
        flag = getattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return 0 if flag is None or not self.strongly_typed else 1 << int(flag)

    def _parse(self, request: Request, network: Any, logger: Any) -> None:
        parser = self.trt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(request.path)):
            found = [parser.get_error(index) for index in range(parser.num_errors)]
            refusals = [Refusal(e.node_operator(), e.node_name(), _one_line(e.desc())) for e in found]
            raise RefusedError(request.graph, refusals or [Refusal("", "", logger.first_error())])

    def _profile(self, request: Request, builder: Any) -> Any:
        profile = builder.create_optimization_profile()
        for name, shapes in request.profiles.items():
            profile.set_shape(name, shapes.minimum, shapes.best, shapes.maximum)
        return profile

    def _configure(self, request: Request, network: Any, config: Any) -> None:
        """What this builder sets beside the rest."""

    def _after(self, request: Request, config: Any) -> None:
        """What this builder keeps of a build."""


class RtxBuilder(ApiBuilder):
    """TensorRT for RTX: ahead of time, for several GPUs, with none at hand. It has no timing cache (1.2 and later)."""

    name: Builder = "tensorrt-rtx"
    fused_attention = True  # its parser makes one layer of it

    def __init__(self, trt: Any, driver: Driver) -> None:
        super().__init__(trt)
        self.driver = driver

    def check_refit(self) -> None:
        """Its compiler starts the GPU for engines whose weights can be replaced, and fails where there is none."""
        if not self.driver.gpus:
            given = f"an engine to refit, by {self.name} where {self.driver.reason}"
            raise InputError("refit", given, "a machine with an NVIDIA GPU, or no --refit")

    def targets(self) -> tuple[str, ...]:
        """The GPU architectures that this version builds for."""
        names = [name[2:] for name in self.trt.ComputeCapability.__members__ if name.startswith("SM")]
        return tuple(f"sm{name}" for name in sorted(names, key=int))

    def resolve_targets(self, asked: Sequence[str]) -> tuple[str, ...]:
        known = self.targets()
        for target in asked:
            if target not in known:
                hint = "other GPUs need the builder `tensorrt` on such a GPU: pip install 'limner[tensorrt]'"
                raise InputError("target", repr(target), f"{', '.join(known)} with {self.name} {self.version}", hint)
        return tuple(sorted(dict.fromkeys(asked), key=known.index))

    def _configure(self, request: Request, network: Any, config: Any) -> None:
        config.num_compute_capabilities = len(request.targets)
        for index, target in enumerate(request.targets):
            config.set_compute_capability(getattr(self.trt.ComputeCapability, f"SM{target[2:]}"), index)


class ServerBuilder(ApiBuilder):
    """TensorRT 10 and 11: for the GPU at hand, with a timing cache."""

    name: Builder = "tensorrt"

    def __init__(self, trt: Any, driver: Driver) -> None:
        super().__init__(trt)
        self.driver = driver
        self.strongly_typed = int(self.version.split(".")[0]) >= 11

    def resolve_targets(self, asked: Sequence[str]) -> tuple[str, ...]:
        here = self.driver.require(self.name)
        for target in asked:
            if target != here.target:
                hint = "`tensorrt-rtx` builds for RTX GPUs that are not at hand: pip install 'limner[tensorrt-rtx]'"
                raise InputError("target", repr(target), f"{here.target}, the GPU at hand ({here.name})", hint)
        return (here.target,)

    def _configure(self, request: Request, network: Any, config: Any) -> None:
        if request.timing_cache is not None:
            data = request.timing_cache.read_bytes() if request.timing_cache.is_file() else b""
            if not config.set_timing_cache(config.create_timing_cache(data), False):  # of another version or GPU
                config.set_timing_cache(config.create_timing_cache(b""), False)
        if self.strongly_typed or request.precision == "fp32":
            return
        config.set_flag(self.trt.BuilderFlag.FP16)
        config.set_flag(self.trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        kept = set(request.keep_fp32)
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            if layer.name in kept:
                self._hold(layer)

    def _hold(self, layer: Any) -> None:
        """Keep one layer and its outputs in fp32, unless it does not compute in floating point."""
        types = [layer.get_output(index).dtype for index in range(layer.num_outputs)]
        if all(kind == self.trt.float32 for kind in types):
            layer.precision = self.trt.float32
            for index in range(layer.num_outputs):
                layer.set_output_type(index, self.trt.float32)

    def _after(self, request: Request, config: Any) -> None:
        cache = config.get_timing_cache() if request.timing_cache is not None else None
        if cache is not None and request.timing_cache is not None:
            _write_cache(request.timing_cache, bytes(cache.serialize()))


def _write_cache(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data, "timing_cache")


@functools.cache
def _collecting_logger(trt: Any) -> Any:
    """A logger that keeps what TensorRT says of errors; one for the whole process, since TensorRT uses the first."""

    class Collecting(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(_one_line(text))

        def first_error(self) -> str:
            return self.errors[0] if self.errors else "the compiler gave no reason"

    return Collecting()


def _monitor(trt: Any, progress: Progress) -> Any:
    """TensorRT's progress, told phase by phase; ctrl-C ends the build."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.interrupted = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                progress(phase_name, step + 1, self.steps.get(phase_name, 0))
            except KeyboardInterrupt:
                self.interrupted = True
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:297] + "..."
