"""ONNX Runtime sessions of a bundle: made at first use, fed with checked arrays, on the chosen provider."""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.loading import Bundle
from limner.runtime.bundle.parts import GraphMeta, TensorMeta
from limner.runtime.errors import (
    BundleError,
    GraphError,
    InputError,
    LimnerError,
    NonFiniteError,
    ProviderError,
    nearest,
)
from limner.runtime.graphs.providers import (
    ENGINE,
    PLUGIN_PROVIDER,
    PROVIDER_OPTIONS,
    add_plugin,
    available_providers,
    check_provider,
    import_onnxruntime,
)
from limner.runtime.graphs.threads import usable_cores
from limner.runtime.storage.held_files import HeldFiles

if TYPE_CHECKING:
    from limner.runtime.graphs.binding import BoundGraph

MAX_THREADS = 256
LARGE = 1 << 27  # bytes of a graph's weights: after a call for any size its working memory goes back
ONNX_TYPES = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "int64": "tensor(int64)",
    "int32": "tensor(int32)",
    "bool": "tensor(bool)",
}


class Sessions:
    """The graphs of one bundle on one execution provider.

    Raises ProviderError when the provider is unknown or not available; nothing falls back to another one.
    `load_ms` maps each graph loaded so far to the milliseconds it took. Safe to use from several threads.
    """

    def __init__(
        self,
        bundle: Bundle,
        provider: str = "cpu",  # "cpu", "cuda", "tensorrt", ...: a key of `providers.PROVIDERS`
        threads: int | None = None,  # CPU threads within one operation; None takes `usable_cores`
        provider_options: Mapping[str, str] | None = None,  # passed to the provider as they are
    ) -> None:
        most = max(MAX_THREADS, os.cpu_count() or 1)
        whole = threads is None or (isinstance(threads, int) and not isinstance(threads, bool))
        if not whole or (threads is not None and not 1 <= threads <= most):
            allowed = f"a whole number from 1 to {most}, or nothing for the cores that this process may use"
            raise InputError("threads", repr(threads), allowed)
        self.bundle = bundle
        self.provider = provider
        self.threads = usable_cores() if threads is None else threads
        self.load_ms: dict[str, float] = {}
        self._chain = check_provider(provider)
        self._provider_options = dict(provider_options or {})
        self._sessions: dict[str, Any] = {}
        self._large: dict[str, Any] = {}  # graph -> options of a call
        self._held = HeldFiles()
        self._lock = threading.Lock()
        self._loading: dict[str, threading.Lock] = {}  # graph -> who loads it; others go on

    def __contains__(self, name: str) -> bool:
        return name in self.bundle.manifest.graphs

    def warm(self, *names: str) -> dict[str, float]:
        """Load the named graphs (all if none is named) and return graph -> milliseconds of loading."""
        wanted = names or tuple(self.bundle.manifest.graphs)
        for name in wanted:
            self._session(name)
        return {name: self.load_ms[name] for name in wanted}

    def run(
        self,
        graph: str,
        /,
        *,
        only: Sequence[str] | None = None,  # compute and return these outputs alone
        **inputs: NDArray[Any],
    ) -> dict[str, NDArray[Any]]:
        """Run one graph on arrays named like its inputs; return output name -> array.

        Raises MissingGraphError, InputError for a wrong name, shape or dtype, and GraphError when the graph
        fails or gives NaN or infinity.
        """
        wanted = self.checked(graph, only, inputs)
        outputs = self.call(graph, wanted, inputs)
        check_outputs(graph, outputs, inputs)
        return outputs

    def checked(self, graph: str, only: Sequence[str] | None, inputs: Mapping[str, NDArray[Any]]) -> list[str]:
        """The outputs that a call is to give; the same errors as `run` for what cannot be called."""
        meta = self.bundle.graph(graph)
        check_inputs(graph, meta, inputs)
        known = [output.name for output in meta.outputs]
        for name in only or ():
            if name not in known:
                raise InputError(f"{graph}.only", repr(name), ", ".join(known), nearest(name, known))
        return list(only) if only is not None else known

    def call(self, graph: str, wanted: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run checked inputs now, in this thread; what comes out is not looked at."""
        session = self._session(graph)
        self._held.check()
        feed = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        options = [self._large[graph]] if graph in self._large else []
        try:
            arrays = session.run(list(wanted), feed, *options)
        except LimnerError:
            raise
        except Exception as reason:
            raise GraphError(f"graph {graph!r} failed on {self.provider!r}: {_first_line(reason)}") from reason
        return dict(zip(wanted, arrays, strict=True))

    @property
    def device(self) -> str | None:
        """ONNX Runtime's name of the memory where arrays of these graphs can stay; None if they cannot."""
        from limner.runtime.graphs.binding import DEVICES

        return DEVICES.get(self.provider)

    def bind(self, graph: str, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> "BoundGraph":
        """A graph with these inputs given, checked as by `run`; calls change some and give `outputs`."""
        from limner.runtime.graphs.binding import BoundGraph

        if self.device is None:
            allowed = ", ".join(name for name in ("cpu", "cuda", "tensorrt") if name != self.provider)
            raise ProviderError("provider", f"{self.provider!r}, which keeps no arrays", allowed)
        check_inputs(graph, self.bundle.graph(graph), inputs)
        return BoundGraph(graph, self._session(graph), self.device, outputs, inputs)

    def close(self) -> None:
        """Drop the loaded graphs; a later `run` loads them again."""
        with self._lock:
            for session in self._sessions.values():
                getattr(session, "close", lambda: None)()  # an engine's memory lies on the GPU
            self._sessions.clear()
            self._held.close()

    def _session(self, name: str) -> Any:
        meta = self.bundle.graph(name)
        with self._lock:
            if name in self._sessions:
                return self._sessions[name]
            loading = self._loading.setdefault(name, threading.Lock())
        with loading:
            if (there := self._sessions.get(name)) is not None:
                return there
            start = time.perf_counter()
            session = self._load(name, meta)
            with self._lock:
                self._sessions[name] = session
                self.load_ms[name] = 1000 * (time.perf_counter() - start)
            return session

    def _load(self, name: str, meta: GraphMeta) -> Any:
        if self.provider == ENGINE:
            from limner.runtime.graphs.tensorrt import EngineSession

            return EngineSession(self.bundle, name)
        onnxruntime = import_onnxruntime()
        self.bundle.graph_bytes(name, self.provider)
        path = str(self.bundle.file(meta.file_on(self.provider)))
        for data in meta.data:
            self._held.hold(self.bundle.file(data))
        session = self._prepared(name, path, onnxruntime) if self.provider == "cpu" else None
        if session is None:
            session = self._start(name, path, self._options(name, onnxruntime), onnxruntime)
        self.bundle.require_unchanged(meta.file_on(self.provider), *meta.data)  # not swapped while it was loaded
        session.disable_fallback()
        check_interface(name, meta, session)
        return session

    def _options(self, name: str, onnxruntime: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only: they come back as exceptions
        options.use_deterministic_compute = True
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = self.threads
        if self.provider == "cpu" and _any_size(self.bundle.graph(name)):  # else a plan for each size is kept
            options.enable_mem_pattern = False
        return options

    def _start(self, name: str, path: str, options: Any, onnxruntime: Any) -> Any:
        """A session on the provider."""
        defaults = [dict(PROVIDER_OPTIONS.get(provider, {})) for provider in self._chain]
        defaults[0] |= self._from_bundle(name, onnxruntime.__version__) | self._provider_options
        providers: list[tuple[str, dict[str, str]]] | None = list(zip(self._chain, defaults, strict=True))
        if self._chain[0] == PLUGIN_PROVIDER and PLUGIN_PROVIDER not in onnxruntime.get_available_providers():
            add_plugin(options, defaults[0])
            providers = None
        try:
            session = onnxruntime.InferenceSession(path, options, providers=providers, enable_fallback=0)
        except Exception as reason:
            if self.provider == "cpu":
                given = f"a graph that does not load ({_first_line(reason)})"
                raise BundleError(
                    f"graphs.{name}.file",
                    given,
                    "an ONNX graph",
                    "export the bundle again",
                ) from reason
            raise self._not_started(_first_line(reason)) from reason
        if session.get_providers()[0] != self._chain[0]:
            raise self._not_started("its libraries do not load on this machine")
        return session

    def _prepared(self, name: str, graph: str, onnxruntime: Any) -> Any:
        """The session of a graph as an earlier load left it, which this one becomes if it is slow; see `prepared`.

        None if there is none, or if what lies there does not load.
        """
        from limner.runtime.graphs.prepared import HEAVY, SLOW_S, has_room, place_of, prepare, use_prepared, wanted

        if not wanted() or self._provider_options:
            return None
        place = place_of(self.bundle, name, onnxruntime.__version__)
        options = self._options(name, onnxruntime)
        path = use_prepared(place, options, onnxruntime)
        if path is None:
            size = sum(self.bundle.manifest.files[data].size for data in self.bundle.graph(name).data)
            room = has_room(place, size)
            if size < HEAVY or not room:
                begin = time.perf_counter()
                session = self._start(name, graph, self._options(name, onnxruntime), onnxruntime)
                if not room or time.perf_counter() - begin < SLOW_S:
                    return session
                del session  # its memory first
            if not prepare(place, graph, self._options(name, onnxruntime), onnxruntime):
                return None
            path = use_prepared(place, options, onnxruntime)
        try:
            session = self._start(name, str(path), options, onnxruntime)
        except BundleError:  # a cache that somebody damaged is no fault of the bundle
            return None
        for file in place.iterdir():
            self._held.hold(file)
            if file.stat().st_size >= LARGE and _any_size(self.bundle.graph(name)):
                self._large[name] = onnxruntime.RunOptions()
                self._large[name].add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return session

    def _from_bundle(self, name: str, version: str) -> dict[str, str]:
        """Caches and profiles of a TensorRT provider, by what the bundle says of the graph."""
        from limner.runtime.graphs.provider_options import rtx_options, tensorrt_options

        makers = {"tensorrt": tensorrt_options, "tensorrt-rtx": rtx_options}
        return makers[self.provider](self.bundle, name, version) if self.provider in makers else {}

    def _not_started(self, reason: str) -> ProviderError:
        others = ", ".join(name for name in available_providers() if name != self.provider)
        given = f"{self.provider!r}, which does not start: {reason}"
        return ProviderError("provider", given, f"{others} (available here)", "see `limner check`")


def _any_size(meta: GraphMeta) -> bool:
    """Whether a graph takes pictures or latents of any height and width."""
    return any(sum(isinstance(size, str) for size in tensor.shape) > 2 for tensor in meta.inputs)


def check_inputs(graph: str, meta: GraphMeta, inputs: Mapping[str, NDArray[Any]]) -> None:
    """Raise InputError naming graph.input unless names, dtypes and shapes fit `meta`."""
    expected = {tensor.name: tensor for tensor in meta.inputs}
    for name in inputs:
        if name not in expected:
            raise InputError(
                f"{graph}.{name}",
                "an unknown input",
                ", ".join(expected),
                nearest(name, expected),
            )
    sizes: dict[str, int] = {}
    for name, tensor in expected.items():
        allowed = f"{tensor.dtype} {_shape(tensor.shape)}"
        if name not in inputs:
            raise InputError(f"{graph}.{name}", "nothing", allowed)
        array = inputs[name]
        if not isinstance(array, np.ndarray):
            raise InputError(
                f"{graph}.{name}",
                f"a {type(array).__name__}",
                f"a numpy array {allowed}",
            )
        if str(array.dtype) != tensor.dtype or not _fits(array.shape, tensor, sizes):
            bound = ", ".join(f"{symbol} = {size}" for symbol, size in sizes.items() if symbol in tensor.shape)
            given = f"{array.dtype} {_shape(array.shape)}"
            raise InputError(f"{graph}.{name}", given, allowed + (f" with {bound}" if bound else ""))


def check_outputs(graph: str, outputs: Mapping[str, NDArray[Any]], inputs: Mapping[str, NDArray[Any]]) -> None:
    """Raise GraphError naming the graph and the outputs that hold NaN or infinity."""
    bad = [name for name, array in outputs.items() if not _finite(array)]
    if bad:
        causes = [name for name, array in inputs.items() if not _finite(array)]
        source = f"its input {', '.join(causes)} already did" if causes else "its inputs were finite"
        raise NonFiniteError(f"graph {graph!r} gave NaN or infinity in {', '.join(bad)}; {source}")


def check_interface(name: str, meta: GraphMeta, session: Any) -> None:
    """Raise BundleError unless the ONNX file's own inputs and outputs are those that bundle.json declares."""
    for kind, declared, actual in (
        ("inputs", meta.inputs, session.get_inputs()),
        ("outputs", meta.outputs, session.get_outputs()),
    ):
        found = {value.name: value for value in actual}
        if set(found) != {tensor.name for tensor in declared}:
            names = ", ".join(tensor.name for tensor in declared)
            raise BundleError(f"graphs.{name}.{kind}", f"{', '.join(found)} in the ONNX file", names)
        for tensor in declared:
            value = found[tensor.name]
            same = value.type == ONNX_TYPES[tensor.dtype] and _agree(tensor.shape, value.shape)
            if not same:
                given = f"{value.type} {_shape(value.shape)} in the ONNX file"
                raise BundleError(
                    f"graphs.{name}.{kind}.{tensor.name}",
                    given,
                    f"{tensor.dtype} {_shape(tensor.shape)}",
                )


def _fits(shape: tuple[int, ...], tensor: TensorMeta, sizes: dict[str, int]) -> bool:
    """Match a shape; a symbol takes the first size it meets (kept in `sizes`) and must keep it."""
    if len(shape) != len(tensor.shape) or 0 in shape:
        return False
    return all(
        actual == (sizes.setdefault(expected, actual) if isinstance(expected, str) else expected)
        for actual, expected in zip(shape, tensor.shape, strict=True)
    )


def _agree(declared: Sequence[int | str], actual: Sequence[int | str | None]) -> bool:
    """True if the ranks are equal and no declared size contradicts a fixed size of the file, or the reverse.

    A file may leave a declared number open (exporters do for outputs); it may not fix what is declared open.
    """
    if len(declared) != len(actual):
        return False
    pairs = zip(declared, actual, strict=True)
    return all(not isinstance(there, int) or there == here for here, there in pairs)


def _finite(array: NDArray[Any]) -> bool:
    return not np.issubdtype(array.dtype, np.floating) or bool(np.isfinite(array).all())


def _shape(shape: Sequence[int | str | None]) -> str:
    return f"[{', '.join(str(size) for size in shape)}]"


def _first_line(reason: BaseException) -> str:
    text = (str(reason).strip() or type(reason).__name__).splitlines()[0]
    return text if len(text) <= 200 else text[:197] + "..."
