"""Pictures with one style channel moved, from what is already known of the pictures as they are.

A modulated convolution is linear in its style before demodulation: with P = sum_i s_i (w_i * x_i),

    y' = d(s') (P + (s'_c - s_c) (w_c * x_c)),    d_o(s)^-2 = sum_i s_i^2 |w_oi|^2 + eps

so a channel's own layer costs one input channel of the convolution instead of all, shared by every value that the
channel takes, and the layers before it cost nothing. The layers after it must run: the change is everywhere in the
picture (demodulation alone reaches every pixel) and, measured on the shipped generator, neither of low rank nor
confined to a few tiles at the accuracy that relevance needs.

`Convolution` "fewest" runs those by minimal filtering where that takes fewer multiply-adds (models/winograd.py): the
same numbers up to rounding. "direct" takes more and is the faster one on CPUs, whose time goes into moving memory: it
filters in one pass, and demodulation, noise, bias and activation are written over the convolution's output. The gain
sqrt(2) of the activation is drawn into the two before it, as leaky ReLU allows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limner.training.families.relevance import winograd
from limner.training.models.stylegan2 import SQRT2, Generator, LayerSpec, blur, fir_kernel

Convolution = Literal["direct", "fewest"]
FIR_ONE_PASS, FIR_TWO_PASSES = 16, 8  # multiply-adds of an output; the generator itself takes two, one an axis


@dataclass(frozen=True)
class Trunk:
    """What is kept of N pictures before and at one layer."""

    layer: int  # number of a conv layer
    styles: Tensor  # [N,S]
    x: Tensor  # [N,I,H,W], the layer's input
    product: Tensor  # [N,O,H',W'], P above
    skip: Tensor | None  # RGB of the layers before it


class ChannelRenderer(nn.Module):
    """Renders moved channels of a generator. Without gradients: feature maps are overwritten."""

    def __init__(self, generator: Generator, convolution: Convolution = "direct") -> None:
        super().__init__()
        self.generator = generator
        self.fewest = [convolution == "fewest" and filtering_pays(generator, s) for s in generator.layers]
        self.register_buffer("fir", fir_kernel(gain=4.0), persistent=False)
        convolutions = [n for n, s in enumerate(generator.layers) if s.kind == "conv"]
        for index, number in enumerate(convolutions):
            spec = generator.layers[number]
            conv, module = generator.conv(spec), generator.get_submodule(spec.name)
            self._prepare(number, module, generator.noises.get_buffer(f"noise_{index}"))
            if self.fewest[number]:
                algorithm = winograd.doubling() if conv.upsample else winograd.same()
                kernels = algorithm.kernels(conv.weight[0] * conv.scale)
                self.register_buffer(f"kernels_{number}", kernels, persistent=False)

    fir: Tensor

    @torch.no_grad()
    def _prepare(self, number: int, module: Any, noise: Tensor) -> None:
        """What a layer adds before its activation, [1,O,H,W], and the squares of its weights, [O,I]."""
        added = SQRT2 * (module.noise.weight * noise + module.activate.bias[None, :, None, None])
        added = added.contiguous(memory_format=torch.channels_last)
        self.register_buffer(f"added_{number}", added, persistent=False)
        squares = (module.conv.weight[0] * module.conv.scale).square().sum((2, 3))
        self.register_buffer(f"squares_{number}", squares, persistent=False)

    @torch.no_grad()
    def trunk(self, layer: int, styles: Tensor) -> Trunk:
        """Run the pictures styles [N,S] up to and into a conv layer."""
        state = self.generator.advance(self.generator.start(len(styles)), styles, layer)
        x = state.x.contiguous(memory_format=torch.channels_last)
        style = self._split(styles)[layer]
        return Trunk(layer, styles, x, self._product(layer, x * style[:, :, None, None]), state.skip)

    @torch.no_grad()
    def moved(self, trunk: Trunk, channel: int, values: Tensor) -> Tensor:
        """Pictures [V*N,3,size,size] with that layer's style channel set to each of values [V], value by value."""
        conv, squares = self.generator.conv(self.generator.layers[trunk.layer]), self._squares(trunk.layer)
        style = self._split(trunk.styles)[trunk.layer]
        weight = conv.weight[0] * conv.scale
        one = self._direct(conv, trunk.x[:, channel : channel + 1], weight[:, channel : channel + 1])  # [N,O,H',W']
        change = values[:, None] - style[:, channel]  # [V,N]
        more = values[:, None].square() - style[:, channel].square()  # [V,N]
        energy = (F.linear(style.square(), squares) + more[:, :, None] * squares[:, channel]).clamp_min(0)  # [V,N,O]
        moved = [torch.addcmul(trunk.product, c[:, None, None, None], one) for c in change]
        x = self._finish(trunk.layer, torch.cat(moved), energy.flatten(0, 1))  # [V*N,O,H',W']
        count = len(values)
        skip = None if trunk.skip is None else trunk.skip.repeat(count, 1, 1, 1)
        return self._rest(trunk.layer, x, skip, trunk.styles.repeat(count, 1))

    def _rest(self, layer: int, x: Tensor, skip: Tensor | None, styles: Tensor) -> Tensor:
        """The layers after `layer`, whose output is x."""
        x = x.contiguous(memory_format=torch.channels_last)
        split = self._split(styles)
        for number in range(layer + 1, len(self.generator.layers)):
            spec, style = self.generator.layers[number], split[number]
            if spec.kind == "to_rgb":
                skip = self.generator.get_submodule(spec.name)(x, style, skip)
                continue
            x = self._product(number, x.mul_(style[:, :, None, None]))
            x = self._finish(number, x, F.linear(style.square(), self._squares(number)))
        if skip is None:
            raise RuntimeError("synthesis made no picture")
        return skip

    def _squares(self, number: int) -> Tensor:
        return self.get_buffer(f"squares_{number}")

    def _finish(self, number: int, x: Tensor, energy: Tensor) -> Tensor:
        """Demodulation by energy [N,O], noise, bias and activation, over x."""
        x.mul_(SQRT2 * torch.rsqrt(energy + 1e-8)[:, :, None, None]).add_(self.get_buffer(f"added_{number}"))
        return F.leaky_relu_(x, 0.2)

    def _product(self, number: int, x: Tensor) -> Tensor:
        """The convolution of a layer, without modulation and demodulation."""
        conv = self.generator.conv(self.generator.layers[number])
        weight = conv.weight[0] * conv.scale
        if not self.fewest[number]:
            return self._direct(conv, x, weight)
        kernels = self.get_buffer(f"kernels_{number}")
        if conv.upsample:
            return blur(winograd.doubling_convolution(x, kernels, weight), (1, 1), gain=4.0)
        return winograd.same_convolution(x, kernels)

    def _direct(self, conv: Any, x: Tensor, weight: Tensor) -> Tensor:
        if conv.upsample:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            return F.conv2d(x, self.fir.expand(x.shape[1], 1, 4, 4), padding=1, groups=x.shape[1])
        return F.conv2d(x, weight, padding=conv.kernel // 2)

    def _split(self, styles: Tensor) -> tuple[Tensor, ...]:
        return styles.split([s.channels for s in self.generator.layers], 1)


def _sizes(generator: Generator, layer: LayerSpec) -> tuple[int, int, int, bool]:
    """Input channels, output channels, input pixels a side, whether it doubles them."""
    conv = generator.conv(layer)
    side = layer.resolution // 2 if conv.upsample else layer.resolution
    return conv.weight.shape[2], conv.weight.shape[1], side, conv.upsample


def filtering_pays(generator: Generator, layer: LayerSpec) -> bool:
    """Whether minimal filtering takes fewer multiply-adds than the plain convolution of a layer."""
    n_in, n_out, side, doubles = _sizes(generator, layer)
    pays = winograd.multiply_adds(n_in, n_out, side, doubles) < 9 * n_in * n_out * side**2
    return layer.kind == "conv" and side % winograd.TILE == 0 and pays


def layer_multiply_adds(generator: Generator, convolution: Convolution = "direct") -> list[int]:
    """Multiply-adds of one picture per layer, as the renderer makes it; a transposed convolution is counted at its
    input size."""
    filtered = [convolution == "fewest" and filtering_pays(generator, spec) for spec in generator.layers]
    return [
        _layer(generator, spec, fewer, FIR_TWO_PASSES if fewer else FIR_ONE_PASS)
        for spec, fewer in zip(generator.layers, filtered, strict=True)
    ]


def brute_multiply_adds(generator: Generator) -> int:
    """Multiply-adds of one picture, as the generator itself makes it."""
    return sum(_layer(generator, spec, False, FIR_TWO_PASSES) for spec in generator.layers)


def _layer(generator: Generator, layer: LayerSpec, filtered: bool, fir: int) -> int:
    n_in, n_out, side, doubles = _sizes(generator, layer)
    taps = generator.conv(layer).kernel ** 2
    after = n_out * layer.resolution**2 * fir if doubles else 0
    if filtered:
        return winograd.multiply_adds(n_in, n_out, side, doubles) + after
    return n_in * n_out * taps * side**2 + after


def own_multiply_adds(generator: Generator, layer: LayerSpec, values: int = 2) -> float:
    """Multiply-adds of one render at the moved channel's own layer, which `values` renders share in part."""
    _, n_out, side, doubles = _sizes(generator, layer)
    fir = FIR_ONE_PASS if doubles else 0
    return n_out * (9 * side**2 + fir * layer.resolution**2) / values + n_out * layer.resolution**2


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of two renders a channel and picture, all channels: brute force and this way, by layer."""

    layers: dict[str, tuple[float, float]]  # a conv layer's channels: brute force, this way

    @property
    def brute(self) -> float:
        return sum(a for a, _ in self.layers.values())

    @property
    def spent(self) -> float:
        return sum(b for _, b in self.layers.values())

    def ratio(self, tower: float = 0.0, renders: int = 0) -> float:
        """Brute force over this way; `tower` multiply-adds a render, if given, on both sides."""
        return (self.brute + tower * renders) / (self.spent + tower * renders)


def relevance_cost(generator: Generator, std: Tensor, convolution: Convolution = "direct") -> Cost:
    """The cost for one picture. Channels of no variance are not rendered; a layer's trunk is rendered once."""
    plain, fast = layer_multiply_adds(generator), layer_multiply_adds(generator, convolution)
    brute = brute_multiply_adds(generator)
    layers, offset = {}, 0
    for number, spec in enumerate(generator.layers):
        if spec.kind == "conv":
            moving = int((std[offset : offset + spec.channels] > 0).sum())
            render = own_multiply_adds(generator, spec) + sum(fast[number + 1 :])
            layers[spec.name] = (2.0 * spec.channels * brute, 2 * moving * render + sum(plain[: number + 1]))
        offset += spec.channels
    return Cost(layers)


Tower = Callable[[Tensor], Tensor]


def tower_multiply_adds(tower: Tower, size: int, device: torch.device | str = "cpu") -> float:
    """Multiply-adds of the image tower for one picture, counted while it runs."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tower(torch.zeros(1, 3, size, size, device=device))
    return counter.get_total_flops() / 2
