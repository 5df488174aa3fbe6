"""StyleGAN2 in plain torch: generator and discriminator, with rosinality's parameter names and maths.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020). No custom operators. The
modulated convolution is written scale-in, convolve, scale-out, which equals the published fused form
(w'_oi = s_i w_oi / sqrt(sum (s_i w_oi)^2 + eps)) and needs no per-sample weights.

Spaces: z [N, z_dim] -> w [N, w_dim] -> w_plus [N, num_ws, w_dim] -> style_channels [N, S] -> image
[N, 3, size, size] in about [-1, 1]. `Generator.layers` says which columns of S belong to which layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limner.training.config import from_mapping

BLUR = (1.0, 3.0, 3.0, 1.0)  # FIR taps before normalisation
SQRT2 = math.sqrt(2.0)


@dataclass(frozen=True)
class StyleGAN2Config:
    """Sizes of one generator and its discriminator."""

    size: int = 128  # pixels a side, a power of two
    z_dim: int = 512  # input latent
    w_dim: int = 512  # intermediate latent
    n_mlp: int = 8  # mapping layers
    lr_mlp: float = 0.01  # learning-rate multiplier of the mapping network
    channels: dict[int, int] = field(default_factory=dict)  # resolution -> channels; empty: published table
    channel_multiplier: int = 2  # of the published table, above 32 px

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", {int(k): int(v) for k, v in self.channels.items()})  # JSON keys are text

    def channels_at(self, resolution: int) -> int:
        """Feature maps at a resolution."""
        if self.channels:
            return self.channels[resolution]
        return {4: 512, 8: 512, 16: 512, 32: 512}.get(resolution, 16384 * self.channel_multiplier // resolution)

    @property
    def resolutions(self) -> tuple[int, ...]:
        return tuple(2**k for k in range(2, int(math.log2(self.size)) + 1))

    @property
    def num_ws(self) -> int:
        return 2 * int(math.log2(self.size)) - 2


@dataclass(frozen=True)
class LayerSpec:
    """One style input of the synthesis network."""

    name: str  # module name, e.g. "convs.3"
    resolution: int  # of its output
    channels: int  # style channels = input feature maps
    kind: str  # "conv" or "to_rgb"
    w_index: int  # row of w_plus it reads


class PixelNorm(nn.Module):
    """x / sqrt(mean(x^2) + 1e-8) over the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-8)


class EqualLinear(nn.Module):
    """Linear layer with equalised learning rate; "fused_lrelu" is leaky ReLU 0.2 with gain sqrt(2)."""

    def __init__(self, n_in: int, n_out: int, bias_init: float = 0.0, lr_mul: float = 1.0,
                 activation: str | None = None) -> None:  # fmt: skip
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) / lr_mul)
        self.bias = nn.Parameter(torch.full((n_out,), float(bias_init)))
        self.activation, self.lr_mul, self.scale = activation, lr_mul, lr_mul / math.sqrt(n_in)

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight * self.scale, self.bias * self.lr_mul)
        return F.leaky_relu(y, 0.2) * SQRT2 if self.activation else y


def fir_kernel(gain: float = 1.0) -> Tensor:
    """The separable [1,3,3,1] kernel as [4, 4], sum = gain."""
    taps = torch.tensor(BLUR)
    kernel = torch.outer(taps, taps)
    return kernel / kernel.sum() * gain


def blur(x: Tensor, pad: tuple[int, int], gain: float = 1.0) -> Tensor:
    """Depthwise FIR filter as two separable passes; pad = (before, after) on both axes."""
    channels = x.shape[1]
    taps = torch.tensor(BLUR, dtype=x.dtype, device=x.device) * (math.sqrt(gain) / sum(BLUR))
    x = F.pad(x, (pad[0], pad[1], pad[0], pad[1]))
    x = F.conv2d(x, taps.view(1, 1, 1, 4).expand(channels, 1, 1, 4), groups=channels)
    return F.conv2d(x, taps.view(1, 1, 4, 1).expand(channels, 1, 4, 1), groups=channels)


def upsample_rgb(x: Tensor) -> Tensor:
    """x2 FIR upsampling: zero insertion, then the kernel with gain 4. In its polyphase form: each output
    sample is (3 near + 1 far) / 4 along each axis, zero beyond the border, as the padded filter gives."""
    for axis in (2, 3):
        size = x.shape[axis]
        zero = torch.zeros_like(x.narrow(axis, 0, 1))
        before = torch.cat([zero, x.narrow(axis, 0, size - 1)], axis)
        after = torch.cat([x.narrow(axis, 1, size - 1), zero], axis)
        pair = torch.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        x = pair.flatten(axis, axis + 1)
    return x


