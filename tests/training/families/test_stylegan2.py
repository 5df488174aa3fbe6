"""StyleGAN2 against the published formulas in float64, written out here without calling its layers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from support.random_generator import CONFIG, random_generator
from torch import Tensor

from limner.training.families.stylegan2.adversarial import (
    StyleGAN2Module,
    StyleGAN2TrainConfig,
    path_lengths,
    r1_penalty,
)
from limner.training.models.discriminator import Discriminator, minibatch_stddev
from limner.training.models.stylegan2 import Generator, StyleGAN2Config, upsample_rgb

FLOAT32 = 2e-5  # relative: about thirty float32 layers against float64


def upfirdn(x: Tensor, kernel: Tensor, up: int, pad: tuple[int, int]) -> Tensor:
    """Zero insertion, padding and correlation with the flipped kernel, one map at a time."""
    n, c, h, w = x.shape
    y = torch.zeros(n, c, h * up, w * up, dtype=x.dtype)
    y[:, :, ::up, ::up] = x
    y = F.pad(y, (pad[0], pad[1], pad[0], pad[1]))
    k = kernel.flip(0, 1)[None, None]
    return torch.cat([F.conv2d(y[:, i : i + 1], k) for i in range(c)], 1)


def fused_conv(x: Tensor, s: Tensor, weight: Tensor, demodulate: bool, up: bool) -> Tensor:
    """The published per-sample form: modulate weights, demodulate weights, one convolution a sample."""
    _, _, i, k, _ = weight.shape
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype)
    kernel = torch.outer(taps, taps) / 64
    outputs = []
    for sample, style in zip(x, s, strict=True):
        w = weight[0] / math.sqrt(i * k * k) * style[None, :, None, None]
        if demodulate:
            w = w * torch.rsqrt(w.square().sum((1, 2, 3), keepdim=True) + 1e-8)
        if up:
            y = F.conv_transpose2d(sample[None], w.transpose(0, 1), stride=2)
            y = upfirdn(y, kernel * 4, 1, (1, 1))
        else:
            y = F.conv2d(sample[None], w, padding=k // 2)
        outputs.append(y)
    return torch.cat(outputs)


def reference(generator: Generator, z: Tensor) -> tuple[Tensor, Tensor]:
    """z -> (w, image) in float64 from the state dict alone."""
    p = {k: v.double() for k, v in generator.state_dict().items()}
    w = z.double() / torch.sqrt(z.double().square().mean(1, keepdim=True) + 1e-8)
    for k in range(1, CONFIG.n_mlp + 1):
        weight, bias = p[f"style.{k}.weight"], p[f"style.{k}.bias"]
        y = w @ (weight * 0.01 / math.sqrt(weight.shape[1])).T + bias * 0.01
        w = torch.where(y > 0, y, 0.2 * y) * math.sqrt(2)

    def style(name: str) -> Tensor:
        weight = p[f"{name}.conv.modulation.weight"]
        return w @ (weight / math.sqrt(weight.shape[1])).T + p[f"{name}.conv.modulation.bias"]

    def styled(x: Tensor, name: str, noise: int, up: bool) -> Tensor:
        y = fused_conv(x, style(name), p[f"{name}.conv.weight"], True, up)
        y = y + p[f"{name}.noise.weight"] * p[f"noises.noise_{noise}"] + p[f"{name}.activate.bias"][None, :, None, None]
        return torch.where(y > 0, y, 0.2 * y) * math.sqrt(2)

    def rgb(x: Tensor, name: str) -> Tensor:
        return fused_conv(x, style(name), p[f"{name}.conv.weight"], False, False) + p[f"{name}.bias"]

    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
    x = styled(p["input.input"].expand(len(z), -1, -1, -1), "conv1", 0, False)
    skip = rgb(x, "to_rgb1")
    for k in range(3):
        x = styled(x, f"convs.{2 * k}", 2 * k + 1, True)
        x = styled(x, f"convs.{2 * k + 1}", 2 * k + 2, False)
        skip = rgb(x, f"to_rgbs.{k}") + upfirdn(skip, torch.outer(taps, taps) / 64 * 4, 2, (2, 1))
    return w, skip


def relative(a: Tensor, b: Tensor) -> float:
    return float(((a.double() - b.double()).norm() / b.double().norm()).detach())


def test_generator_against_float64_formulas() -> None:
    generator = random_generator()
    z = torch.randn(3, 16)
    w, image = reference(generator, z)
    assert relative(generator.mapping(z), w) < FLOAT32
    assert relative(generator(z), image) < FLOAT32


def test_upsample_rgb_against_zero_insertion() -> None:
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
    assert relative(upsample_rgb(x), upfirdn(x, torch.outer(taps, taps) / 16, 2, (2, 1))) < 1e-14


def test_layout_at_1024_is_the_published_one() -> None:
    with torch.device("meta"):
        generator = Generator(StyleGAN2Config(size=1024))
    assert [s.w_index for s in generator.layers][:12] == [0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7]
    conv = sum(s.channels for s in generator.layers if s.kind == "conv")
    assert (len(generator.layers), generator.num_style_channels, conv, generator.num_ws) == (
        26,
        9088,
        6048,
        18,
    )
    assert generator.state_dict()["convs.15.conv.weight"].shape == (1, 32, 32, 3, 3)


def test_state_advances_in_parts() -> None:
    generator = random_generator()
    styles = generator.affine(generator.broadcast(generator.mapping(torch.randn(2, 16))))
    whole = generator.synthesis_from_styles(styles)
    for cut in range(len(generator.layers)):
        part = generator.advance(generator.start(2), styles, cut)
        made = generator.advance(part, styles).skip
        assert made is not None and torch.equal(made, whole)


def test_truncation() -> None:
    generator = random_generator()
    generator.latent_avg.normal_()
    w = torch.randn(2, 16)
    assert torch.allclose(generator.truncate(w, 1.0), w, atol=1e-6)
    assert torch.equal(generator.truncate(w, 0.0), generator.latent_avg.expand(2, -1))


def test_minibatch_stddev_of_equal_samples_is_zero() -> None:
    x = torch.randn(1, 3, 4, 4).expand(4, -1, -1, -1)
    assert torch.allclose(minibatch_stddev(x)[:, 3], torch.full((4, 4, 4), 1e-4), atol=1e-6)


def test_r1_against_finite_differences() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(StyleGAN2Config(size=8, channels={4: 4, 8: 4})).double()
    discriminator.compute_dtype = torch.float64
    image = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    step = 1e-5
    # The minibatch map couples samples, so compare on one sample, where the sum is its own gradient.
    single = image[:1]
    expected = sum(
        float((discriminator(single + m) - discriminator(single - m)).sum().detach() / (2 * step)) ** 2
        for m in step * torch.eye(192, dtype=torch.float64).view(192, 1, 3, 8, 8)
    )
    assert float(r1_penalty(discriminator, single).detach()) == pytest.approx(expected, rel=1e-3)


def test_path_lengths_grow_with_the_generator() -> None:
    generator = random_generator()
    w_plus = torch.randn(2, generator.num_ws, 16)
    torch.manual_seed(5)
    one = path_lengths(generator, w_plus)
    for module in (generator.to_rgb1, *generator.to_rgbs):
        module.conv.weight.data.mul_(3)
    torch.manual_seed(5)
    assert torch.allclose(path_lengths(generator, w_plus), 3 * one, rtol=1e-4)


def test_adversarial_stage_trains_both_networks() -> None:
    torch.manual_seed(0)
    config = StyleGAN2Config(size=8, z_dim=8, w_dim=8, n_mlp=2, channels={4: 8, 8: 8})
    module = StyleGAN2Module(Generator(config), Discriminator(config), StyleGAN2TrainConfig())
    before = {k: v.clone() for k, v in module.state_dict().items()}
    batch = {"image": torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)}
    batches: Any = [batch, batch]
    data: Any = torch.utils.data.DataLoader(batches, batch_size=None)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=4, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data)
    after = module.state_dict()
    for name in ("generator.convs.1.conv.weight", "generator.style.1.weight", "discriminator.convs.1.conv1.0.weight"):
        assert not torch.equal(before[name], after[name])
    assert all(torch.isfinite(value).all() for value in after.values())
    assert float(module.mean_path_length) > 0
