"""The Editor: one bundle, warm, that turns recipes into edits.

>>> editor = Editor("checkpoints/avatars/bundle")                                   # doctest: +SKIP
>>> prompt = PromptEdit("a person with a beard")                                    # doctest: +SKIP
>>> edit = editor.edit(Recipe("global-directions", Source.from_seed(7), (prompt,)))  # doctest: +SKIP
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.loading import Bundle, load_bundle
from limner.runtime.checks import require_int, require_number
from limner.runtime.completing import idle_settings, refuse_idle, without_idle
from limner.runtime.edit import Edit
from limner.runtime.errors import GraphError, InputError, LimnerError
from limner.runtime.methods.registry import (
    Method,
    Outcome,
    Progress,
    Runner,
    find_method,
    needed_graphs,
    require_family,
)
from limner.runtime.notices import change_notices, source_notices, text_notices
from limner.runtime.pictures.images import to_u8
from limner.runtime.recipe import MAX_SEED, Recipe
from limner.runtime.schema import to_dict
from limner.runtime.stylegan2.inversion import Inversion, InversionParameters
from limner.runtime.stylegan2.networks import Models
from limner.runtime.stylegan2.sources import Sources, Start
from limner.runtime.timing import Timer

if TYPE_CHECKING:
    from limner.runtime.diffusion.engine import DiffusionEngine

__all__ = ["Editor", "PromptSample", "Sample"]

FloatArray = NDArray[np.float32]
ImageU8 = NDArray[np.uint8]
SCORE_GRAPHS = ("clip_image", "identity")  # used where the bundle has them
SOURCE_GRAPHS = {
    "image": ("encoder", "synthesis_w"),
    "seed": ("mapping", "synthesis_w"),
    "w_plus": ("synthesis_w",),
}
DIFFUSION_GRAPHS = ("text_encoder", "vae_encoder", "unet", "vae_decoder")


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture that the generator made from a seed."""

    image: ImageU8  # [H,W,3]
    w_plus: FloatArray  # [1,L,D]
    seed: int
    truncation: float
    timing: dict[str, float]  # stage -> ms


@dataclass(frozen=True, eq=False)
class PromptSample:
    """A picture that a diffusion model made from a text and a seed."""

    image: ImageU8  # [H,W,3]
    prompt: str
    seed: int
    parameters: dict[str, Any]  # of the sampling, all filled in
    timing: dict[str, float]  # stage -> ms, of the whole batch


