"""What the graphs of feature refinement compute: the generator with an offset added to one of its feature maps.

    F = G_k(w) + offset,   image = the layers behind k, on F

(Yao et al. 2022, "Feature-Style Encoder for Style-Based GAN Inversion", section 3: F' = F + G_k(w') - G_k(w) after an
edit, which is G_k(w') + offset.) k is the last convolution of its resolution; to-RGB reads the sum as well.
"feature_gradient" gives the gradient of the pixel term with respect to the offset, so that no weight is touched.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limner.export.stylegan2.synthesis import FastSynthesis
from limner.training.models.stylegan2 import Generator, StyledConv, StyleGAN2Config

INPUTS = ("feature_offset", "style_channels", "target_image", "loss_weights")
OUTPUTS = ("loss_pixel", "gradient", "image")
SMALLEST, LARGEST = 16, 64  # sides of the feature map, where the generator has them


def feature_resolution(config: StyleGAN2Config) -> int:
    """The side of the feature map: a quarter of the picture's, 16 to 64, at most half of it."""
    return min(max(config.size // 4, SMALLEST), LARGEST, max(config.size // 2, config.resolutions[0]))


def feature_layer(generator: Generator) -> str:
    """The name of the layer whose output is offset: the last convolution at `feature_resolution`."""
    side = feature_resolution(generator.config)
    return [spec.name for spec in generator.layers if spec.kind == "conv" and spec.resolution == side][-1]


def feature_shape(generator: Generator) -> tuple[int, int, int]:
    """[C,r,r] of the feature map."""
    side = feature_resolution(generator.config)
    return generator.config.channels_at(side), side, side


@dataclass(frozen=True)
class PixelLoss:
    """weight mean (image - target)^2 as a function of the offset [N,C,r,r]."""

    fast: FastSynthesis

    def gradient(
        self,
        feature_offset: Tensor,  # [N,C,r,r]
        style_channels: Tensor,  # [N,S]
        target_image: Tensor,  # [N,3,H,W]
        loss_weights: Tensor,  # [1]: pixel
    ) -> tuple[Tensor, ...]:
        """Return what the graph returns, in the order of OUTPUTS."""

        def total(point: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            image, _ = self.fast.with_offset(style_channels, point)
            pixel = (image - target_image).square().mean((1, 2, 3))
            return (pixel * loss_weights).sum(), (pixel, image)

        gradient, (_, (pixel, image)) = torch.func.grad_and_value(total, has_aux=True)(feature_offset)
        return pixel, gradient, image


@dataclass(frozen=True)
class PlainFeatures:
    """The same by the training generator with a hook, and by torch's own backward pass: the reference."""

    generator: Generator

    def with_offset(self, style_channels: Tensor, feature_offset: Tensor) -> tuple[Tensor, Tensor]:
        """Return image [N,3,H,W] and the feature map with its offset [N,C,r,r]."""
        found: list[Tensor] = []

        def add(layer: StyledConv, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
            found.append(output + feature_offset)
            return found[0]

        handle = self.generator.get_submodule(feature_layer(self.generator)).register_forward_hook(add)
        try:
            return self.generator.synthesis_from_styles(style_channels), found[0]
        finally:
            handle.remove()

    def gradient(
        self, feature_offset: Tensor, style_channels: Tensor, target_image: Tensor, loss_weights: Tensor
    ) -> tuple[Tensor, ...]:
        """As `PixelLoss.gradient`."""
        with torch.enable_grad():
            point = feature_offset.detach().clone().requires_grad_(True)
            image, _ = self.with_offset(style_channels, point)
            pixel = (image - target_image).square().mean((1, 2, 3))
            (gradient,) = torch.autograd.grad((pixel * loss_weights).sum(), point)
        return pixel.detach(), gradient, image.detach()
