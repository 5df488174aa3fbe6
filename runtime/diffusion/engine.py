"""Runs recipes on a diffusion bundle: sources, the method, scores; plain generation beside it."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.loading import Bundle
from limner.runtime.bundle.presets import resolve_parameters
from limner.runtime.completing import completed
from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.diffusion.sampling import SamplingParameters, generate
from limner.runtime.diffusion.sources import DiffusionStart, resolve_start
from limner.runtime.errors import LimnerError
from limner.runtime.graphs.sessions import Sessions
from limner.runtime.methods.registry import DiffusionRunner, Method, Outcome, Progress
from limner.runtime.pictures.containers import NOTHING, Carried
from limner.runtime.pictures.images import to_float
from limner.runtime.recipe import Recipe
from limner.runtime.schema import from_dict
from limner.runtime.timing import Timer

__all__ = ["DiffusionEngine", "DiffusionResult"]

FloatArray = NDArray[np.float32]
REMEMBERED = 16  # plain pictures
SECTION = "sampling"  # of the bundle's defaults, for plain generation


@dataclass(frozen=True, eq=False)
class DiffusionResult:
    """One edited picture, its source, and the source as the model makes it."""

    outcome: Outcome
    image: FloatArray  # [1,3,H,W]
    source: FloatArray  # [1,3,H,W]
    reconstruction: FloatArray  # [1,3,H,W]
    notes: tuple[str, ...] = ()  # what was done to a picture file
    carried: Carried = NOTHING  # what the file holds beside its pixels
    likeness: float | None = None  # of a picture: PSNR in dB of what the autoencoder makes of it


class DiffusionEngine:
    """One diffusion bundle; remembers the last plain pictures, so that a second edit of one is quicker."""

    def __init__(self, bundle: Bundle, sessions: Sessions) -> None:
        self.bundle = bundle
        self.networks = DiffusionNetworks.from_bundle(bundle, sessions)
        self._plain: OrderedDict[str, FloatArray] = OrderedDict()

    def edit(
        self,
        method: Method,
        recipes: Sequence[Recipe],  # of equal parameters and kind of source
        arrays: Sequence[NDArray[Any] | None],  # of images without a path
        timer: Timer,
        progress: Progress | None,
    ) -> list[DiffusionResult]:
        """Run recipes of one method; InputError for what the bundle or the method does not allow."""
        recipes = [self.completed(method, recipe) for recipe in recipes]
        common = _common(recipes[0])
        with timer.stage("source"):
            starts = [self.start(recipe, array) for recipe, array in zip(recipes, arrays, strict=True)]
        run: DiffusionRunner = method.run  # type: ignore[assignment]
        outcomes = run(self.networks, starts, [start.recipe for start in starts], timer, progress)
        if len(outcomes) != len(recipes):
            raise LimnerError(f"the method {method.name!r} gave {len(outcomes)} results for {len(recipes)} recipes")
        plain = self._reconstructions(starts, outcomes, common, timer, progress)
        results = []
        for start, outcome, reconstruction in zip(starts, outcomes, plain, strict=True):
            source = reconstruction if start.picture is None else to_float(start.picture)
            image = outcome.render(outcome.recipe)
            alike = self._likeness(start)
            results.append(DiffusionResult(outcome, image, source, reconstruction, start.notes, start.carried, alike))
        return results

    def completed(self, method: Method, recipe: Recipe) -> Recipe:
        """Return the recipe with the bundle's presets, the sampler's name and the bundle's hash filled in."""
        recipe = replace(completed(self.bundle, recipe), bundle=self.bundle.digest)
        method.check(recipe)
        return recipe

    def start(self, recipe: Recipe, given: NDArray[Any] | None) -> DiffusionStart:
        """Resolve the source of a completed recipe; `given` is an image without a path."""
        common = _common(recipe)
        return resolve_start(self.networks, recipe, given, (common.height, common.width))

    def sampling_parameters(self, given: dict[str, Any]) -> SamplingParameters:
        """What `given` leaves open comes from the bundle, then from the published defaults."""
        return resolve_parameters(self.bundle, SECTION, SamplingParameters, given)

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        parameters: SamplingParameters,
        *,
        negative: str = "",
        progress: Progress | None = None,
    ) -> FloatArray:
        """Make N pictures [N,3,H,W] from texts and seeds."""
        latents = generate(self.networks, prompts, seeds, parameters, negative=negative, progress=progress)
        return self.networks.decode(latents)

    def _likeness(self, start: DiffusionStart) -> float | None:
        """PSNR in dB between a picture and what the autoencoder makes of it; None where nobody asks for it."""
        if start.picture is None or start.clean is None or self.bundle.manifest.limits.unlike is None:
            return None
        error = float(np.mean((self.networks.decode(start.clean) - to_float(start.picture)) ** 2))
        return 10.0 * math.log10(4.0 / max(error, 1e-10))  # the range is -1 to 1

    def _reconstructions(
        self,
        starts: Sequence[DiffusionStart],
        outcomes: Sequence[Outcome],
        common: SamplingParameters,
        timer: Timer,
        progress: Progress | None,
    ) -> list[FloatArray]:
        """What the methods gave, else the plain pictures of the prompts, made once and remembered."""
        found: dict[int, FloatArray] = {}
        missing: dict[str, list[int]] = {}
        negative = str(starts[0].recipe.parameters.get("negative_prompt", ""))
        for row, (start, outcome) in enumerate(zip(starts, outcomes, strict=True)):
            key = f"{start.prompt!r} {negative!r} {start.seed} {common}"
            if outcome.reconstruction is not None:
                found[row] = outcome.reconstruction
                if start.picture is None:
                    self._remember(key, outcome.reconstruction)
            elif key in self._plain:
                found[row] = self._plain[key]
            else:
                missing.setdefault(key, []).append(row)
        if missing:
            first = [starts[rows[0]] for rows in missing.values()]
            prompts, seeds = [start.prompt for start in first], [start.seed for start in first]
            with timer.stage("plain picture"):
                images = self.generate(prompts, seeds, common, negative=negative, progress=progress)
            for number, (key, rows) in enumerate(missing.items()):
                self._remember(key, images[number : number + 1])
                found |= dict.fromkeys(rows, images[number : number + 1])
        return [found[row] for row in range(len(starts))]

    def _remember(self, key: str, image: FloatArray) -> None:
        self._plain[key] = image
        self._plain.move_to_end(key)
        while len(self._plain) > REMEMBERED:
            self._plain.popitem(last=False)


def _common(recipe: Recipe) -> SamplingParameters:
    """The part of a method's parameters that every diffusion method has."""
    names = SamplingParameters.__dataclass_fields__
    return from_dict(SamplingParameters, {k: v for k, v in recipe.parameters.items() if k in names}, "parameters")
