"""The numpy Adam walks the path of torch.optim.Adam."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from limner.runtime.errors import InputError
from limner.runtime.stylegan2.adam import Adam, AdamConfig

torch.set_num_threads(1)


def fixed_rate(step: int) -> float:
    return 0.1


def ramped_rate(step: int) -> float:
    return 0.1 * (0.5 - 0.5 * math.cos(math.pi * step / 60))


@pytest.mark.parametrize("rate_of", [fixed_rate, ramped_rate])
@pytest.mark.parametrize("config", [AdamConfig(), AdamConfig(0.02, 0.5, 0.9, 1e-4)])
def test_against_torch(config: AdamConfig, rate_of: Callable[[int], float]) -> None:
    """60 steps of a curved loss whose scales differ by 1e6, at a fixed rate and at a rate per step."""
    random = np.random.default_rng(0)
    start = random.standard_normal((2, 5, 7)).astype(np.float32)
    target = random.standard_normal(start.shape).astype(np.float32)
    scale = np.logspace(-3, 3, 7, dtype=np.float32)

    def gradient_of(values: np.ndarray) -> np.ndarray:
        return scale * (np.sin(values - target) + 0.1 * (values - target))

    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    betas = (config.beta1, config.beta2)
    reference = torch.optim.Adam([parameter], config.learning_rate, betas, config.epsilon)
    adam, values = Adam(config), start
    for step in range(60):
        rate = rate_of(step)
        gradient = gradient_of(values)  # the same for both: errors of the optimiser do not feed on themselves
        reference.param_groups[0]["lr"] = rate
        parameter.grad = torch.from_numpy(gradient.copy())
        reference.step()
        values = adam.step(values, gradient, rate)
        np.testing.assert_allclose(values, parameter.detach().numpy(), rtol=1e-6, atol=1e-6)
    assert adam.steps == 60
    assert values.dtype == np.float32
    assert not np.allclose(values, start)


def test_free_running_against_torch() -> None:
    """Each optimiser follows its own gradients for 100 steps of a quadratic."""
    start = np.random.default_rng(1).standard_normal((1, 4, 8)).astype(np.float32)
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    reference = torch.optim.Adam([parameter], 0.1)
    adam, values = Adam(), start
    for _ in range(100):
        reference.zero_grad()
        (parameter**2).sum().backward()
        reference.step()
        values = adam.step(values, 2 * values)
    np.testing.assert_allclose(values, parameter.detach().numpy(), rtol=0, atol=1e-6)


def test_default_rate_comes_from_the_config() -> None:
    values, gradient = np.zeros((1, 1, 2), np.float32), np.array([[[1, -1]]], np.float32)
    np.testing.assert_allclose(Adam(AdamConfig(0.5)).step(values, gradient), [[[-0.5, 0.5]]], rtol=1e-6)


def test_rows_are_independent_and_inputs_stay() -> None:
    random = np.random.default_rng(2)
    values, gradient = (random.standard_normal((3, 2, 4)).astype(np.float32) for _ in range(2))
    kept = values.copy()
    together = Adam().step(values, gradient)
    alone = np.concatenate([Adam().step(values[i : i + 1], gradient[i : i + 1]) for i in range(3)])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(values, kept)


def test_shapes_must_agree() -> None:
    adam, values = Adam(), np.zeros((2, 3), np.float32)
    with pytest.raises(InputError, match="gradient"):
        adam.step(values, np.zeros((2, 1), np.float32))
    adam.step(values, values)
    with pytest.raises(InputError, match="every step"):
        adam.step(values[:1], values[:1])
