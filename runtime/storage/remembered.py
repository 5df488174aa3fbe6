"""What was used last stays in memory: the one cache of everything that is costly and can be made again."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Remembered"]

V = TypeVar("V")


class Remembered(Generic[V]):
    """The `size` values that were used last, by key; several threads may use it at once."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> V | None:
        """The value of `key`, which counts as used now, or None."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Hashable, value: V) -> V:
        """Remember a value and return it; the one that was not used for longest makes room."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self.size:
                self._values.popitem(last=False)
        return value

    def make(self, key: Hashable, build: Callable[[], V]) -> V:
        """The value of `key`, or what `build()` gives: outside the lock, so that two threads may both build one."""
        found = self.get(key)
        return self.put(key, build()) if found is None else found
