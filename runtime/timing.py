"""How long each stage of an edit took, in milliseconds of wall time, and how far a method is."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Previews", "Progress", "Timer", "previews_at", "without_previews"]

Progress = Callable[[int, int, dict[str, float]], None]
"""progress(step, steps, losses): called after each step of a method that has steps."""


class Previews:
    """A `Progress` that wants pictures on the way as well: `count` of them, evenly, from methods that can make them.

    `show(step, steps, image)` gets float32 [1,3,H,W] in [-1,1].
    """

    def __init__(self, count: int, show: Callable[[int, int, Any], None], progress: Progress | None = None) -> None:
        self.count, self.show, self.progress = count, show, progress

    def __call__(self, step: int, steps: int, losses: dict[str, float]) -> None:
        if self.progress is not None:
            self.progress(step, steps, losses)

    def wants(self, step: int, steps: int) -> bool:
        """Whether a picture is wanted of step `step`, 1 to `steps`; never of the last."""
        return step < steps and step in {round(steps * k / (self.count + 1)) for k in range(1, self.count + 1)}


def previews_at(progress: Progress | None, step: int, steps: int) -> Callable[[Any], None] | None:
    """What shows the picture of this step; None for a progress, or a step, that wants none."""
    if not isinstance(progress, Previews) or not progress.wants(step, steps):
        return None
    shows = progress.show
    return lambda image: shows(step, steps, image)


def without_previews(progress: Progress | None) -> Progress | None:
    """The same progress for what comes before the edit, whose pictures are not the edit's."""
    return progress.progress if isinstance(progress, Previews) else progress


class Timer:
    """Adds up the milliseconds of named stages; a stage that runs twice is summed."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the `with` block under `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + 1000.0 * (time.perf_counter() - start)
