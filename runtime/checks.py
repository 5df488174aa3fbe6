"""Checks of single values that a caller gave; each raises InputError with field, value and range."""

import math

from limner.runtime.errors import InputError

__all__ = ["require_int", "require_number", "require_sha256"]


def require_number(field: str, value: object, low: float, high: float, hint: str = "") -> float:
    """Return `value` as a float if it is a finite number in [low, high]."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:  # type: ignore[arg-type,operator]
        raise InputError(field, repr(value), f"a number from {low:g} to {high:g}", hint)
    return float(value)  # type: ignore[arg-type]


def require_int(field: str, value: object, low: int, high: int, hint: str = "") -> int:
    """Return `value` if it is a whole number in [low, high]."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(field, repr(value), f"a whole number from {low} to {high}", hint)
    return value


def require_sha256(field: str, value: object) -> str:
    """Return `value` if it is 64 lower-case hexadecimal digits."""
    if not isinstance(value, str) or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise InputError(field, repr(value), "a sha256, 64 lower-case hexadecimal digits")
    return value
