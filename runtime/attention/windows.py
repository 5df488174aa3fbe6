"""When attention is replaced: per word and per step, as parts of all steps.

A window is (first, last), 0 <= first <= last <= 1, or one number, which means (0, number). Published timing
(ptp_utils.py and the notebooks of google/prompt-to-prompt), steps counted from 0:

    cross attention   int(first (steps + 1)) <= step < int(last (steps + 1))
    self attention    int(first steps)       <= step < int(last steps)
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from limner.runtime.attention.words import Prompt, word_tokens
from limner.runtime.methods.prompt_to_prompt import Window

__all__ = ["cross_schedule", "self_steps"]

FloatArray = NDArray[np.float32]


def cross_schedule(
    target: Prompt,
    steps: int,
    window: Window,  # of every word without one of its own
    word_windows: Mapping[str, Window],  # those whose word is not in this prompt are left out
    tokens: int = 77,
) -> FloatArray:
    """Return alpha [steps + 1, 77]: 1 where, at that step, the token takes the source's attention.

    There is a row more than steps, since schedulers like PNDM call the UNet once more.
    """
    alpha = np.zeros((steps + 1, tokens), dtype=np.float32)
    _open(alpha, window, list(range(tokens)))
    for phrase, own in word_windows.items():
        _open(alpha, own, list(word_tokens(target, phrase) or ()))
    return alpha


def self_steps(steps: int, window: Window) -> tuple[int, int]:
    """Return the first step at which self attention is replaced, and the first at which it no longer is."""
    return int(window[0] * steps), int(window[1] * steps)


def _open(alpha: FloatArray, window: Window, tokens: list[int]) -> None:
    rows = len(alpha)
    alpha[:, tokens] = 0
    alpha[int(window[0] * rows) : int(window[1] * rows), tokens] = 1
