"""PatchGAN discriminator (Isola et al. 2017): a map of logits, each of which sees one patch of the picture."""

from __future__ import annotations

from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """image [N,3,H,W] in [-1,1] -> logits [N,1,H/8,W/8]; group norm, so that batches may be small."""

    def __init__(self, width: int = 16, groups: int = 8) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for factor in (1, 2):
            layers += [nn.Conv2d(factor * width, 2 * factor * width, 4, 2, 1, bias=False),
                       nn.GroupNorm(groups, 2 * factor * width), nn.LeakyReLU(0.2)]  # fmt: skip
        layers.append(nn.Conv2d(4 * width, 1, 3, 1, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.layers(image)
        return logits
