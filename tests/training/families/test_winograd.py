"""Minimal filtering against torch's convolutions in float64, and its counts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from limner.training.families.relevance import winograd


@pytest.mark.parametrize(("size", "n_in", "n_out"), [(4, 3, 5), (8, 1, 1), (16, 6, 4)])
def test_same_against_float64(size: int, n_in: int, n_out: int) -> None:
    torch.manual_seed(size)
    x, weight = torch.randn(2, n_in, size, size), torch.randn(n_out, n_in, 3, 3)
    found = winograd.same_convolution(x, winograd.same().kernels(weight))
    expected = F.conv2d(x.double(), weight.double(), padding=1)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize(("size", "n_in", "n_out"), [(4, 3, 5), (8, 1, 1), (16, 6, 4)])
def test_doubling_against_float64(size: int, n_in: int, n_out: int) -> None:
    torch.manual_seed(size)
    x, weight = torch.randn(2, n_in, size, size), torch.randn(n_out, n_in, 3, 3)
    found = winograd.doubling_convolution(x, winograd.doubling().kernels(weight), weight)
    expected = F.conv_transpose2d(x.double(), weight.double().transpose(0, 1), stride=2)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()


def test_matrices_are_the_published_ones() -> None:
    """Lavin and Gray 2016, F(4,3): the transforms up to the signs that cancel between B^T and G."""
    published = {(4, 0, 5, 0, 1, 0), (0, 4, 4, 1, 1, 0), (0, 2, 1, 2, 1, 0), (0, 4, 0, 5, 0, 1)}
    algorithm = winograd.same()
    assert {tuple(int(abs(v)) for v in row) for row in algorithm.inputs} == published
    assert [sum(map(abs, row)) for row in algorithm.outputs] == [5, 6, 10, 19]


def test_counts() -> None:
    """36 products of a tile of 16 outputs, 81 of a tile of 16 inputs; transforms do not grow with both widths."""
    assert winograd.same().products ** 2 == 36
    assert winograd.doubling().products ** 2 == 81
    wide, narrow = (winograd.multiply_adds(n, n, 64, False) / (9 * n * n * 64**2) for n in (256, 16))
    assert 0.25 < wide < 0.27 < narrow < 1
