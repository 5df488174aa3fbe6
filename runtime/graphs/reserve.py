"""A lane that long edits leave to ordinary ones, since a graph call that runs is not interrupted.

An edit is long when it has had LONG times as much of the lanes as the median of those that ended lately, whatever the
model, the machine and the method. While an ordinary edit runs, and as long after one as it may take, long edits use
all lanes but one.
"""

import statistics
import time
from collections import deque
from collections.abc import Iterable

from limner.runtime.graphs.tickets import Ticket

__all__ = ["Reserve"]

LONG = 4.0
LATELY = 20  # edits


class Reserve:
    """What ended lately, and how many lanes long edits have. Its owner holds a lock around each call."""

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._ended: deque[float] = deque(maxlen=LATELY)  # seconds of lanes of each edit
        self._most = float("inf")  # that an ordinary edit has
        self._until = 0.0  # of time.monotonic: a lane is kept without an ordinary edit

    def ended(self, ticket: Ticket) -> None:
        """Count an edit that is through."""
        if ticket.had == 0.0:
            return
        self._ended.append(ticket.had)
        self._most = LONG * statistics.median(self._ended)
        if not self.is_long(ticket):
            self._until = time.monotonic() + self._most

    def is_long(self, ticket: Ticket) -> bool:
        """Whether an edit has had much; none has before the first one ended."""
        return ticket.had > self._most

    @property
    def left(self) -> float | None:
        """Seconds for which a lane is kept without an ordinary edit; None if it is not."""
        return max(0.0, self._until - time.monotonic()) or None

    def lanes(self, running: Iterable[Ticket]) -> int:
        """How many lanes long edits may use beside those that run now."""
        kept = self.left is not None or any(not self.is_long(ticket) for ticket in running)
        return max(1, self._lanes - 1) if kept else self._lanes
