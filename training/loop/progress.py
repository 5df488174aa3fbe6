"""Progress of long work: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
log = logging.getLogger("limner")


def track(items: Iterable[T], what: str, total: int, every_s: float = 10.0) -> Iterator[T]:
    """Yield the items; show how many of `total` are done on stderr."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track as rich_track

        yield from rich_track(items, what, total, console=Console(stderr=True))
        return
    last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() - last > every_s or done == total:
            last = time.monotonic()
            log.info("%s: %d of %d", what, done, total)
