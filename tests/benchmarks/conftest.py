"""Fixtures of the tests of what times things."""

from support.tiny import tiny_bundle, tiny_checkpoints

__all__ = ["tiny_bundle", "tiny_checkpoints"]
