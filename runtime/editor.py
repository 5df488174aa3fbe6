"""The Editor: one bundle, warm, that turns recipes into edits.

>>> editor = Editor("checkpoints/avatars/bundle")                                   # doctest: +SKIP
>>> prompt = PromptEdit("a person with a beard")                                    # doctest: +SKIP
>>> edit = editor.edit(Recipe("global-directions", Source.from_seed(7), (prompt,)))  # doctest: +SKIP
"""

import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.loading import Bundle, load_bundle
from limner.runtime.completing import (
    completed,
    idle_settings,
    needed_graphs,
    refuse_idle,
    require_family,
    without_idle,
)
from limner.runtime.edit import Edit
from limner.runtime.errors import BundleError, InputError, LimnerError
from limner.runtime.graphs.sessions import Sessions
from limner.runtime.methods.registry import Method, find_method
from limner.runtime.notices import change_notices, source_notices, text_notices
from limner.runtime.outcome import Engine, Result
from limner.runtime.pictures.images import checked_u8
from limner.runtime.recipe import Recipe
from limner.runtime.schema import require_int
from limner.runtime.settings import InversionParameters
from limner.runtime.storage.later import Later
from limner.runtime.timing import Progress, Timer

if TYPE_CHECKING:
    from limner.runtime.diffusion.engine import PromptSample
    from limner.runtime.stylegan2.engine import Sample
    from limner.runtime.stylegan2.inversion import Inversion

__all__ = ["Editor"]

FloatArray = NDArray[np.float32]
ImageU8 = NDArray[np.uint8]
SCORE_GRAPHS = ("clip_image", "identity")  # used where the bundle has them
ENGINES = {  # family -> its engine, loaded when a bundle of it is opened
    "stylegan2": "limner.runtime.stylegan2.engine:StyleGAN2Engine",
    "diffusion": "limner.runtime.diffusion.engine:DiffusionEngine",
}


