"""The registry of methods: a method is one file that declares a `Method`, and one entry point that names it.

    [project.entry-points."limner.methods"]
    global-directions = "limner.runtime.methods.global_directions:method"

Names are read without importing anything; a method's declaration is imported when it is asked for, and what it does
(`Method.run`) when the first recipe runs.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from limner.runtime.errors import InputError, LimnerError, nearest
from limner.runtime.settings import (
    DiffusionInversionParameters,
    InversionParameters,
    NoOptions,
    Settings,
    options_of,
)

__all__ = [
    "Family",
    "Method",
    "Texts",
    "Use",
    "find_method",
    "loaded",
    "method_names",
    "methods_of",
    "methods_with",
    "usual_method",
]

GROUP = "limner.methods"
Family = Literal["stylegan2", "diffusion"]
Use = Literal["maps", "seed"]
"""maps: pictures beside the edit; seed: draws at a picture's inversion."""
Texts = Literal["text", "mapper", "concept", "prompt"]
"""How a command line names and reads a method's texts: plain ones, names of mappers, concepts with a sign and settings
of their own, or the text of the whole picture."""
INVERSIONS: dict[Family, type[Settings]] = {
    "stylegan2": InversionParameters,
    "diffusion": DiffusionInversionParameters,
}


@dataclass(frozen=True)
class Method:
    """A way of editing, as it is declared. Functions are given a `Recipe`; one that is loaded late is "module:name".

    `parameters` and `options` are frozen dataclasses of `setting`s whose defaults are the published ones. `check`
    refuses a recipe that the method cannot run, by InputError. `run` takes, on StyleGAN2, (models, w_plus [N,L,D],
    recipes, timer, progress), on a diffusion model (networks, starts, recipes, timer, progress), and returns one
    `Outcome` a recipe; the recipes are complete and of equal parameters.
    """

    name: str
    summary: str
    parameters: type[Settings]
    graphs: tuple[str, ...]  # what the bundle must hold
    check: Callable[[Any], None]
    run: Callable[..., list[Any]] | str
    family: Family = "stylegan2"  # of the bundles that it runs on
    options: type[Settings] = NoOptions  # what PromptEdit.options may hold
    max_prompts: int = 8
    graphs_of: Callable[[Any, Any], tuple[str, ...]] | str | None = None  # (bundle, complete recipe) -> further ones
    texts: Texts = "text"
    usual: bool = False  # the one of its `texts` that is taken where no method is named
    takes: tuple[Use, ...] = ()  # what it has use for beside texts, strengths and its settings
    idle: Callable[[Any], Mapping[str, str]] | None = None  # settings that cannot act, see `completing`

    @property
    def inversion(self) -> type[Settings]:
        """What `Recipe.inversion` of a picture holds."""
        return INVERSIONS[self.family]

    def has(self, name: str) -> bool:
        """Whether texts have that option, or the method that use."""
        return name in self.takes or name in options_of(self.options)


def loaded(function: Callable[..., Any] | str) -> Callable[..., Any]:
    """A function, or the one at "module:name"."""
    if callable(function):
        return function
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def method_names() -> tuple[str, ...]:
    """Return the names of all methods, sorted, without importing them."""
    return tuple(sorted(_entries()))


def find_method(name: object) -> Method:
    """Return the method of that name; InputError lists the known ones and the nearest."""
    entries = _entries()
    if not isinstance(name, str) or name not in entries:
        known = ", ".join(sorted(entries)) or "none: this limner is not installed, see `pip install limner[cpu]`"
        raise InputError("method", repr(name), known, nearest(str(name), entries))
    return _load(name)


def methods_with(name: str) -> tuple[str, ...]:
    """Return the names of the methods that have use for something or whose texts have an option, sorted."""
    return tuple(one for one in method_names() if find_method(one).has(name))


def usual_method(texts: Texts) -> str:
    """Return the name of the method that is taken for such texts where none is named."""
    return next(name for name in method_names() if find_method(name).usual and find_method(name).texts == texts)


def methods_of(family: Family) -> tuple[str, ...]:
    """Return the names of the methods on bundles of a family, sorted."""
    return tuple(name for name in method_names() if find_method(name).family == family)


@cache
def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


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
