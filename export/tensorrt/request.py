"""What is asked of an engine builder, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from limner.export.tensorrt.profiles import Profile
from limner.runtime.bundle.engines import Builder, EnginePrecision
from limner.runtime.errors import LimnerError

Progress = Callable[[str, int, int], None]  # phase, steps done, steps in all


@dataclass(frozen=True)
class Refusal:
    """A node that the parser or the compiler does not take."""

    operator: str
    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.operator or 'node'} {self.node!r}: {self.reason}" if self.node else self.reason


class RefusedError(LimnerError):
    """A graph that cannot be compiled; `refusals` has every node that was refused."""

    def __init__(self, graph: str, refusals: Sequence[Refusal]) -> None:
        self.refusals = tuple(refusals)
        more = f" and {len(refusals) - 1} more" if len(refusals) > 1 else ""
        super().__init__(f"the graph {graph!r} does not compile: {refusals[0]}{more}")


@dataclass(frozen=True)
class Request:
    """What to build."""

    graph: str
    path: Path  # ONNX file; for a strongly typed build its types are those of the engine
    profiles: dict[str, Profile]  # input with free dimensions -> its shapes
    targets: tuple[str, ...]
    precision: EnginePrecision
    keep_fp32: tuple[str, ...] = ()  # of a weakly typed build: nodes that stay fp32
    refit: bool = False
    timing_cache: Path | None = None  # kernels that were timed before; of `tensorrt` alone


class EngineBuilder(Protocol):
    """What `compile` needs of a builder."""

    name: Builder
    version: str
    strongly_typed: bool
    fused_attention: bool  # whether com.microsoft::MultiHeadAttention is taken as it is

    def resolve_targets(self, asked: Sequence[str]) -> tuple[str, ...]:
        """The targets that one engine is built for; InputError naming one that this builder cannot do."""

    def check_refit(self) -> None:
        """Raise InputError where engines whose weights can be replaced cannot be built."""

    def build(self, request: Request, progress: Progress | None = None) -> bytes:
        """Build an engine; RefusedError naming the nodes that stand in the way."""