class Editor:
    """Runs recipes on one bundle. Sessions, text features and inversions stay warm between edits."""

    def __init__(
        self,
        bundle: Bundle | str | Path,  # loaded, or the folder of one, which is then checked
        provider: str = "cpu",  # never replaced by another one
        threads: int | None = None,  # CPU threads; None takes the cores that this process may use
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        self.provider = provider
        self.models = Models(self.bundle, provider, threads)
        self.sources = Sources(self.models)
        self._diffusion: DiffusionEngine | None = None

    @property
    def diffusion(self) -> "DiffusionEngine":
        """What runs recipes on a diffusion bundle; BundleError on a bundle of another family."""
        from limner.runtime.diffusion.engine import DiffusionEngine

        if self._diffusion is None:
            self._diffusion = DiffusionEngine(self.bundle, self.models.sessions)
        return self._diffusion

    def edit(
        self,
        recipe: Recipe,
        progress: Progress | None = None,  # progress(step, steps, losses) from methods that have steps
        *,
        given: NDArray[Any] | None = None,  # the array of a source without a path: uint8 [H,W,3] or w_plus [L,D]
    ) -> Edit:
        """Run one recipe. Raises InputError for what the bundle or the method does not allow."""
        return self.edit_batch([recipe], progress, given=[given])[0]

    def edit_batch(
        self,
        recipes: Sequence[Recipe],
        progress: Progress | None = None,
        *,
        given: Sequence[NDArray[Any] | None] | None = None,  # one a recipe
        batch: int = 8,  # how many pictures a method works on at once
    ) -> list[Edit]:
        """Run many recipes; those of one method with equal parameters go through it together.

        The order of the results is that of the recipes. A picture edited in a batch may differ from the same
        one edited alone by rounding, since graphs sum in another order.
        """
        require_int("batch", batch, 1, 4096)
        arrays = list(given) if given is not None else [None] * len(recipes)
        if len(arrays) != len(recipes):
            raise InputError("given", f"{len(arrays)} arrays", f"{len(recipes)}, one a recipe")
        edits: dict[int, Edit] = {}
        for rows in _groups(recipes, batch):
            done = self._edit_group([recipes[row] for row in rows], [arrays[row] for row in rows], progress)
            edits |= dict(zip(rows, done, strict=True))
        return [edits[row] for row in range(len(recipes))]

    def invert(
        self,
        picture: str | Path | ImageU8,  # a file, or uint8 [H,W,3] of the generator's size
        parameters: InversionParameters | None = None,  # None takes the bundle's, else the defaults
        progress: Progress | None = None,
    ) -> Inversion:
        """Bring a picture to W+; the last few are remembered."""
        settings = parameters if parameters is not None else self.sources.inversion_parameters({})
        return self.sources.inversion(picture, settings, progress)[0]

    def sample(self, seed: int, truncation: float = 0.7) -> Sample:
        """Make a picture from a seed; truncation is 0 (the mean picture) to 1 (no truncation)."""
        require_int("seed", seed, 0, MAX_SEED)
        require_number("truncation", truncation, 0.0, 1.0)
        timer = Timer()
        with timer.stage("mapping"):
            w_plus = self.sources.seed_to_w_plus(seed, truncation)
        with timer.stage("synthesis"):
            image = _checked_u8(self.models.synthesis(w_plus))
        return Sample(image, w_plus, seed, truncation, timer.stages)

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],  # one a prompt
        parameters: dict[str, Any] | None = None,  # names of SamplingParameters; the rest from bundle and defaults
        *,
        negative: str = "",
        progress: Progress | None = None,
    ) -> list[PromptSample]:
        """Make pictures from texts with a diffusion bundle, all in one batch."""
        for seed in seeds:
            require_int("seed", seed, 0, MAX_SEED)
        engine = self.diffusion
        settings = engine.sampling_parameters(parameters or {})
        timer = Timer()
        with timer.stage("generation"):
            images = engine.generate(prompts, seeds, settings, negative=negative, progress=progress)
        filled = to_dict(settings) | {"negative_prompt": negative}
        rows = zip(prompts, seeds, images, strict=True)
        return [PromptSample(_checked_u8(image[None]), p, s, filled, timer.stages) for p, s, image in rows]

    def warm(self, *methods: str) -> dict[str, float]:
        """Load what the named methods and every source need; return graph -> milliseconds of loading."""
        names: dict[str, None] = {}
        for method in methods:
            names |= dict.fromkeys(find_method(method).graphs)
        for graphs in (*SOURCE_GRAPHS.values(), DIFFUSION_GRAPHS):
            names |= dict.fromkeys(name for name in graphs if name in self.models.sessions)
        names |= dict.fromkeys(name for name in SCORE_GRAPHS if name in self.models.sessions)
        return self.models.sessions.warm(*names)

    def _edit_group(
        self, recipes: list[Recipe], arrays: list[NDArray[Any] | None], progress: Progress | None
    ) -> list[Edit]:
        """Run recipes of one method with equal parameters."""
        method = find_method(recipes[0].method)
        require_family(method, self.bundle)
        timer = Timer()
        begin = time.perf_counter()
        for recipe in recipes:
            self._check_bundle(recipe)
            refuse_idle(recipe, idle_settings(self.bundle, recipe))
        if method.family == "diffusion":
            return self._edit_diffusion(method, recipes, arrays, timer, progress)
        with timer.stage("load"):
            sources = [graph for recipe in recipes for graph in SOURCE_GRAPHS[recipe.source.kind]]
            scores = [graph for graph in SCORE_GRAPHS if graph in self.models.sessions]
            own = [graph for recipe in recipes for graph in needed_graphs(method, self.bundle, recipe)]
            self.models.sessions.warm(*dict.fromkeys([*own, *sources, *scores]))
        with timer.stage("source"):
            pairs = zip(recipes, arrays, strict=True)
            starts = [self.sources.resolve(recipe, array, progress) for recipe, array in pairs]
        w_plus = np.concatenate([start.w_plus for start in starts])  # [N,L,D]
        resolved = [replace(start.recipe, bundle=self.bundle.digest) for start in starts]
        run: Runner = method.run  # type: ignore[assignment]
        outcomes = run(self.models, w_plus, resolved, timer, progress)
        if len(outcomes) != len(recipes):
            raise LimnerError(f"the method {method.name!r} gave {len(outcomes)} results for {len(recipes)} recipes")
        with timer.stage("synthesis"):
            images = [outcome.render(outcome.recipe) for outcome in outcomes]
        with timer.stage("scores"):
            rows = zip(starts, outcomes, images, strict=True)
            all_scores = [
                self._scores(start.reconstruction, outcome, image) | start.scores | outcome.scores
                for start, outcome, image in rows
            ]
        timer.stages["total"] = 1000.0 * (time.perf_counter() - begin)
        rows = zip(starts, outcomes, images, strict=True)
        return [
            self._edit(start, outcome, image, scores, dict(timer.stages))
            for (start, outcome, image), scores in zip(rows, all_scores, strict=True)
        ]

    def _edit_diffusion(
        self,
        method: Method,
        recipes: list[Recipe],
        arrays: list[NDArray[Any] | None],
        timer: Timer,
        progress: Progress | None,
    ) -> list[Edit]:
        """The same on a diffusion bundle, which draws its own pictures."""
        begin = time.perf_counter()
        with timer.stage("load"):
            own = [graph for recipe in recipes for graph in needed_graphs(method, self.bundle, recipe)]
            sources = ("vae_encoder",) if recipes[0].source.kind == "image" else ()
            scores = [graph for graph in SCORE_GRAPHS if graph in self.models.sessions]
            self.models.sessions.warm(*dict.fromkeys([*own, *sources, *scores]))
        results = self.diffusion.edit(method, recipes, arrays, timer, progress)
        with timer.stage("scores"):
            scored = [self._scores(one.reconstruction, one.outcome, one.image) | one.outcome.scores for one in results]
        timer.stages["total"] = 1000.0 * (time.perf_counter() - begin)
        return [
            Edit(
                image=_checked_u8(one.image),
                source=_checked_u8(one.source),
                reconstruction=_checked_u8(one.reconstruction),
                recipe=self._complete(one.outcome.recipe),
                scores=row,
                timing=dict(timer.stages),
                provider=self.provider,
                pictures=one.outcome.pictures,
                warnings=self._warnings(one.outcome, one.reconstruction, one.image, row, one.notes, one.likeness),
                carried=one.carried,
                _render=_renderer(one.outcome.render),
            )
            for one, row in zip(results, scored, strict=True)
        ]

    def _edit(
        self,
        start: Start,
        outcome: Outcome,
        image: FloatArray,
        scores: dict[str, float],
        timing: dict[str, float],
    ) -> Edit:
        return Edit(
            image=_checked_u8(image),
            source=start.source,
            reconstruction=to_u8(start.reconstruction)[0],
            recipe=self._complete(outcome.recipe),
            scores=scores,
            timing=timing,
            provider=self.provider,
            trajectory=outcome.trajectory,
            pictures=outcome.pictures,
            warnings=self._warnings(outcome, start.reconstruction, image, scores, start.notes, start.likeness),
            carried=start.carried,
            _render=_renderer(outcome.render),
        )

    def _complete(self, recipe: Recipe) -> Recipe:
        """A recipe that ran: with all that acted, and nothing else."""
        return without_idle(recipe, idle_settings(self.bundle, recipe))

    def _warnings(
        self,
        outcome: Outcome,
        reconstruction: FloatArray,
        image: FloatArray,
        scores: dict[str, float],
        notes: tuple[str, ...],
        likeness: float | None,
    ) -> tuple[str, ...]:
        texts = text_notices(self.bundle, self.models.tokenizer, outcome.recipe, outcome.texts)
        source = source_notices(self.bundle, notes, likeness)
        before, after = _checked_u8(reconstruction), _checked_u8(image)
        return (*texts, *source, *change_notices(self.bundle, before, after, scores["pixel"]))

    def _check_bundle(self, recipe: Recipe) -> None:
        if recipe.bundle is not None and recipe.bundle != self.bundle.digest:
            given = f"a recipe made with the bundle {recipe.bundle[:12]}..."
            allowed = f"{self.bundle.digest[:12]}..., the bundle {self.bundle.manifest.name!r} loaded here"
            raise InputError("bundle", given, allowed, "leave `bundle` out to run it on this one all the same")

    def _scores(self, reconstruction: FloatArray, outcome: Outcome, image: FloatArray) -> dict[str, float]:
        """Cosines of picture and texts before and after, identity, and pixel change."""
        pair = np.concatenate([reconstruction, image])  # [2,3,H,W]
        scores = {"pixel": float(np.mean((pair[1] - pair[0]) ** 2))}
        if "identity" in self.models.sessions:
            before, after = self.models.identity(pair)
            scores["identity"] = float(before @ after)
        if "clip_image" in self.models.sessions and "clip_text" in self.models.sessions:
            words = outcome.texts or [prompt.text for prompt in outcome.recipe.prompts]
            texts = np.stack([self.models.text_features(text) for text in words])  # [P,C]
            before, after = (self.models.clip_image(pair) @ texts.T).mean(axis=1)
            scores |= {"clip_before": float(before), "clip_after": float(after)}
        return scores


def _groups(recipes: Sequence[Recipe], batch: int) -> Iterator[list[int]]:
    """Yield rows of recipes that share method, parameters and kind of source, at most `batch` at a time."""
    found: dict[tuple[str, ...], list[int]] = {}
    for row, recipe in enumerate(recipes):
        shared = (repr(sorted(settings.items())) for settings in (recipe.parameters, recipe.inversion))
        found.setdefault((recipe.method, recipe.source.kind, *shared), []).append(row)
    for rows in found.values():
        for first in range(0, len(rows), batch):
            yield rows[first : first + batch]


def _checked_u8(image: FloatArray) -> ImageU8:
    """[1,3,H,W] in [-1,1] -> uint8 [H,W,3]; GraphError rather than a picture made of NaN."""
    if not np.isfinite(image).all():
        raise GraphError("the edited picture holds NaN or infinity; lower the strength or the learning rate")
    picture: ImageU8 = to_u8(image)[0]
    return picture


def _renderer(render: Callable[[Recipe], FloatArray]) -> Callable[[Recipe], ImageU8]:
    return lambda recipe: _checked_u8(render(recipe))
