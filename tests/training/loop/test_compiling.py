"""Compiled networks learn what they would learn uncompiled: gradients on the CPU, against eager ones."""

from __future__ import annotations

import copy

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.training.loop.compiling import compile_parts, doubled, leave_compiled
from limner.training.models.diffusion import AutoencoderConfig, DenoiserConfig, build_autoencoder, build_denoiser

SCALE = 1e-6  # gradients smaller than this are rounding: those of a bias before a softmax


class Compiled(pl.LightningModule):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def compiled_parts(self) -> list[nn.Module]:
        return list(self.parts)


def gradients(network: nn.Module, made: Tensor) -> dict[str, Tensor]:
    target = torch.randn(made.shape, generator=torch.Generator().manual_seed(3))
    (made - target).square().mean().backward()
    found = {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.grad is not None}
    network.zero_grad()
    return found


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys() and found
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-3 * gradient.norm() + SCALE, name


@pytest.fixture(autouse=True)
def forgotten() -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()


def test_rows_and_columns_are_doubled_as_nearest_interpolation_does() -> None:
    image = torch.randn(2, 3, 5, 4)
    assert torch.equal(doubled(image), F.interpolate(image, scale_factor=2.0, mode="nearest"))


@pytest.mark.slow
def test_a_compiled_autoencoder_gets_the_gradients_of_an_eager_one() -> None:
    network = build_autoencoder(AutoencoderConfig(32, (8, 8, 16), latent_channels=4)).train()
    image = torch.rand(2, 3, 32, 32) * 2 - 1

    def step() -> dict[str, Tensor]:
        return gradients(network, network.decode(network.encode(image).latent_dist.mean).sample)

    expected, module = step(), Compiled(network.encoder, network.decoder)
    compile_parts(module)
    same(step(), expected)
    leave_compiled(module)
    same(step(), expected)
    assert all(weight.is_contiguous() for weight in network.parameters())


@pytest.mark.slow
def test_a_compiled_denoiser_gets_the_gradients_of_an_eager_one() -> None:
    network = build_denoiser(DenoiserConfig((16, 16), head_width=16, groups=8), 8, 4, 12).train()
    latents, states, steps = torch.randn(2, 4, 8, 8), torch.randn(2, 7, 12), torch.tensor([3, 700])

    def step() -> dict[str, Tensor]:
        return gradients(network, network(latents, steps, states).sample)

    expected = step()
    compile_parts(Compiled(network))
    same(step(), expected)


def test_what_was_compiled_is_left_as_it_was() -> None:
    network = build_autoencoder(AutoencoderConfig(32, (8, 8), latent_channels=4)).eval()
    image, module = torch.rand(1, 3, 32, 32), Compiled(network.decoder)
    before, twin = network(image).sample, copy.deepcopy(network.state_dict())
    compile_parts(module)
    leave_compiled(module)
    assert torch.equal(network(image).sample, before)
    assert all(torch.equal(weight, twin[name]) for name, weight in network.state_dict().items())
    assert all(upsampling.interpolate for block in network.decoder.up_blocks for upsampling in block.upsamplers or ())
