"""What the fixtures of these tests give."""

from collections.abc import Callable

from limner.training.importers.registry import Report

Import = Callable[..., Report]
