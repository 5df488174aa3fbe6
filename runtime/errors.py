"""Every error that Limner raises on purpose.

    LimnerError                 exit code 1   something went wrong; the message is one sentence
    |-- InputError              exit code 2   a value that the caller gave: .field .given .allowed .hint
    |   |-- BundleError         exit code 2   a bundle that is broken, altered or incomplete
    |   |   `-- MissingGraphError   exit code 2   the bundle has no graph of that name
    |   `-- ProviderError       exit code 2   the execution provider asked for cannot be used here
    |-- StoppedError            exit code 1   an edit was cancelled, or ran past its deadline
    `-- GraphError              exit code 1   a graph failed while running
        `-- NonFiniteError      exit code 1   a graph gave NaN or infinity

The command line prints `error: <message>` to stderr and leaves with `exit_code`.
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "BundleError",
    "GraphError",
    "InputError",
    "LimnerError",
    "MissingGraphError",
    "NonFiniteError",
    "ProviderError",
    "StoppedError",
    "nearest",
]


class LimnerError(Exception):
    """Root of the tree. `str(error)` is one sentence fit for a person."""

    exit_code = 1


class InputError(LimnerError):
    """A value that was given is not allowed: "<field>: got <given>; allowed: <allowed>; <hint>".

    `given` and `allowed` are phrases, already formatted; `hint` says what to do next and may be empty.
    """

    exit_code = 2

    def __init__(self, field: str, given: object, allowed: str, hint: str = "") -> None:
        self.field = field
        self.given = given
        self.allowed = allowed
        self.hint = hint
        parts = [f"{field}: got {given}", f"allowed: {allowed}", hint]
        super().__init__("; ".join(part for part in parts if part))

    def __reduce__(self) -> tuple[type, tuple[str, object, str, str]]:
        return type(self), (self.field, self.given, self.allowed, self.hint)


class BundleError(InputError):
    """A bundle is broken, altered or incomplete."""


class MissingGraphError(BundleError):
    """The bundle has no graph of the name that an operation needs."""


class ProviderError(InputError):
    """The execution provider asked for is unknown, not installed or does not start on this machine."""


class StoppedError(LimnerError):
    """An edit was told to stop between two calls of its graphs; `reason` says why: "cancelled", "deadline", "end"."""

    SENTENCES: ClassVar[dict[str, str]] = {
        "cancelled": "the edit was cancelled",
        "deadline": "the edit ran past its deadline",
        "end": "the edit was stopped, because the program ends",
    }

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(self.SENTENCES[reason])

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.reason,)


class GraphError(LimnerError):
    """A graph failed while running, or one of its outputs holds NaN or infinity."""


class NonFiniteError(GraphError):
    """One of a graph's outputs holds NaN or infinity."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the hint "did you mean 'x'" for the known name closest to `name`, or an empty string."""
    match = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"did you mean {match[0]!r}" if match else ""
