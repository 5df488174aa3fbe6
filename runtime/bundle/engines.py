"""What bundle.json says of dimensions and of engines, and the rules between the fields."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from limner.runtime.errors import BundleError

TARGET = re.compile(r"sm[1-9][0-9]{1,2}")
Builder = Literal["tensorrt-rtx", "tensorrt"]
EnginePrecision = Literal["fp32", "fp16"]


@dataclass(frozen=True)
class RangeMeta:
    """The sizes that a graph was made for, along one dimension that the caller chooses."""

    minimum: int
    best: int  # what engines are tuned for
    maximum: int
    multiple: int = 1  # every size is a multiple of it

    def refusal(self, size: int) -> str | None:
        """Return the phrase that says which sizes are allowed, or None if `size` is."""
        if self.minimum <= size <= self.maximum and size % self.multiple == 0:
            return None
        return f"{self.minimum} to {self.maximum}" + (f" in steps of {self.multiple}" if self.multiple > 1 else "")


@dataclass(frozen=True)
class EngineMeta:
    """One engine: the graph that it was built from, by what and for which GPUs and sizes."""

    graph: str
    file: str
    source: str  # `source_hash` of the graph when the engine was built
    builder: Builder
    version: str  # of the builder; an engine runs on exactly this version
    targets: tuple[str, ...]  # GPU architectures: "sm89" is compute capability 8.9
    precision: EnginePrecision
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # dimension -> smallest, best, largest
    refit: bool = False  # its weights can be replaced
    seconds: float = 0.0  # that the build took


class _File(Protocol):
    @property
    def sha256(self) -> str: ...


def source_hash(files: Mapping[str, _File], paths: tuple[str, ...]) -> str:
    """The sha256 of what a graph consists of: the path and hash of its ONNX file and of its weights."""
    lines = [f"{path} {files[path].sha256}" for path in paths]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def check_range(where: str, given: RangeMeta) -> None:
    """Raise BundleError naming the field unless 1 <= minimum <= best <= maximum, all multiples of `multiple`."""
    sizes = (given.minimum, given.best, given.maximum)
    if given.multiple < 1 or given.minimum < 1 or list(sizes) != sorted(sizes):
        raise BundleError(where, f"{list(sizes)} in steps of {given.multiple}", "1 <= minimum <= best <= maximum")
    if any(size % given.multiple for size in sizes):
        raise BundleError(where, f"{list(sizes)}", f"multiples of {given.multiple}")


def check_engine(where: str, engine: EngineMeta, graphs: Mapping[str, object]) -> None:
    """Check one entry of `engines`; BundleError names the field."""
    if engine.graph not in graphs:
        raise BundleError(f"{where}.graph", repr(engine.graph), ", ".join(sorted(graphs)))
    bad = [target for target in engine.targets if not TARGET.fullmatch(target)]
    if bad or not engine.targets:
        raise BundleError(f"{where}.targets", list(engine.targets), "one or more GPU architectures such as 'sm89'")
    for name, sizes in engine.sizes.items():
        if len(sizes) != 3 or sizes[0] < 1 or list(sizes) != sorted(sizes):
            raise BundleError(f"{where}.sizes.{name}", list(sizes), "smallest, best and largest size, in this order")
