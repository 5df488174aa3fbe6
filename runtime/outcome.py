"""What a method found, and what an engine makes of it: the two steps between a recipe and an `Edit`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from limner.runtime.attention_maps import AttentionMaps
from limner.runtime.critics import Critics
from limner.runtime.methods.registry import Method
from limner.runtime.pictures.containers import NOTHING, Carried
from limner.runtime.recipe import Recipe
from limner.runtime.storage.later import Later
from limner.runtime.timing import Progress, Timer
from limner.runtime.trajectory import Trajectory

__all__ = ["Engine", "Outcome", "Result"]

FloatArray = NDArray[np.float32]
ImageU8 = NDArray[np.uint8]


@dataclass(frozen=True)
class Outcome:
    """What a method found for one source.

    `render` takes a recipe that differs from the one that was run in its strengths alone, and returns that
    picture, float32 [1,3,H,W], the same bits at every call. `recipe` is the recipe with what the method
    filled in.
    """

    recipe: Recipe
    render: Callable[[Recipe], FloatArray]
    scores: dict[str, float] = field(default_factory=dict)
    trajectory: Trajectory | None = None
    texts: tuple[str, ...] = ()  # what CLIP scores compare with, where the prompts hold something else
    reconstruction: Later[FloatArray] | None = None  # [1,3,H,W], the picture without the edit, where the method has it
    pictures: dict[str, ImageU8] = field(default_factory=dict)  # name -> [H,W,3]: attention maps, masks
    maps: tuple[AttentionMaps, ...] = ()  # of the source's words and the edit's, where they were asked for


@dataclass(frozen=True, eq=False)
class Result:
    """One edited picture, its source, and the source as the model makes it."""

    outcome: Outcome
    image: FloatArray  # [1,3,H,W]
    source: Later[ImageU8]  # [H,W,3]
    reconstruction: Later[FloatArray]  # [1,3,H,W]
    scores: dict[str, float] = field(default_factory=dict)  # of the inversion
    notes: tuple[str, ...] = ()  # what was done to a picture file
    carried: Carried = NOTHING  # what the file holds beside its pixels
    likeness: float | None = None  # how much of a picture the model keeps, see the family's engine


class Engine(Protocol):
    """Runs recipes of one family's methods. Families are twins: `stylegan2.engine`, `diffusion.engine`."""

    @property
    def every_source(self) -> tuple[str, ...]:
        """The graphs that sources of any kind need."""
        ...

    @property
    def critics(self) -> Critics:
        """Who judges its pictures."""
        ...

    def graphs(self, recipe: Recipe) -> tuple[str, ...]:
        """What the recipe's source needs of the bundle, beside the method's own graphs."""
        ...

    def edit(
        self,
        method: Method,
        recipes: Sequence[Recipe],  # complete, of equal parameters and kind of source
        arrays: Sequence[NDArray[Any] | None],  # of sources without a path
        timer: Timer,
        progress: Progress | None,
        compare: bool,  # whether reconstructions are made now, all in one batch, or each when it is asked for
    ) -> list[Result]:
        """Run recipes of one method; InputError for what the bundle or the method does not allow."""
        ...
