"""A small autoencoder with its losses, for tests."""

from __future__ import annotations

from typing import Any

import torch

from limner.training.families.autoencoder.module import AutoencoderModule, AutoencoderTraining
from limner.training.loop.runner import OptimizerConfig
from limner.training.models.diffusion import AutoencoderConfig, build_autoencoder
from limner.training.models.irse import BodyConfig, IdentityConfig, IdentityNet
from limner.training.models.patches import PatchDiscriminator

MODEL = AutoencoderConfig(size=32, widths=(8, 8, 8, 16), groups=4)
IDENTITY = IdentityConfig(
    image_size=32, input_size=16, crop="none", body=BodyConfig(8, (8, 12), (1, 1), 4), embedding=10, dropout=0.0
)


def module(**training: Any) -> AutoencoderModule:
    torch.manual_seed(0)
    found = AutoencoderModule(
        build_autoencoder(MODEL), PatchDiscriminator(8, 4), IdentityNet(IDENTITY),
        AutoencoderTraining(**training), OptimizerConfig(), 10,
    )  # fmt: skip
    found.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    return found
