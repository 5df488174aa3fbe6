"""A small StyleGAN2 with random weights, noise and biases included."""

from __future__ import annotations

import torch

from limner.training.models.stylegan2 import Generator, StyleGAN2Config

CONFIG = StyleGAN2Config(size=32, z_dim=16, w_dim=16, n_mlp=3, channels={4: 12, 8: 10, 16: 8, 32: 6})


def random_generator(config: StyleGAN2Config = CONFIG) -> Generator:
    torch.manual_seed(1)
    generator = Generator(config)
    for name, parameter in generator.named_parameters():
        if name.endswith(("noise.weight", "bias")):
            torch.nn.init.normal_(parameter, 0.5 if "modulation" in name else 0.0, 0.3)
    return generator.eval()
