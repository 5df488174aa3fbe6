"""How long each stage of an edit took, in milliseconds of wall time, and how far a method is."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Progress", "Timer"]

Progress = Callable[[int, int, dict[str, float]], None]
"""progress(step, steps, losses): called after each step of a method that has steps."""


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
