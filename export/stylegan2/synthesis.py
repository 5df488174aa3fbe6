"""The generator's synthesis network rewritten for inference engines; same parameters, same picture.

Against `Generator.synthesis_from_styles`, which is the reference in the tests:

- noise, its weight and the bias of a layer are one constant picture c, folded when the graph is loaded; where
  the weight is zero, c is the bias alone;
- demodulation d > 0 and the gain sqrt(2) commute with the leaky ReLU, a(d u + c) = d a(u + c / d), and move into
  the next layer's style, a vector: one pass over the feature maps less, and one less in the gradient;
- both passes of the FIR filter are one 4 x 4 depthwise convolution that crops as well;
- a layer's style is divided by its largest magnitude m, which demodulation takes out again (stylegan2-ada's way in
  fp16): numbers stay of one size however large the styles. m cancels, so it is a constant to the gradient;
- to-RGB modulates its 3 x C matrix instead of the feature maps: one matrix product;
- the skip picture is enlarged by two fixed matrices.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limner.training.models.stylegan2 import SQRT2, Generator, ModulatedConv2d, StyledConv, ToRGB, fir_kernel

SMALLEST_STYLE = 1e-4  # below it nothing is divided: 1e-8 / m^2 is 1 there


class FastSynthesis(nn.Module):
    """style_channels [N,S] -> image [N,3,size,size], and w_plus [N,L,D] -> the same by `from_w_plus`."""

    def __init__(self, generator: Generator, offset_layer: str = "") -> None:
        super().__init__()
        self.generator = generator
        self.offset_layer = offset_layer  # what `with_offset` adds to: the output of this convolution
        self.register_buffer("fir", fir_kernel(4.0), persistent=False)
        layers = (generator.get_submodule(spec.name) for spec in generator.layers if spec.kind == "conv")
        self.silent = [
            isinstance(layer, StyledConv) and not bool(layer.noise.weight.detach().any()) for layer in layers
        ]
        for resolution in generator.config.resolutions[:-1]:
            self.register_buffer(f"double_{resolution}", doubling_matrix(resolution), persistent=False)

    def from_w_plus(self, w_plus: Tensor) -> Tensor:
        """w_plus [N,L,D] -> image [N,3,size,size]."""
        return self(self.generator.affine(w_plus))

    def forward(self, style_channels: Tensor) -> Tensor:
        """style_channels [N,S] -> image [N,3,size,size], about [-1,1], not clamped."""
        return self._drawn(style_channels)[0]

    def with_offset(self, style_channels: Tensor, feature_offset: Tensor) -> tuple[Tensor, Tensor]:
        """The same with feature_offset [N,C,r,r] added to a feature map; return that sum [N,C,r,r] beside the image."""
        image, features = self._drawn(style_channels, feature_offset)
        if features is None:
            raise RuntimeError(f"synthesis has no layer {self.offset_layer!r}")
        return image, features

    def _drawn(self, style_channels: Tensor, feature_offset: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        generator = self.generator
        styles = style_channels.split([spec.channels for spec in generator.layers], 1)
        x = generator.input.input.expand(style_channels.shape[0], -1, -1, -1)
        rgb: Tensor | None = None
        features: Tensor | None = None
        gain, convolutions = torch.ones(()), 0  # what x still lacks: [N,C] after the first layer
        for spec, style in zip(generator.layers, styles, strict=True):
            layer = generator.get_submodule(spec.name)
            if isinstance(layer, StyledConv):
                x, gain = self._styled(layer, x, style, gain, self._constant(layer, convolutions))
                convolutions += 1
                if feature_offset is not None and spec.name == self.offset_layer:
                    features = x * gain[:, :, None, None] + feature_offset
                    x, gain = features, torch.ones(())
            elif isinstance(layer, ToRGB):
                rgb = self._to_rgb(layer, x, style * gain, rgb)
        if rgb is None:
            raise RuntimeError("synthesis made no picture")
        return rgb, features

    def _constant(self, layer: StyledConv, index: int) -> Tensor:
        """What a layer adds: noise and bias [1,O,H,W], or the bias alone [1,O,1,1] where the noise weighs nothing."""
        bias = layer.activate.bias[None, :, None, None]
        if self.silent[index]:
            return bias
        return layer.noise.weight * self.generator.noises.get_buffer(f"noise_{index}") + bias

    def _styled(
        self, layer: StyledConv, x: Tensor, style: Tensor, gain: Tensor, constant: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Modulate, convolve, add, leaky ReLU; return x [N,O,H',W'] and the gain [N,O] that it lacks."""
        conv: ModulatedConv2d = layer.conv
        weight = conv.weight[0] * conv.scale  # [O,I,k,k]
        largest = style.detach().abs().amax(1, keepdim=True).clamp_min(SMALLEST_STYLE)  # [N,1]
        style = style / largest
        x = x * (style * gain)[:, :, None, None]
        if conv.upsample:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)  # [N,O,2H+1,2W+1]
            channels = x.shape[1]
            x = F.conv2d(x, self.get_buffer("fir").expand(channels, 1, 4, 4), padding=1, groups=channels)
        else:
            x = F.conv2d(x, weight, padding=conv.kernel // 2)
        energy = F.linear(style.square(), weight.square().sum((2, 3))) + 1e-8 / largest.square()  # [N,O]
        x = F.leaky_relu(x + constant * torch.sqrt(energy)[:, :, None, None], 0.2)
        return x, torch.rsqrt(energy) * SQRT2

    def _to_rgb(self, layer: ToRGB, x: Tensor, style: Tensor, skip: Tensor | None) -> Tensor:
        """Mix x [N,I,H,W] to RGB with the modulated matrix [N,3,I], and add the enlarged skip."""
        conv: ModulatedConv2d = layer.conv
        matrix = conv.weight[0, :, :, 0, 0] * conv.scale  # [3,I]
        mixed = torch.bmm(matrix * style[:, None, :], x.flatten(2))  # [N,3,H*W]
        rgb = mixed.unflatten(2, x.shape[2:]) + layer.bias
        if skip is None:
            return rgb
        double = self.get_buffer(f"double_{skip.shape[-1]}")
        return rgb + torch.matmul(torch.matmul(double, skip), double.t())


def doubling_matrix(size: int) -> Tensor:
    """[2 size, size]: each sample is (3 near + 1 far) / 4, zero beyond the border (`upsample_rgb` on one axis)."""
    near = 0.75 * torch.eye(size)
    before, after = (0.25 * torch.diag(torch.ones(size - 1), k) for k in (-1, 1))
    return torch.stack([near + before, near + after], 1).flatten(0, 1)
