"""Pictures from a denoiser in torch, for grids and figures: DDIM (Song et al. 2021, eq. 12, eta 0) with guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limner.training.avatars.tokens import CONTEXT_LENGTH, CaptionTokenizer
from limner.training.models.diffusion import SCHEDULER

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel


def noise_levels(scheduler: Mapping[str, Any]) -> Tensor:
    """The cumulative product of alphas, float32 [steps], of a "scaled_linear" schedule."""
    low, high = float(scheduler["beta_start"]) ** 0.5, float(scheduler["beta_end"]) ** 0.5
    betas = torch.linspace(low, high, int(scheduler["num_train_timesteps"]), dtype=torch.float64).square()
    return (1 - betas).cumprod(0).float()


class Sampler:
    """Draws pictures with a frozen autoencoder and a tokenizer; no module of its own, so no part of a checkpoint."""

    def __init__(self, vae: AutoencoderKL, tokenizer: CaptionTokenizer, latent_size: int) -> None:
        self.vae, self.tokenizer, self.latent_size = vae, tokenizer, latent_size
        self.scaling_factor = float(vae.config.scaling_factor)
        self.levels = noise_levels(SCHEDULER)

    def states(self, text_encoder: nn.Module, texts: Sequence[str]) -> Tensor:
        """Token states [N,77,D] of a CLIPTextModel."""
        ids = self.tokenizer.encode(texts, CONTEXT_LENGTH).to(next(text_encoder.parameters()).device)
        states: Tensor = text_encoder(ids).last_hidden_state
        return states

    @torch.no_grad()
    def pictures(
        self,
        unet: UNet2DConditionModel,
        text_encoder: nn.Module,  # CLIPTextModel
        texts: Sequence[str],
        guidance: float = 4.0,  # 1 for none
        steps: int = 20,
        seed: int = 0,  # one noise for all texts if `shared`, else one a text
        shared: bool = True,
    ) -> Tensor:
        """image [N,3,H,W] in [-1,1]."""
        rng = torch.Generator().manual_seed(seed)
        channels = int(unet.config.in_channels)
        noise = torch.randn(1 if shared else len(texts), channels, self.latent_size, self.latent_size, generator=rng)
        latents = noise.expand(len(texts), -1, -1, -1).to(unet.device)
        states = self.states(text_encoder, ["", *texts])
        context = torch.cat([states[:1].expand(len(texts), -1, -1), states[1:]])
        stride = len(self.levels) // steps
        for step in range((steps - 1) * stride + 1, 0, -stride):  # "leading" with offset 1, as in the config
            both = unet(torch.cat([latents, latents]), step, context).sample
            free, bound = both.chunk(2)
            latents = ddim_step(latents, free + guidance * (bound - free), self.levels[step],
                                self.levels[max(step - stride, 0)])  # fmt: skip
        image: Tensor = self.vae.to(unet.device).decode(latents / self.scaling_factor).sample
        return image.clamp(-1, 1).cpu()


def ddim_step(latents: Tensor, noise: Tensor, level: Tensor, level_next: Tensor) -> Tensor:
    """One deterministic step from noise level `level` to `level_next` (cumulative products of alphas)."""
    clean = (latents - (1 - level).sqrt() * noise) / level.sqrt()
    return level_next.sqrt() * clean + (1 - level_next).sqrt() * noise