class ModulatedConv2d(nn.Module):
    """Modulated convolution (eq. 1 and 3 of the paper), optionally x2 upsampling."""

    def __init__(self, n_in: int, n_out: int, kernel: int, w_dim: int, demodulate: bool = True,
                 upsample: bool = False) -> None:  # fmt: skip
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, n_out, n_in, kernel, kernel))
        self.modulation = EqualLinear(w_dim, n_in, bias_init=1.0)
        self.demodulate, self.upsample, self.kernel = demodulate, upsample, kernel
        self.scale = 1 / math.sqrt(n_in * kernel**2)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x [N,I,H,W], style [N,I] -> [N,O,H',W']."""
        weight = self.weight[0] * self.scale  # [O,I,k,k]
        x = x * style.to(x.dtype)[:, :, None, None]
        if self.upsample:
            x = F.conv_transpose2d(x, weight.transpose(0, 1).to(x.dtype), stride=2)  # [N,O,2H+1,2W+1]
            x = blur(x, (1, 1), gain=4.0)
        else:
            x = F.conv2d(x, weight.to(x.dtype), padding=self.kernel // 2)
        if self.demodulate:
            energy = F.linear(style.square(), weight.square().sum((2, 3)))  # [N,O]
            x = x * torch.rsqrt(energy + 1e-8).to(x.dtype)[:, :, None, None]
        return x


class NoiseInjection(nn.Module):
    """Adds weight * noise; noise is [1 or N, 1, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        return x if noise is None else x + (self.weight * noise).to(x.dtype)


class FusedLeakyReLU(nn.Module):
    """(leaky ReLU 0.2 of x + bias) * sqrt(2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.bias.to(x.dtype)[None, :, None, None], 0.2) * SQRT2


class StyledConv(nn.Module):
    """Modulated convolution, noise, bias and activation."""

    def __init__(self, n_in: int, n_out: int, w_dim: int, upsample: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(n_in, n_out, 3, w_dim, upsample=upsample)
        self.noise = NoiseInjection()
        self.activate = FusedLeakyReLU(n_out)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        return self.activate(self.noise(self.conv(x, style), noise))


class ToRGB(nn.Module):
    """1x1 modulated convolution to RGB without demodulation, added to the upsampled skip."""

    def __init__(self, n_in: int, w_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(n_in, 3, 1, w_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, style: Tensor, skip: Tensor | None) -> Tensor:
        rgb = (self.conv(x, style) + self.bias.to(x.dtype)).float()
        return rgb if skip is None else rgb + upsample_rgb(skip)


class ConstantInput(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


@dataclass
class SynthesisState:
    """Where a forward pass stands after `done` layers: feature map x [N,C,H,W] and the RGB skip."""

    done: int
    x: Tensor
    skip: Tensor | None


class Generator(nn.Module):
    """Mapping and synthesis networks. `latent_avg` [w_dim] is the mean of w."""

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        self.config = config
        dim = config.w_dim
        widths = [config.z_dim] + [dim] * config.n_mlp
        self.style = nn.Sequential(
            PixelNorm(),
            *(EqualLinear(a, b, lr_mul=config.lr_mlp, activation="fused_lrelu") for a, b in pairwise(widths)),
        )
        first, *rest = config.resolutions
        self.input = ConstantInput(config.channels_at(first))
        self.conv1 = StyledConv(config.channels_at(first), config.channels_at(first), dim)
        self.to_rgb1 = ToRGB(config.channels_at(first), dim)
        self.convs, self.to_rgbs, self.noises = nn.ModuleList(), nn.ModuleList(), nn.Module()
        self.noises.register_buffer("noise_0", torch.randn(1, 1, first, first))
        n_in = config.channels_at(first)
        for k, resolution in enumerate(rest):
            n_out = config.channels_at(resolution)
            self.convs.append(StyledConv(n_in, n_out, dim, upsample=True))
            self.convs.append(StyledConv(n_out, n_out, dim))
            self.to_rgbs.append(ToRGB(n_out, dim))
            for j in (1, 2):
                self.noises.register_buffer(f"noise_{2 * k + j}", torch.randn(1, 1, resolution, resolution))
            n_in = n_out
        self.register_buffer("latent_avg", torch.zeros(dim))
        self.compute_dtype = torch.float32  # of feature maps; training may choose bfloat16
        self.layers = self._layers()

    latent_avg: Tensor

    def conv(self, spec: LayerSpec) -> ModulatedConv2d:
        """The modulated convolution of a layer."""
        module: Any = self.get_submodule(spec.name)
        found: ModulatedConv2d = module.conv
        return found

    def _layers(self) -> tuple[LayerSpec, ...]:
        first, *rest = self.config.resolutions
        n_in = self.config.channels_at(first)
        layers = [LayerSpec("conv1", first, n_in, "conv", 0), LayerSpec("to_rgb1", first, n_in, "to_rgb", 1)]
        for k, resolution in enumerate(rest):
            n_out = self.config.channels_at(resolution)
            layers.append(LayerSpec(f"convs.{2 * k}", resolution, n_in, "conv", 2 * k + 1))
            layers.append(LayerSpec(f"convs.{2 * k + 1}", resolution, n_out, "conv", 2 * k + 2))
            layers.append(LayerSpec(f"to_rgbs.{k}", resolution, n_out, "to_rgb", 2 * k + 3))
            n_in = n_out
        return tuple(layers)

    @property
    def num_ws(self) -> int:
        return self.config.num_ws

    @property
    def num_style_channels(self) -> int:
        return sum(layer.channels for layer in self.layers)

    def mapping(self, z: Tensor) -> Tensor:
        """z [N, z_dim] -> w [N, w_dim]."""
        w: Tensor = self.style(z)
        return w

    def truncate(self, w: Tensor, psi: float) -> Tensor:
        """latent_avg + psi * (w - latent_avg); psi 1 leaves w as it is."""
        return self.latent_avg + psi * (w - self.latent_avg)

    def broadcast(self, w: Tensor) -> Tensor:
        """w [N, w_dim] -> w_plus [N, num_ws, w_dim]."""
        return w[:, None].expand(-1, self.num_ws, -1)

    def affine(self, w_plus: Tensor) -> Tensor:
        """w_plus [N, num_ws, w_dim] -> style_channels [N, S]."""
        rows = w_plus.unbind(1)
        return torch.cat([self.conv(s).modulation(rows[s.w_index]) for s in self.layers], 1)

    def start(self, batch: int) -> SynthesisState:
        x = self.input.input.to(self.compute_dtype).expand(batch, -1, -1, -1)
        if self.compute_dtype != torch.float32:
            x = x.contiguous(memory_format=torch.channels_last)
        return SynthesisState(0, x, None)

    def advance(self, state: SynthesisState, style_channels: Tensor, until: int | None = None,
                noise: str = "fixed") -> SynthesisState:  # fmt: skip
        """Run layers state.done .. until-1 of `layers`. A kept state of a trunk can be advanced many times
        with other styles: that is what spares the early layers in channel relevance. noise: "fixed" uses the
        stored buffers, "random" draws anew, "none" adds none."""
        until = len(self.layers) if until is None else until
        styles = style_channels.split([s.channels for s in self.layers], 1)
        x, skip = state.x, state.skip
        noise_index = sum(s.kind == "conv" for s in self.layers[: state.done])
        for spec, style in list(zip(self.layers, styles, strict=True))[state.done : until]:
            module = self.get_submodule(spec.name)
            if spec.kind == "conv":
                x = module(x, style, self._noise(noise_index, x.shape[0], noise))
                noise_index += 1
            else:
                skip = module(x, style, skip)
        return SynthesisState(until, x, skip)

    def _noise(self, index: int, batch: int, kind: str) -> Tensor | None:
        stored = self.noises.get_buffer(f"noise_{index}")
        if kind == "random":
            return torch.randn(batch, *stored.shape[1:], device=stored.device)
        return stored if kind == "fixed" else None

    def synthesis_from_styles(self, style_channels: Tensor, noise: str = "fixed") -> Tensor:
        """style_channels [N, S] -> image [N, 3, size, size], about [-1, 1], not clamped."""
        state = self.advance(self.start(style_channels.shape[0]), style_channels, noise=noise)
        if state.skip is None:
            raise RuntimeError("synthesis made no picture")
        return state.skip

    def synthesis(self, w_plus: Tensor, noise: str = "fixed") -> Tensor:
        """w_plus [N, num_ws, w_dim] -> image [N, 3, size, size], about [-1, 1], not clamped."""
        return self.synthesis_from_styles(self.affine(w_plus), noise)

    def forward(self, z: Tensor, psi: float = 1.0, noise: str = "fixed") -> Tensor:
        return self.synthesis(self.broadcast(self.truncate(self.mapping(z), psi)), noise)


def from_config(config: dict[str, Any]) -> Generator:
    """A fresh generator from the plain values of config.json."""
    return Generator(from_mapping(StyleGAN2Config, config, "stylegan2"))
