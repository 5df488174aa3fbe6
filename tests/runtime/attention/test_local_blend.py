"""The mask of a local edit against torch's pooling and interpolation, and the maps that upstream divides by zero."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from limner.runtime.attention.local_blend import BlendSettings, LocalBlend, nearest_rows


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).rand(*shape).astype(np.float32) ** 3


@pytest.mark.parametrize(("size", "wanted"), [(16, 64), (8, 8), (16, 24), (16, 8), (5, 12)])
def test_nearest_is_that_of_torch(size: int, wanted: int) -> None:
    given = torch.arange(size, dtype=torch.float32)[None, None]
    np.testing.assert_array_equal(nearest_rows(size, wanted), F.interpolate(given, size=wanted)[0, 0].numpy())


def test_mask_is_that_of_torch() -> None:
    """Three steps of maps; the mask of the sum, pooled, with the subtracted words not pooled."""
    maps = [draw(2, 2, 8, 8, seed=seed) for seed in range(3)]
    source, edit = draw(4, 16, 16, seed=8), draw(4, 16, 16, seed=9)
    blend = LocalBlend(BlendSettings(0, 1, start=1, threshold=0.5, subtract_threshold=0.6))
    assert blend.blend(0, source, edit, maps[0]) is edit
    blend.blend(1, source, edit, maps[1])
    result = blend.blend(2, source, edit, maps[2])
    total = torch.from_numpy(maps[0] + maps[1] + maps[2])

    def mask(one: torch.Tensor, threshold: float) -> torch.Tensor:
        scaled = F.interpolate(one[:, None], size=(16, 16))[:, 0]
        return (scaled / scaled.amax((1, 2), keepdim=True) > threshold).any(0)

    wanted = mask(F.max_pool2d(total[:, :1], 3, 1, 1)[:, 0], 0.5) & ~mask(total[:, 1], 0.6)
    assert blend.mask is not None and 0 < wanted.float().mean() < 1
    np.testing.assert_array_equal(blend.mask, wanted.numpy())
    np.testing.assert_allclose(result, np.where(wanted.numpy(), edit, source), atol=1e-6)


def test_side_without_words_masks_nothing() -> None:
    maps = draw(2, 1, 8, 8)
    source, edit = draw(4, 8, 8, seed=1), draw(4, 8, 8, seed=2)
    alone = LocalBlend(BlendSettings(0))
    maps[0] = 0
    alone.blend(0, source, edit, maps)
    assert alone.mask is not None and 0 < alone.mask.mean() < 1
    empty = LocalBlend(BlendSettings(0))
    np.testing.assert_array_equal(empty.blend(0, source, edit, np.zeros_like(maps)), source)


def test_negative_map_masks_nothing() -> None:
    """A word of weight -2: dividing by a negative maximum would mark everything."""
    blend = LocalBlend(BlendSettings(0))
    source, edit = draw(4, 8, 8, seed=1), draw(4, 8, 8, seed=2)
    np.testing.assert_array_equal(blend.blend(0, source, edit, -draw(2, 1, 8, 8) - np.float32(0.1)), source)
