"""Runs recipes on a diffusion bundle: sources, the method, scores; plain generation beside it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.loading import Bundle
from limner.runtime.bundle.presets import resolved
from limner.runtime.critics import Critics
from limner.runtime.diffusion.caching import CACHED, no_cached_graph
from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.diffusion.sampling import generate
from limner.runtime.diffusion.sources import DiffusionStart, resolve_start
from limner.runtime.graphs.sessions import Sessions
from limner.runtime.methods.registry import Method, loaded
from limner.runtime.outcome import Outcome, Result
from limner.runtime.pictures.images import checked_u8, to_float
from limner.runtime.recipe import MAX_SEED, Recipe
from limner.runtime.schema import require_int, to_dict
from limner.runtime.settings import SamplingParameters, typed
from limner.runtime.storage.later import Later
from limner.runtime.storage.remembered import Remembered
from limner.runtime.timing import Progress, Timer

__all__ = ["DiffusionEngine", "PromptSample"]

FloatArray = NDArray[np.float32]
ImageU8 = NDArray[np.uint8]
REMEMBERED = 16  # plain pictures
SECTION = "sampling"  # of the bundle's defaults, for plain generation


@dataclass(frozen=True, eq=False)
class PromptSample:
    """A picture that a diffusion model made from a text and a seed."""

    image: ImageU8  # [H,W,3]
    prompt: str
    seed: int
    parameters: dict[str, Any]  # of the sampling, all filled in
    timing: dict[str, float]  # stage -> ms, of the whole batch


class DiffusionEngine:
    """One diffusion bundle; remembers the last plain pictures, so that a second edit of one is quicker."""

    every_source = ("text_encoder", "vae_encoder", "unet", "vae_decoder")

    def __init__(self, bundle: Bundle, sessions: Sessions) -> None:
        self.bundle = bundle
        self.critics = Critics(bundle, sessions)
        self.networks = DiffusionNetworks.from_bundle(bundle, sessions)
        self._plain: Remembered[FloatArray] = Remembered(REMEMBERED)

    def graphs(self, recipe: Recipe) -> tuple[str, ...]:
        """What the recipe's source and its shortcuts need of the bundle; InputError for one that it has not."""
        interval = recipe.parameters.cache_interval
        if interval > 1 and CACHED not in self.bundle.manifest.graphs:
            raise no_cached_graph(interval)
        own = ("vae_encoder",) if recipe.source.kind == "image" else ()
        return (*own, CACHED) if interval > 1 else own

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
            found = [self.start(recipe, array) for recipe, array in zip(recipes, arrays, strict=True)]
            starts = [replace(start, compare=compare) for start in found]
        run = loaded(method.run)
        outcomes: list[Outcome] = run(self.networks, starts, [start.recipe for start in starts], timer, progress)
        plain = self._plain_pictures(starts, outcomes, timer, progress, compare)
        return [
            Result(
                outcome=outcome,
                image=outcome.render(outcome.recipe),
                source=_source(start, reconstruction),
                reconstruction=reconstruction,
                notes=start.notes,
                carried=start.carried,
                likeness=self._likeness(start),
            )
            for start, outcome, reconstruction in zip(starts, outcomes, plain, strict=True)
        ]

    def start(self, recipe: Recipe, given: NDArray[Any] | None) -> DiffusionStart:
        """Resolve the source of a completed recipe; `given` is an image without a path."""
        parameters: SamplingParameters = recipe.parameters
        return resolve_start(self.networks, recipe, given, (parameters.height, parameters.width))

    def sampling_parameters(self, given: SamplingParameters | Mapping[str, Any]) -> SamplingParameters:
        """What `given` leaves open comes from the bundle, then from the published defaults."""
        return resolved(self.bundle, typed(SamplingParameters, given, "parameters"), SECTION)

    def samples(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        given: Mapping[str, Any],
        *,
        negative: str = "",
        progress: Progress | None = None,
    ) -> list[PromptSample]:
        """Make pictures from texts, all in one batch."""
        for seed in seeds:
            require_int("seed", seed, 0, MAX_SEED)
        settings = self.sampling_parameters(given)
        timer = Timer()
        with timer.stage("generation"):
            images = self.generate(prompts, seeds, settings, negative=negative, progress=progress)
        filled = to_dict(settings) | {"negative_prompt": negative}
        rows = zip(prompts, seeds, images, strict=True)
        return [PromptSample(checked_u8(image[None]), p, s, filled, timer.stages) for p, s, image in rows]

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

    def _plain_pictures(
        self,
        starts: Sequence[DiffusionStart],
        outcomes: Sequence[Outcome],
        timer: Timer,
        progress: Progress | None,
        compare: bool,
    ) -> list[Later[FloatArray]]:
        """What the methods have, else the plain pictures of the prompts; with `compare` they are made now."""
        parameters = starts[0].recipe.parameters
        common, negative = _common(parameters), str(getattr(parameters, "negative_prompt", ""))
        keys = [f"{start.prompt!r} {negative!r} {start.seed} {common}" for start in starts]
        own = [outcome.reconstruction for outcome in outcomes]

        def generate(rows: Sequence[int], progress: Progress | None = None) -> FloatArray:
            prompts, seeds = [starts[row].prompt for row in rows], [starts[row].seed for row in rows]
            return self.generate(prompts, seeds, common, negative=negative, progress=progress)

        def plain(row: int) -> FloatArray:
            if (given := own[row]) is None:
                return self._plain.make(keys[row], lambda: generate([row]))
            return given() if starts[row].picture is not None else self._plain.put(keys[row], given())

        missing = {key: row for row, key in enumerate(keys) if own[row] is None and self._plain.get(key) is None}
        found: dict[str, FloatArray] = {}
        if compare and missing:
            with timer.stage("plain picture"):
                images = generate(list(missing.values()), progress)
            found = {key: self._plain.put(key, images[n : n + 1]) for n, key in enumerate(missing)}
        later = [Later(partial(plain, row) if key not in found else partial(found.__getitem__, key))
                 for row, key in enumerate(keys)]  # fmt: skip
        if compare:
            with timer.stage("decode"):
                for one in later:
                    one()
        return later


def _source(start: DiffusionStart, plain: Later[FloatArray]) -> Later[ImageU8]:
    """The picture that came in, or the plain one of a prompt."""
    picture = start.picture
    return Later(lambda: checked_u8(plain()) if picture is None else picture)


def _common(parameters: SamplingParameters) -> SamplingParameters:
    """The part of a method's parameters that every diffusion method has."""
    names = [one.name for one in fields(SamplingParameters)]
    return SamplingParameters(**{name: getattr(parameters, name) for name in names})
