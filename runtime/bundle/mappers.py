"""The latent mappers in bundle.json: what a bundle says of each, and the rules between it and the graphs.

A mapper NAME is the graph "mapper_NAME". It takes `w_plus` [batch,L,D], or `style_channels` [batch,S], and gives
`step` of the same shape: what is added at strength 1.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from limner.runtime.bundle.parts import GeneratorMeta, GraphMeta
from limner.runtime.errors import BundleError
from limner.runtime.methods.latent_mapper import MAX_STRENGTH

__all__ = ["FOLDER", "NAME", "MapperMeta", "check_mappers", "graph_name"]

NAME = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*")  # of a mapper
FOLDER = "edits/mappers"  # of a family's checkpoints: one folder a mapper


@dataclass(frozen=True)
class MapperMeta:
    """One latent mapper."""

    prompt: str  # the text that it was trained for
    space: Literal["w_plus", "style_channels"] = "w_plus"
    generator: str = ""  # `generator.weights` of the generator that it was trained on; empty: not known
    strength: float = 1.0  # suggested


def graph_name(mapper: str) -> str:
    """The graph of a mapper."""
    return f"mapper_{mapper}"


def check_mappers(
    mappers: Mapping[str, MapperMeta], graphs: Mapping[str, GraphMeta], generator: GeneratorMeta | None
) -> None:
    """Check names, graphs, shapes and generators; raise BundleError naming the field."""
    for name, mapper in mappers.items():
        where = f"mappers.{name}"
        if not NAME.fullmatch(name):
            raise BundleError(where, "a name of other characters", "lower-case letters, digits and single dashes")
        if not 0 < mapper.strength <= MAX_STRENGTH:
            raise BundleError(f"{where}.strength", mapper.strength, f"above 0, up to {MAX_STRENGTH:g}")
        if generator is None:
            raise BundleError(where, "a mapper", "none in a bundle without a generator")
        if mapper.generator and generator.weights and mapper.generator != generator.weights:
            allowed = f"a mapper for {generator.weights[:12]}..., this bundle's"
            raise BundleError(where, f"a mapper for the generator {mapper.generator[:12]}...", allowed)
        graph = graphs.get(graph_name(name))
        if graph is None:
            raise BundleError(where, f"no graph {graph_name(name)!r}", "a graph for each mapper")
        inner = (generator.num_ws, generator.w_dim) if mapper.space == "w_plus" else (generator.style_channels,)
        for kind, tensors, wanted in (("inputs", graph.inputs, mapper.space), ("outputs", graph.outputs, "step")):
            found = [(tensor.name, tensor.dtype, tensor.shape[1:]) for tensor in tensors]
            if found != [(wanted, "float32", inner)]:
                shapes = ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in tensors)
                allowed = f"{wanted} float32 [batch, {', '.join(map(str, inner))}]"
                raise BundleError(f"graphs.{graph_name(name)}.{kind}", shapes, allowed)
