"""Fixed resize matrices against torch's own resizes, and against a float64 reference written here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from limner.runtime.errors import InputError
from limner.training.models import resample

EXACT = 1e-12  # float64 against float64: rounding alone


def apply(matrix: np.ndarray, image: torch.Tensor) -> torch.Tensor:
    m = torch.from_numpy(matrix).to(image.dtype)
    return resample.resize(image, m, m)


def picture(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)


@pytest.mark.parametrize("size", [128, 1024])
def test_published_is_nearest_times_seven_then_average(size: int) -> None:
    image = picture(size)[:1, :1] if size > 512 else picture(size)
    large = F.interpolate(image, scale_factor=7, mode="nearest")
    expected = F.avg_pool2d(large, size // 32)
    found = apply(resample.published_clip(size, 224), image)
    assert found.shape[-1] == 224
    assert (found - expected).abs().max() < EXACT


def test_published_at_its_own_size_changes_nothing() -> None:
    np.testing.assert_allclose(resample.published_clip(128, 128), np.eye(128), atol=EXACT)


def test_published_refuses_fractions() -> None:
    with pytest.raises(InputError, match="preprocess"):
        resample.published_clip(100, 224)


@pytest.mark.parametrize(("size_in", "size_out"), [(128, 224), (256, 224), (1024, 224), (64, 128), (100, 37)])
def test_bicubic_is_torchs_antialiased(size_in: int, size_out: int) -> None:
    image = picture(size_in)[:1, :1]
    expected = F.interpolate(image, (size_out, size_out), mode="bicubic", antialias=True)
    # torch's float64 kernel computes its weights in float64 as well
    assert (apply(resample.bicubic(size_in, size_out), image) - expected).abs().max() < 1e-6


@pytest.mark.parametrize(("size_in", "size_out"), [(256, 112), (188, 112), (128, 256), (5, 3)])
def test_average_is_adaptive_average_pooling(size_in: int, size_out: int) -> None:
    image = picture(size_in)
    expected = F.adaptive_avg_pool2d(image, size_out)
    assert (apply(resample.average(size_in, size_out), image) - expected).abs().max() < EXACT


def test_average_against_a_reference_loop() -> None:
    matrix = resample.average(7, 3)
    for i, (start, stop) in enumerate([(0, 3), (2, 5), (4, 7)]):
        row = np.zeros(7)
        row[start:stop] = 1 / (stop - start)
        np.testing.assert_array_equal(matrix[i], row)


def test_identity_crop_is_the_published_chain() -> None:
    image = picture(512)[:1]
    pooled = F.adaptive_avg_pool2d(image, (256, 256))[:, :, 35:223, 32:220]
    expected = F.adaptive_avg_pool2d(pooled, (112, 112))
    rows, columns = (torch.from_numpy(m) for m in resample.identity_crop(512))
    assert (resample.resize(image, rows, columns) - expected).abs().max() < EXACT


def test_bilinear_corners_is_torchs_align_corners() -> None:
    image = picture(8)
    expected = F.interpolate(image, (16, 16), mode="bilinear", align_corners=True)
    assert (apply(resample.bilinear_corners(8, 16), image) - expected).abs().max() < EXACT


def test_resize_module_passes_equal_sizes_through() -> None:
    image = picture(16).float()
    assert resample.Resize(resample.bicubic(16, 16))(image) is image
    assert resample.Resize(resample.average(16, 8))(image).shape == (2, 3, 8, 8)
