"""The text encoder and the autoencoder's two halves as plain functions of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limner.export.diffusion.control import ControlAttention
from limner.training.models.clip import attend

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

SMALLEST_LOGVAR, LARGEST_LOGVAR = -30.0, 20.0  # where diffusers' DiagonalGaussianDistribution cuts it


class TextStates(nn.Module):
    """Token ids int64 [B,77] -> the last hidden states [B,77,D], causal, after the final norm."""

    def __init__(self, encoder: CLIPTextModel | CLIPTextModelWithProjection, length: int) -> None:
        super().__init__()
        self.text: Any = getattr(encoder, "text_model", encoder)
        self.length = length  # tokens of a text: the encoder may have more positions
        mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    mask: Tensor

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.last_two(input_ids)[1]

    def last_two(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """The states before the last layer, and those at the end."""
        embeddings = self.text.embeddings
        positions = embeddings.position_embedding.weight
        if len(positions) != self.length:
            positions = positions[: self.length]
        x = before = embeddings.token_embedding(input_ids) + positions
        for layer in self.text.encoder.layers:
            before, x = x, attend(layer, x, self.mask)
        return before, self.text.final_layer_norm(x)


class PairStates(nn.Module):
    """SDXL's texts (Podell et al. 2023, section 2.1): the states before the last layer of two encoders side by side,
    [B,77,D1+D2], and the second one's projected end token [B,P].
    """

    def __init__(self, first: CLIPTextModel, second: CLIPTextModelWithProjection, eos: int, length: int) -> None:
        super().__init__()
        self.first, self.second, self.eos = TextStates(first, length), TextStates(second, length), eos
        self.projection: Any = second.text_projection

    def forward(self, input_ids: Tensor, input_ids_2: Tensor) -> tuple[Tensor, Tensor]:
        states, _ = self.first.last_two(input_ids)
        more, last = self.second.last_two(input_ids_2)
        end = (input_ids_2 == self.eos).int().argmax(1)  # the first one
        pooled = last.gather(1, end[:, None, None].expand(-1, 1, last.shape[-1]))[:, 0]
        return torch.cat([states, more], -1), self.projection(pooled)


class SpatialAttention(ControlAttention):
    """The autoencoder's attention over the places of a map [B,C,h,w], with its norm and its shortcut."""

    def __init__(self) -> None:
        super().__init__(edited=False)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        tokens = hidden_states.flatten(2)  # [B,C,N]
        tokens = attn.group_norm(tokens) if attn.group_norm is not None else tokens
        mixed = super().__call__(attn, tokens.transpose(1, 2)).transpose(1, 2)
        mixed = mixed.unflatten(2, hidden_states.shape[2:])
        return mixed + hidden_states / attn.rescale_output_factor if attn.residual_connection else mixed


class LatentEncoder(nn.Module):
    """image [B,3,H,W] in [-1,1] -> latent_mean and latent_logvar [B,C,h,w], unscaled."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        moments = self.encoder(image)
        moments = moments if self.quant_conv is None else self.quant_conv(moments)
        mean, logvar = moments.chunk(2, 1)
        return mean, logvar.clamp(SMALLEST_LOGVAR, LARGEST_LOGVAR)


class LatentDecoder(nn.Module):
    """latents [B,C,h,w], divided by the scaling factor -> image [B,3,H,W]."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.decoder, self.post_quant_conv = vae.decoder, vae.post_quant_conv

    def forward(self, latents: Tensor) -> Tensor:
        image: Tensor = self.decoder(latents if self.post_quant_conv is None else self.post_quant_conv(latents))
        return image
