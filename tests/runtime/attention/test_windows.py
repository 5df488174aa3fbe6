"""Windows: the published timing, and what is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from limner.runtime.attention.windows import cross_schedule, self_steps
from limner.runtime.attention.words import Prompt
from limner.runtime.errors import InputError
from limner.runtime.methods.prompt_to_prompt import read_window


@pytest.mark.parametrize(
    ("given", "window"), [(0.8, (0.0, 0.8)), ((0.2, 0.8), (0.2, 0.8)), ([1], (0.0, 1.0)), (0, (0.0, 0.0))]
)
def test_windows_are_read(given: Any, window: tuple[float, float]) -> None:
    assert read_window("w", given) == window


@pytest.mark.parametrize(
    "given", [1.1, -0.1, (0.5, 0.4), (0.0, 2.0), (0.1, 0.2, 0.3), (), "0.5", True, None, float("nan")]
)
def test_windows_outside_0_to_1_are_refused(given: Any) -> None:
    with pytest.raises(InputError) as caught:
        read_window("parameters.cross_replace", given)
    assert caught.value.field == "parameters.cross_replace"


@pytest.mark.parametrize("steps", [1, 7, 50])
def test_published_timing(prompt: Callable[[str], Prompt], steps: int) -> None:
    """int(f (steps + 1)) for cross attention, int(f steps) for self attention."""
    target = prompt("a person with a beard")
    alpha = cross_schedule(target, steps, (0.1, 0.8), {"beard": (0.0, 0.4), "absent": (0.0, 1.0)})
    assert alpha.shape == (steps + 1, 77)
    for step in range(steps + 1):
        assert alpha[step, 1] == (int(0.1 * (steps + 1)) <= step < int(0.8 * (steps + 1)))
        assert alpha[step, 5] == (step < int(0.4 * (steps + 1)))
    assert np.array_equal(alpha[:, 1], alpha[:, 76])
    assert self_steps(steps, (0.1, 0.4)) == (int(0.1 * steps), int(0.4 * steps))
