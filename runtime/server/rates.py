"""How many requests a key makes: a bucket that fills by so many a minute and holds as many."""

import threading
import time
from collections import OrderedDict

from limner.runtime.server.errors import Refusal

__all__ = ["Rates"]

MOST_NAMES = 10_000


class Rates:
    """One bucket a key."""

    def __init__(self, a_minute: int) -> None:
        self.a_minute = a_minute
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # name -> requests left, when that was
        self._lock = threading.Lock()

    def count(self, name: str, now: float | None = None) -> None:
        """Take one request from the bucket; 429 with the seconds until there is one again."""
        now = time.monotonic() if now is None else now
        speed = self.a_minute / 60.0
        with self._lock:
            left, then = self._left.pop(name, (float(self.a_minute), now))
            left = min(float(self.a_minute), left + (now - then) * speed)
            allowed = left >= 1.0
            self._left[name] = (left - 1.0 if allowed else left), now
            while len(self._left) > MOST_NAMES:
                self._left.popitem(last=False)
        if not allowed:
            wait = max(1, int((1.0 - left) / speed + 0.999))
            raise Refusal(429, f"more than {self.a_minute} requests a minute", None, "rate_limit_exceeded", wait)
