"""One running edit, as those that schedule its graph calls see it: when it has to stop, and what it has had so far."""

import threading
import time
from dataclasses import dataclass, field

from limner.runtime.errors import StoppedError

__all__ = ["Ticket"]


@dataclass(eq=False)
class Ticket:
    """How a running edit is told to stop, from any thread. It stops between two graph calls, with a StoppedError."""

    deadline: float | None = None  # of time.monotonic
    spent: float = 0.0  # seconds of lanes that it had, counted from the least of those that ran when it came
    had: float = 0.0  # seconds of lanes that it had in all
    stopped: str = ""  # why, as StoppedError names it
    changed: threading.Event = field(default_factory=threading.Event)  # wakes a call that waits

    @classmethod
    def within(cls, seconds: float | None) -> "Ticket":
        """A ticket whose deadline is so many seconds from now."""
        return cls(None if seconds is None else time.monotonic() + seconds)

    @property
    def left(self) -> float | None:
        """Seconds until the deadline, not below 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def check(self) -> None:
        """Raise StoppedError if the edit is not to go on."""
        if self.stopped:
            raise StoppedError(self.stopped)
        if self.left == 0.0:
            raise StoppedError("deadline")