class Editor:
    """Runs recipes on one bundle. Sessions, text features and inversions stay warm between edits."""

    def __init__(
        self,
        bundle: Bundle | str | Path,  # loaded, or the folder of one, which is then checked
        provider: str = "cpu",  # never replaced by another one
        threads: int | None = None,  # CPU threads; None takes the cores that this process may use
        sessions: Sessions | None = None,  # of the same bundle, made already, in place of provider and threads
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        self.sessions = Sessions(self.bundle, provider, threads) if sessions is None else sessions
        self.provider = self.sessions.provider
        module, _, name = ENGINES[self.bundle.manifest.family].partition(":")
        self.engine: Engine = getattr(importlib.import_module(module), name)(self.bundle, self.sessions)

    def edit(
        self,
        recipe: Recipe,
        progress: Progress | None = None,  # progress(step, steps, losses) from methods that have steps
        *,
        given: NDArray[Any] | None = None,  # the array of a source without a path: uint8 [H,W,3] or w_plus [L,D]
        compare: bool = True,  # with the picture without the edit: see `edit_batch`
    ) -> Edit:
        """Run one recipe. Raises InputError for what the bundle or the method does not allow."""
        return self.edit_batch([recipe], progress, given=[given], compare=compare)[0]

    def edit_batch(
        self,
        recipes: Sequence[Recipe],
        progress: Progress | None = None,
        *,
        given: Sequence[NDArray[Any] | None] | None = None,  # one a recipe
        batch: int = 8,  # how many pictures a method works on at once
        compare: bool = True,
    ) -> list[Edit]:
        """Run many recipes; those of one method with equal parameters go through it together.

        Without `compare`, the picture without the edit is not made unless `Edit.reconstruction` is read: that of a
        diffusion model's prompt takes calls of its own (SEGA) or rows of each call (Prompt-to-Prompt). Scores that
        need it and the notice that nothing changed are left out.

        The order of the results is that of the recipes. A picture edited in a batch may differ from the same
        one edited alone by rounding, since graphs sum in another order.
        """
        require_int("batch", batch, 1, 4096)
        arrays = list(given) if given is not None else [None] * len(recipes)
        if len(arrays) != len(recipes):
            raise InputError("given", f"{len(arrays)} arrays", f"{len(recipes)}, one a recipe")
        edits: dict[int, Edit] = {}
        whole = [self._completed(recipe) for recipe in recipes]
        for rows in _groups(whole, batch):
            method = find_method(whole[rows[0]].method)
            done = self._edit_group(
                method, [whole[row] for row in rows], [arrays[row] for row in rows], progress, compare
            )
            edits |= dict(zip(rows, done, strict=True))
        return [edits[row] for row in range(len(recipes))]

    def invert(
        self,
        picture: "str | Path | ImageU8",  # a file, or uint8 [H,W,3] of the generator's size
        parameters: InversionParameters | None = None,  # None takes the bundle's, else the defaults
        progress: Progress | None = None,
    ) -> "Inversion":
        """Bring a picture to W+ of a StyleGAN2 bundle; the last few are remembered."""
        found: Inversion = self._of("stylegan2").invert(picture, parameters, progress)
        return found

    def sample(self, seed: int, truncation: float = 0.7) -> "Sample":
        """Make a picture from a seed with a StyleGAN2 bundle; truncation is 0 (the mean picture) to 1 (none)."""
        found: Sample = self._of("stylegan2").sample(seed, truncation)
        return found

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],  # one a prompt
        parameters: Mapping[str, Any] | None = None,  # of SamplingParameters; the rest from bundle and defaults
        *,
        negative: str = "",
        progress: Progress | None = None,
    ) -> "list[PromptSample]":
        """Make pictures from texts with a diffusion bundle, all in one batch."""
        engine = self._of("diffusion")
        found: list[PromptSample] = engine.samples(
            prompts, seeds, parameters or {}, negative=negative, progress=progress
        )
        return found

    def _of(self, family: str) -> Any:
        """The engine, if it is that of the family; BundleError otherwise."""
        if self.bundle.manifest.family != family:
            given = f"{self.bundle.manifest.name!r}, a bundle of the family {self.bundle.manifest.family!r}"
            raise BundleError("bundle", given, f"a bundle of the family {family!r}", "name another one with --bundle")
        return self.engine

    def warm(self, *methods: str) -> dict[str, float]:
        """Load what the named methods and every source need; return graph -> milliseconds of loading."""
        names: dict[str, None] = {}
        for method in methods:
            names |= dict.fromkeys(find_method(method).graphs)
        names |= dict.fromkeys(name for name in self.engine.every_source if name in self.sessions)
        names |= dict.fromkeys(name for name in SCORE_GRAPHS if name in self.sessions)
        return self.sessions.warm(*names)

    def _edit_group(
        self,
        method: Method,
        recipes: list[Recipe],
        arrays: list[NDArray[Any] | None],
        progress: Progress | None,
        compare: bool,
    ) -> list[Edit]:
        """Run completed recipes of one method with equal parameters."""
        timer = Timer()
        begin = time.perf_counter()
        with timer.stage("load"):
            own = [graph for recipe in recipes for graph in needed_graphs(method, self.bundle, recipe)]
            sources = [graph for recipe in recipes for graph in self.engine.graphs(recipe)]
            scores = [graph for graph in SCORE_GRAPHS if graph in self.sessions]
            self.sessions.warm(*dict.fromkeys([*own, *sources, *scores]))
        results = self.engine.edit(method, recipes, arrays, timer, progress, compare)
        if len(results) != len(recipes):
            raise LimnerError(f"the method {method.name!r} gave {len(results)} results for {len(recipes)} recipes")
        with timer.stage("scores"):
            scored = [self._scores(one, compare) for one in results]
        timer.stages["total"] = 1000.0 * (time.perf_counter() - begin)
        return [self._edit(one, row, dict(timer.stages), compare) for one, row in zip(results, scored, strict=True)]

    def _completed(self, recipe: Recipe) -> Recipe:
        """The recipe as it runs; InputError for what the bundle or the method does not allow."""
        require_family(find_method(recipe.method), self.bundle)
        self._check_bundle(recipe)
        whole = completed(self.bundle, recipe)
        refuse_idle(recipe, idle_settings(whole))
        return replace(whole, bundle=self.bundle.digest)

    def _edit(self, result: Result, scores: dict[str, float], timing: dict[str, float], compare: bool) -> Edit:
        outcome, image = result.outcome, checked_u8(result.image)
        reconstruction = Later(lambda: checked_u8(result.reconstruction()))
        critics = self.engine.critics
        texts = text_notices(self.bundle, critics.tokenizer, outcome.recipe, outcome.texts)
        source = source_notices(self.bundle, result.notes, result.likeness)
        changed = change_notices(self.bundle, reconstruction(), image, scores["pixel"]) if compare else ()
        return Edit(
            image=image,
            _source=result.source,
            _reconstruction=reconstruction,
            recipe=without_idle(outcome.recipe, idle_settings(outcome.recipe)),
            scores=scores,
            timing=timing,
            provider=self.provider,
            trajectory=outcome.trajectory,
            pictures=outcome.pictures,
            maps=outcome.maps,
            warnings=(*texts, *source, *changed),
            carried=result.carried,
            compared=compare,
            _render=_renderer(outcome.render),
        )

    def _scores(self, result: Result, compare: bool) -> dict[str, float]:
        words = result.outcome.texts or [prompt.text for prompt in result.outcome.recipe.prompts]
        before = result.reconstruction() if compare else None
        found = self.engine.critics.scores(before, result.image, words)
        return found | result.scores | result.outcome.scores

    def _check_bundle(self, recipe: Recipe) -> None:
        if recipe.bundle is not None and recipe.bundle != self.bundle.digest:
            given = f"a recipe made with the bundle {recipe.bundle[:12]}..."
            allowed = f"{self.bundle.digest[:12]}..., the bundle {self.bundle.manifest.name!r} loaded here"
            raise InputError("bundle", given, allowed, "leave `bundle` out to run it on this one all the same")


def _groups(recipes: Sequence[Recipe], batch: int) -> Iterator[list[int]]:
    """Yield rows of complete recipes that share method, parameters and kind of source, at most `batch` at a time."""
    found: dict[tuple[str, ...], list[int]] = {}
    for row, recipe in enumerate(recipes):
        shared = (repr(recipe.parameters), repr(recipe.inversion))
        found.setdefault((recipe.method, recipe.source.kind, *shared), []).append(row)
    for rows in found.values():
        for first in range(0, len(rows), batch):
            yield rows[first : first + batch]


def _renderer(render: Callable[[Recipe], FloatArray]) -> Callable[[Recipe], ImageU8]:
    return lambda recipe: checked_u8(render(recipe))
