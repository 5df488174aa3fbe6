"""Runs recipes on a StyleGAN2 bundle: sources, the method, pictures; seeds and inversions beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.loading import Bundle
from limner.runtime.bundle.presets import presets
from limner.runtime.graphs.sessions import Sessions
from limner.runtime.methods.registry import Method, loaded
from limner.runtime.outcome import Outcome, Result
from limner.runtime.pictures.images import checked_u8
from limner.runtime.recipe import MAX_SEED, Recipe
from limner.runtime.schema import require_int, require_number
from limner.runtime.settings import InversionParameters
from limner.runtime.storage.later import given
from limner.runtime.stylegan2.features import GRAPHS as FEATURE_GRAPHS
from limner.runtime.stylegan2.features import KeepingModels, with_feature_steps
from limner.runtime.stylegan2.inversion import Inversion
from limner.runtime.stylegan2.networks import Models
from limner.runtime.stylegan2.sources import Sources, Start
from limner.runtime.timing import Progress, Timer

__all__ = ["Sample", "StyleGAN2Engine"]

FloatArray = NDArray[np.float32]
ImageU8 = NDArray[np.uint8]
SOURCE_GRAPHS = {
    "image": ("encoder", "synthesis_w"),
    "seed": ("mapping", "synthesis_w"),
    "w_plus": ("synthesis_w",),
}
REFINING_GRAPHS = ("latent_gradient", "clip_image", "identity")


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture that the generator made from a seed."""

    image: ImageU8  # [H,W,3]
    w_plus: FloatArray  # [1,L,D]
    seed: int
    truncation: float
    timing: dict[str, float]  # stage -> ms


class StyleGAN2Engine:
    """One StyleGAN2 bundle; remembers the last inversions, so that a second edit of a picture is quicker."""

    def __init__(self, bundle: Bundle, sessions: Sessions) -> None:
        self.bundle = bundle
        self.models = self.critics = Models(bundle, sessions=sessions)
        self.sources = Sources(self.models)

    @property
    def every_source(self) -> tuple[str, ...]:
        """The graphs that sources of any kind need with the bundle's presets."""
        settings = with_feature_steps(self.bundle, presets(self.bundle, InversionParameters, "inversion"))
        return ("encoder", "mapping", "synthesis_w", *(FEATURE_GRAPHS if settings.feature_steps else ()))

    def graphs(self, recipe: Recipe) -> tuple[str, ...]:
        """What the recipe's source needs of the bundle."""
        graphs = SOURCE_GRAPHS[recipe.source.kind]
        if recipe.source.kind == "image" and recipe.inversion.refine_steps:
            graphs += REFINING_GRAPHS
        if recipe.source.kind == "image" and recipe.inversion.feature_steps:
            graphs += FEATURE_GRAPHS
        return graphs

    def edit(
        self,
        method: Method,
        recipes: Sequence[Recipe],
        arrays: Sequence[NDArray[Any] | None],
        timer: Timer,
        progress: Progress | None,
        compare: bool,
    ) -> list[Result]:
        """Run complete recipes of equal parameters, as `outcome.Engine` says."""
        with timer.stage("source"):
            pairs = zip(recipes, arrays, strict=True)
            starts = [self.sources.resolve(recipe, array, progress) for recipe, array in pairs]
        outcomes = self._outcomes(method, starts, timer, progress)
        with timer.stage("synthesis"):
            images = [outcome.render(outcome.recipe) for outcome in outcomes]
        return [
            Result(
                outcome=outcome,
                image=image,
                source=given(start.source),
                reconstruction=given(start.reconstruction),
                scores=start.scores,
                notes=start.notes,
                carried=start.carried,
                likeness=start.likeness,
            )
            for start, outcome, image in zip(starts, outcomes, images, strict=True)
        ]

    def _outcomes(
        self, method: Method, starts: Sequence[Start], timer: Timer, progress: Progress | None
    ) -> list[Outcome]:
        """Run the method on all starts at once; on those with features one by one, each drawn with its own."""
        run = loaded(method.run)
        if any(start.features is not None for start in starts) and len(starts) > 1:
            return [self._outcomes(method, [start], timer, progress)[0] for start in starts]
        features = starts[0].features
        models = self.models if features is None else KeepingModels(self.models, features)
        w_plus = np.concatenate([start.w_plus for start in starts])  # [N,L,D]
        found: list[Outcome] = run(models, w_plus, [start.recipe for start in starts], timer, progress)
        return found

    def invert(
        self, picture: str | Path | ImageU8, parameters: InversionParameters | None, progress: Progress | None
    ) -> Inversion:
        """Bring a picture to W+; None takes the bundle's settings."""
        settings = presets(self.bundle, InversionParameters, "inversion") if parameters is None else parameters
        return self.sources.inversion(picture, with_feature_steps(self.bundle, settings, parameters), progress)[0]

    def sample(self, seed: int, truncation: float) -> Sample:
        """Make a picture from a seed; truncation is 0 (the mean picture) to 1 (no truncation)."""
        require_int("seed", seed, 0, MAX_SEED)
        require_number("truncation", truncation, 0.0, 1.0)
        timer = Timer()
        with timer.stage("mapping"):
            w_plus = self.sources.seed_to_w_plus(seed, truncation)
        with timer.stage("synthesis"):
            image = checked_u8(self.models.synthesis(w_plus))
        return Sample(image, w_plus, seed, truncation, timer.stages)
