"""A value that is made when it is first asked for, once, whoever asks."""

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

__all__ = ["Later", "given"]

T = TypeVar("T")


class Later(Generic[T]):
    """`later()` gives the value; threads that ask at the same time wait for the one that makes it."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make: Callable[[], T] | None = make
        self._lock = Lock()

    def __call__(self) -> T:
        with self._lock:
            if self._make is not None:
                self._value = self._make()
                self._make = None  # what it held on to may go
            return self._value


def given(value: T) -> Later[T]:
    """A value that is there already."""
    return Later(lambda: value)
