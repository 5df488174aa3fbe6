"""The registry of methods: a method is one file with a `Method` in it and one entry point that names it.

    [project.entry-points."limner.methods"]
    global-directions = "limner.runtime.methods.global_directions:method"

Names are read without importing anything; a method's file is imported when it is asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from limner.runtime.errors import InputError, LimnerError, nearest

if TYPE_CHECKING:
    from limner.runtime.bundle.loading import Bundle
    from limner.runtime.diffusion.networks import DiffusionNetworks
    from limner.runtime.diffusion.sources import DiffusionStart
    from limner.runtime.recipe import Recipe
    from limner.runtime.stylegan2.networks import Models
    from limner.runtime.timing import Timer
    from limner.runtime.trajectory import Trajectory

__all__ = [
    "DiffusionRunner",
    "Family",
    "Method",
    "Outcome",
    "Progress",
    "Runner",
    "Use",
    "find_method",
    "method_names",
    "methods_of",
    "methods_with",
    "needed_graphs",
    "require_family",
]

GROUP = "limner.methods"
BUILT_IN = {
    "global-directions": "limner.runtime.methods.global_directions:method",
    "latent-mapper": "limner.runtime.methods.latent_mapper:method",
    "latent-optimization": "limner.runtime.methods.latent_optimization:method",
    "prompt-to-prompt": "limner.runtime.methods.prompt_to_prompt:method",
    "sega": "limner.runtime.methods.sega:method",
}
Family = Literal["stylegan2", "diffusion"]
Use = Literal["neutral", "beta", "words", "maps", "seed"]
"""neutral, beta: of a text; words: weights, windows, local edits; maps: pictures beside the edit; seed: draws at a
picture's inversion."""

Progress = Callable[[int, int, dict[str, float]], None]
"""progress(step, steps, losses): called after each step of a method that has steps."""


@dataclass(frozen=True)
class Outcome:
    """What a method found for one source.

    `render` takes a recipe that differs from the one that was run in its strengths alone, and returns that
    picture, float32 [1,3,H,W], the same bits at every call. `recipe` is the recipe with what the method
    filled in.
    """

    recipe: "Recipe"
    render: Callable[["Recipe"], NDArray[np.float32]]
    scores: dict[str, float] = field(default_factory=dict)
    trajectory: "Trajectory | None" = None
    texts: tuple[str, ...] = ()  # what CLIP scores compare with, where the prompts hold something else
    reconstruction: NDArray[np.float32] | None = (
        None  # [1,3,H,W], the picture without the edit, where the method made it
    )
    pictures: dict[str, NDArray[np.uint8]] = field(default_factory=dict)  # name -> [H,W,3]: attention maps, masks


class Runner(Protocol):
    """Runs recipes of one method with equal parameters on a batch of sources, w_plus float32 [N,L,D]."""

    def __call__(
        self,
        models: "Models",
        w_plus: NDArray[np.float32],
        recipes: "Sequence[Recipe]",
        timer: "Timer",
        progress: Progress | None,
    ) -> list[Outcome]: ...


class DiffusionRunner(Protocol):
    """The same on a diffusion bundle: runs recipes with equal parameters on a batch of starts."""

    def __call__(
        self,
        networks: "DiffusionNetworks",
        starts: "Sequence[DiffusionStart]",
        recipes: "Sequence[Recipe]",
        timer: "Timer",
        progress: Progress | None,
    ) -> list[Outcome]: ...


@dataclass(frozen=True)
class Method:
    """A way of editing.

    `parameters` is a frozen dataclass whose defaults are the published ones and which checks its own ranges;
    `check` refuses a recipe that the method cannot run, by InputError.
    """

    name: str
    summary: str
    parameters: type[Any]
    graphs: tuple[str, ...]  # what the bundle must hold
    check: Callable[["Recipe"], None]
    run: Runner | DiffusionRunner  # as `family` says
    family: Family = "stylegan2"  # of the bundles that it runs on
    prompt_options: type[Any] | None = None  # a frozen dataclass: what PromptEdit.options may hold
    max_prompts: int = 8
    graphs_of: Callable[["Bundle", "Recipe"], tuple[str, ...]] | None = None  # what a recipe needs beside `graphs`
    takes: tuple[Use, ...] = ()  # what it has use for beside texts, strengths and its parameters
    idle: Callable[["Recipe"], Mapping[str, str]] | None = None  # settings that cannot act, see `idle`

    @property
    def inversion_parameters(self) -> type[Any]:
        """The frozen dataclass that `Recipe.inversion` of a picture holds."""
        if self.family == "diffusion":
            from limner.runtime.diffusion.parameters import DiffusionInversionParameters

            return DiffusionInversionParameters
        from limner.runtime.stylegan2.inversion import InversionParameters

        return InversionParameters


def method_names() -> tuple[str, ...]:
    """Return the names of all methods, sorted, without importing them."""
    return tuple(sorted(_entries()))


def find_method(name: object) -> Method:
    """Return the method of that name; InputError lists the known ones and the nearest."""
    entries = _entries()
    if not isinstance(name, str) or name not in entries:
        raise InputError("method", repr(name), ", ".join(sorted(entries)), nearest(str(name), entries))
    return _load(name)


def methods_with(use: Use) -> tuple[str, ...]:
    """Return the names of the methods that have use for something, sorted."""
    return tuple(name for name in method_names() if use in find_method(name).takes)


def methods_of(family: Family) -> tuple[str, ...]:
    """Return the names of the methods on bundles of a family, sorted."""
    return tuple(name for name in method_names() if find_method(name).family == family)


def needed_graphs(method: Method, bundle: "Bundle", recipe: "Recipe") -> tuple[str, ...]:
    """Return the graphs that a recipe runs on a bundle; InputError for what the bundle does not have."""
    return (*method.graphs, *(method.graphs_of(bundle, recipe) if method.graphs_of is not None else ()))


def require_family(method: Method, bundle: "Bundle") -> None:
    """InputError naming the methods that fit, unless `method` runs on bundles of this bundle's family."""
    family = bundle.manifest.family
    if method.family != family:
        fitting = ", ".join(methods_of(family))
        given = f"{method.name!r}, a method for bundles of the family {method.family!r}"
        allowed = f"{fitting} on the bundle {bundle.manifest.name!r}"
        raise InputError("method", given, allowed, "or name another bundle")


@cache
def _entries() -> dict[str, EntryPoint]:
    """Entry points by name; the built-in ones are known even where the package's metadata is missing."""
    installed = {entry.name: entry for entry in entry_points(group=GROUP)}
    return installed | {name: EntryPoint(name, value, GROUP) for name, value in BUILT_IN.items()}


@cache
def _load(name: str) -> Method:
    entry = _entries()[name]
    try:
        method = entry.load()
    except (ImportError, AttributeError) as reason:
        raise LimnerError(f"the method {name!r} does not load from {entry.value!r}: {reason}") from reason
    if not isinstance(method, Method):
        raise LimnerError(f"the method {name!r} at {entry.value!r} is not a limner.runtime.methods.registry.Method")
    return method
