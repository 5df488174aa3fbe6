"""StyleGAN2 discriminator: residual blocks with FIR downsampling, minibatch standard deviation.

Karras et al. 2020, with rosinality's parameter names (``convs.i.conv1.0.weight``, ``final_conv.0.weight``...).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limner.training.models.stylegan2 import SQRT2, EqualLinear, FusedLeakyReLU, StyleGAN2Config, blur


class EqualConv2d(nn.Module):
    """Convolution with equalised learning rate."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in, kernel, kernel))
        self.stride, self.padding, self.scale = stride, padding, 1 / math.sqrt(n_in * kernel**2)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, (self.weight * self.scale).to(x.dtype), stride=self.stride, padding=self.padding)


class Blur(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.pad = (before, after)

    def forward(self, x: Tensor) -> Tensor:
        return blur(x, self.pad)


def conv_layer(n_in: int, n_out: int, kernel: int, downsample: bool = False, activate: bool = True) -> nn.Sequential:
    """[FIR] -> convolution -> [bias and leaky ReLU]."""
    layers: list[nn.Module] = []
    if downsample:
        p = 2 + kernel - 1
        layers.append(Blur((p + 1) // 2, p // 2))
    layers.append(EqualConv2d(n_in, n_out, kernel, stride=2 if downsample else 1,
                              padding=0 if downsample else kernel // 2))  # fmt: skip
    if activate:
        layers.append(FusedLeakyReLU(n_out))
    return nn.Sequential(*layers)


class ResBlock(nn.Module):
    """(conv, conv down) + skip, divided by sqrt(2)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv1 = conv_layer(n_in, n_in, 3)
        self.conv2 = conv_layer(n_in, n_out, 3, downsample=True)
        self.skip = conv_layer(n_in, n_out, 1, downsample=True, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.conv1(x)) + self.skip(x)
        return y / SQRT2


def minibatch_stddev(x: Tensor, group: int = 4) -> Tensor:
    """Append one map: the mean standard deviation over groups of the batch. [N,C,H,W] -> [N,C+1,H,W]."""
    n, c, h, w = x.shape
    group = min(n, group) if n % min(n, group) == 0 else 1
    y = x.view(group, n // group, c, h, w)
    y = torch.sqrt(y.var(0, unbiased=False) + 1e-8).mean((1, 2, 3), keepdim=True)  # [N/g,1,1,1]
    return torch.cat([x, y.repeat(group, 1, h, w).to(x.dtype)], 1)


class Discriminator(nn.Module):
    """image [N, 3, size, size] in [-1, 1] -> logits [N]."""

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        resolutions = config.resolutions[::-1]
        top = config.channels_at(resolutions[0])
        blocks: list[nn.Module] = [conv_layer(3, top, 1)]
        for a, b in pairwise(resolutions):
            blocks.append(ResBlock(config.channels_at(a), config.channels_at(b)))
        last = config.channels_at(4)
        self.convs = nn.Sequential(*blocks)
        self.final_conv = conv_layer(last + 1, last, 3)
        self.final_linear = nn.Sequential(EqualLinear(last * 16, last, activation="fused_lrelu"), EqualLinear(last, 1))
        self.compute_dtype = torch.float32

    def forward(self, image: Tensor) -> Tensor:
        x = self.convs(image.to(self.compute_dtype))
        x = self.final_conv(minibatch_stddev(x.to(self.final_linear[0].weight.dtype)))
        logits: Tensor = self.final_linear(x.flatten(1))
        return logits[:, 0]
