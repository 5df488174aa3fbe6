"""Muon against its formulas in float64 numpy, and its vectors against torch's AdamW."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limner.training.loop.muon import Muon, orthogonal


def reference(matrix: np.ndarray) -> np.ndarray:
    """The quintic applied to each singular value, five times, after division by the norm."""
    left, values, right = np.linalg.svd(matrix / np.linalg.norm(matrix), full_matrices=False)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return np.asarray((left * values) @ right)


@pytest.mark.parametrize("shape", [(6, 6), (4, 27), (30, 5)])
def test_orthogonal_maps_the_singular_values_alone(shape: tuple[int, int]) -> None:
    matrices = np.random.default_rng(0).normal(size=(3, *shape))
    made = orthogonal(torch.from_numpy(matrices))
    for row, matrix in zip(made.numpy(), matrices, strict=True):
        np.testing.assert_allclose(row, reference(matrix), atol=1e-6)  # the norm there has 1e-7 added
        values = np.linalg.svd(row, compute_uv=False)
        assert values.max() < 1.25
        assert np.median(values) > 0.65


def test_kernels_step_along_the_orthogonalised_momentum() -> None:
    rng = np.random.default_rng(1)
    start, gradients = rng.normal(size=(4, 3, 3, 3)), rng.normal(size=(3, 4, 3, 3, 3))
    kernel = torch.nn.Parameter(torch.from_numpy(start))
    optimizer = Muon([{"params": [kernel], "matrices": True, "weight_decay": 0.1}], lr=0.02)
    expected, momentum = start.copy(), np.zeros_like(start)
    for gradient in gradients:
        kernel.grad = torch.from_numpy(gradient)
        optimizer.step()
        momentum = 0.95 * momentum + gradient
        update = reference((gradient + 0.95 * momentum).reshape(4, 27)).reshape(start.shape)
        expected = expected * (1 - 0.02 * 0.1) - 0.02 * 0.2 * 27**0.5 * update
    np.testing.assert_allclose(kernel.detach().numpy(), expected, atol=1e-6)


def test_stylegan2_kernels_with_an_axis_of_one_step_as_without_it() -> None:
    rng = np.random.default_rng(2)
    start, gradient = torch.from_numpy(rng.normal(size=(4, 3, 3, 3))), torch.from_numpy(rng.normal(size=(4, 3, 3, 3)))
    plain, with_axis = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start[None].clone())
    plain.grad, with_axis.grad = gradient, gradient[None]
    Muon([{"params": [plain, with_axis], "matrices": True}], lr=0.02).step()
    torch.testing.assert_close(with_axis[0], plain, atol=0, rtol=0)


def test_bfloat16_steps_are_near_those_of_float32() -> None:
    matrices = torch.randn(2, 32, 48, generator=torch.Generator().manual_seed(0))
    exact, fast = orthogonal(matrices), orthogonal(matrices, torch.bfloat16)
    assert fast.dtype == torch.float32
    assert float((fast - exact).norm() / exact.norm()) < 0.05  # fifteen products, each rounded to 8 bits


def test_the_other_parameters_step_as_adamw_does() -> None:
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
    mine = Muon([{"params": [ours], "weight_decay": 0.1}], lr=0.01, betas=(0.9, 0.99))
    torchs = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    for step in range(5):
        ours.grad = torch.sin(torch.arange(7.0) + step)
        theirs.grad = ours.grad.clone()
        mine.step()
        torchs.step()
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="momentum 1"):
        Muon([{"params": [torch.nn.Parameter(torch.zeros(2, 2))]}], momentum=1.0)
