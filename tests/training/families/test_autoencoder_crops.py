"""Crops of the autoencoder's first steps: where they lie, how long they last, what they leave out."""

from __future__ import annotations

import pytest
import torch
from support.small_autoencoder import module

from limner.training.families.autoencoder.module import AutoencoderTraining, random_crops


def places(count: int, height: int, width: int) -> torch.Tensor:
    """Pictures [N,3,H,W] that say of each pixel which picture, row and column it is."""
    row, y, x = torch.meshgrid(torch.arange(count), torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([row, y, x], 1).float()


def test_a_crop_is_one_square_of_its_own_picture() -> None:
    crops = random_crops(places(40, 12, 9), 7, torch.Generator().manual_seed(0))
    assert crops.shape == (40, 3, 7, 7)
    for number, (row, y, x) in enumerate(crops):
        assert (row == number).all()
        assert torch.equal(y, y[0, 0] + torch.arange(7.0)[:, None].expand(7, 7))
        assert torch.equal(x, x[0, 0] + torch.arange(7.0).expand(7, 7))
    tops, lefts = crops[:, 1, 0, 0], crops[:, 2, 0, 0]
    assert set(tops.tolist()) == set(range(6)) and set(lefts.tolist()) == set(range(3))  # the last places too


def test_crops_are_those_of_their_seed() -> None:
    image = places(8, 12, 12)
    one, same, other = (random_crops(image, 4, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(random_crops(image, 12, torch.Generator()), image)


@pytest.mark.parametrize(("step", "side"), [(0, 32), (6, 32), (7, 64), (9, 64)])
def test_the_first_share_of_the_steps_sees_crops(step: int, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten steps, seven of them on crops."""
    made = module(crop=32, crop_until=0.7, adversarial=0.0, perceptual=0.0).train()
    monkeypatch.setattr(type(made), "global_step", step)
    seen: list[tuple[int, ...]] = []
    encode = made.network.encode
    made.network.encode = lambda image: seen.append(tuple(image.shape)) or encode(image)  # type: ignore[func-returns-value]
    total = made.training_step({"image": torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)}, step)
    assert torch.isfinite(total)
    assert seen == [(2, 3, side, side)]
    assert made.is_cropped is (side == 32)


def test_perceptual_distance_comes_back_after_the_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    made = module(crop=32, crop_until=0.5, adversarial=0.0, perceptual=1.0).train()
    a, b = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1
    for step, names in ((4, {"pixel"}), (5, {"pixel", "perceptual"})):
        monkeypatch.setattr(type(made), "global_step", step)
        assert set(made.reconstruction(a, b)) == names
    monkeypatch.setattr(type(made), "global_step", 0)
    assert set(made.eval().reconstruction(a, b)) == {"pixel", "perceptual"}  # validation sees whole pictures


def test_bad_crops_are_refused() -> None:
    for wrong in ({"crop": 33}, {"crop": -32}, {"crop_until": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            AutoencoderTraining(**wrong)
    with pytest.raises(ValueError, match="adversarial_from"):
        AutoencoderTraining(crop=32, crop_until=0.9, adversarial=0.1, adversarial_from=0.5)
