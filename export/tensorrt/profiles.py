"""Optimisation profiles: the sizes that an engine is built for, from what the bundle declares and what is asked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from limner.runtime.bundle.engines import RangeMeta
from limner.runtime.bundle.parts import GraphMeta, TensorMeta
from limner.runtime.errors import InputError, nearest

Sizes = dict[str, tuple[int, int, int]]  # dimension -> smallest, best, largest


@dataclass(frozen=True)
class Profile:
    """The shapes of one input: smallest, best and largest."""

    minimum: tuple[int, ...]
    best: tuple[int, ...]
    maximum: tuple[int, ...]


def parse_shapes(texts: Iterable[str]) -> Sizes:
    """Read `--shapes`: "batch=1:1:8", "batch=1:8" (tuned for 1) or "batch=4"; several with commas or repeated."""
    found: Sizes = {}
    allowed = "dimension=smallest:best:largest, such as batch=1:1:8"
    for text in ",".join(texts).split(",") if texts else ():
        name, sign, numbers = text.strip().partition("=")
        parts = numbers.split(":")
        if not name or not sign or len(parts) > 3 or not all(part.strip().isdecimal() for part in parts):
            raise InputError("shapes", repr(text.strip()), allowed)
        sizes = [int(part) for part in parts]
        smallest, best, largest = (sizes[0], sizes[-2] if len(sizes) == 3 else sizes[0], sizes[-1])
        if smallest < 1 or [smallest, best, largest] != sorted((smallest, best, largest)):
            raise InputError("shapes", repr(text.strip()), f"{allowed}, from small to large and from 1")
        if name in found:
            raise InputError("shapes", f"{name!r} twice", "each dimension once")
        found[name] = (smallest, best, largest)
    return found


def dimensions(graph: GraphMeta) -> list[str]:
    """The dimensions of a graph's inputs that the caller chooses, in order."""
    return list(dict.fromkeys(size for tensor in graph.inputs for size in tensor.shape if isinstance(size, str)))


def resolve(
    name: str,
    graph: GraphMeta,
    ranges: Mapping[str, RangeMeta],
    asked: Sizes,
    implied: Collection[str] = (),  # dimensions whose range nobody declared: only its steps bind
) -> Sizes:
    """The sizes of a graph's free dimensions; InputError names the dimension that is out of the declared range."""
    sizes: Sizes = {}
    for dimension in dimensions(graph):
        declared = ranges.get(dimension)
        if dimension not in asked:
            if declared is None:
                given = f"no size for the dimension {dimension!r} of the graph {name!r}"
                raise InputError("shapes", given, "a size for it", f"add --shapes {dimension}=SMALLEST:BEST:LARGEST")
            sizes[dimension] = (declared.minimum, declared.best, declared.maximum)
            continue
        for size in asked[dimension]:
            if declared is not None and dimension in implied:
                refusal, reason = None, "the model's own step"
                if size % declared.multiple:
                    refusal = f"multiples of {declared.multiple}"
            else:
                refusal = None if declared is None else declared.refusal(size)
                reason = "the bundle declares this range"
            if refusal is not None:
                raise InputError("shapes", f"{dimension} = {size}", refusal, reason)
        sizes[dimension] = asked[dimension]
    return sizes


def check_asked(graphs: Mapping[str, GraphMeta], asked: Sizes) -> None:
    """Refuse a dimension that no graph has."""
    known = {dimension for graph in graphs.values() for dimension in dimensions(graph)}
    for name in asked:
        if name not in known:
            raise InputError("shapes", f"the dimension {name!r}", ", ".join(sorted(known)), nearest(name, known))


def profile(tensor: TensorMeta, sizes: Sizes) -> Profile:
    """The three shapes of one input."""
    shapes = [tuple(sizes[d][i] if isinstance(d, str) else d for d in tensor.shape) for i in range(3)]
    return Profile(*shapes)
