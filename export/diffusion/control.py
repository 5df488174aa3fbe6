"""The UNet whose attention can be controlled: Prompt-to-Prompt's edits (Hertz et al. 2022) as tensors.

For row b with source row s = source_index[b], in every edited cross-attention layer

    A'_b = A_s T_b + A_b diag(d_b),      T = token_transfer, d = token_keep,

so that A'_b V_b = A_s (T_b V_b) + A_b (d_b V_b), and no edited map is ever made. In an edited self-attention layer
a row with self_replace takes the source row's queries and keys. Blend maps are A'_b w for words w, a mean over heads.

Rows whose T is all zero, and rows without self_replace, are left out of the first term by number: the plain
UNet is then all that is computed. The rows are found once for all layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limner.export.diffusion.layers import ControlledLayers, attention_layers
from limner.export.diffusion.rows import add_rows, put_rows
from limner.runtime.errors import InputError

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

CONTROL_INPUTS = ("source_index", "token_transfer", "token_keep", "self_replace", "blend_words")


@dataclass(frozen=True, eq=False)
class Control:
    """The control inputs, and what all layers need of them. E rows are edited, R rows replaced."""

    token_keep: Tensor  # [B,1,77,1]
    edited: Tensor  # int64 [E]
    edited_source: Tensor  # int64 [E]
    transfer: Tensor  # [E,1,77,77]
    replaced: Tensor  # int64 [R]
    replaced_source: Tensor  # int64 [R]
    words_kept: Tensor  # [B,77,K], d_b * w
    words_moved: Tensor  # [E,77,K], T_b w

    @classmethod
    def of(
        cls,
        source_index: Tensor,  # int64 [B]
        token_transfer: Tensor,  # [B,77,77]: source's tokens, row's tokens
        token_keep: Tensor,  # [B,77]
        self_replace: Tensor,  # [B], 0 or 1
        blend_words: Tensor,  # [B,K,77]
    ) -> Control:
        edited = torch.nonzero(token_transfer.abs().amax((1, 2)))[:, 0]
        replaced = torch.nonzero(self_replace)[:, 0]
        words = blend_words.transpose(1, 2)  # [B,77,K]
        transfer = token_transfer[edited]
        return cls(
            token_keep=token_keep[:, None, :, None],
            edited=edited,
            edited_source=source_index[edited],
            transfer=transfer[:, None],
            replaced=replaced,
            replaced_source=source_index[replaced],
            words_kept=token_keep[:, :, None] * words,
            words_moved=transfer @ words[edited],
        )


class ControlAttention:
    """A diffusers attention processor that writes attention out, and follows the control where its layer is edited."""

    def __init__(self, edited: bool, blends: bool = False) -> None:
        self.edited, self.blends = edited, blends
        self.control: Control | None = None
        self.map: Tensor | None = None  # blend map of the last call, [B,N,K]

    def __call__(
        self,
        attn: Any,  # diffusers' Attention
        hidden_states: Tensor,  # [B,N,C]
        encoder_hidden_states: Tensor | None = None,  # [B,77,D]; None is self-attention
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            project(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # [B,heads,tokens,C/heads]
            for project, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        dtype = q.dtype
        if attn.upcast_attention:  # Stable Diffusion 2.x: the product overflows in fp16
            q, k = q.float(), k.float()
        control = self.control if self.edited else None
        if encoder_hidden_states is None:
            if control is not None:
                q, k = (put_rows(x, control.replaced, x[control.replaced_source]) for x in (q, k))
            mixed = attention_map(q, k, attn).to(dtype) @ v
        else:
            mixed = self.cross(attention_map(q, k, attn).to(dtype), v, control)
        mixed = attn.to_out[0](mixed.transpose(1, 2).flatten(-2))  # [B,N,C]
        return mixed / attn.rescale_output_factor if attn.rescale_output_factor != 1 else mixed

    def cross(self, weights: Tensor, v: Tensor, control: Control | None) -> Tensor:
        """Weights [B,heads,N,77] and values [B,heads,77,c] -> [B,heads,N,c]."""
        if control is None:
            return weights @ v
        mixed = weights @ (control.token_keep * v)
        moved = weights[control.edited_source] @ (control.transfer @ v[control.edited])  # [E,heads,N,c]
        if self.blends:
            means = weights.mean(1)  # [B,N,77]
            more = means[control.edited_source] @ control.words_moved
            self.map = add_rows(means @ control.words_kept, control.edited, more)
        return add_rows(mixed, control.edited, moved)


def check_plain(name: str, attn: Any) -> None:
    """InputError for an attention layer with parts that `ControlAttention` does not compute."""
    extras = ("spatial_norm", "group_norm", "norm_q", "norm_k", "norm_cross", "added_kv_proj_dim")
    found = [part for part in extras if getattr(attn, part, None)]
    if found or attn.residual_connection:
        raise InputError(f"unet.{name}", f"attention with {', '.join(found) or 'a shortcut'}", "plain attention")


def attention_map(q: Tensor, k: Tensor, attn: Any) -> Tensor:
    """softmax(q k^T scale) [B,heads,N,M]; Vaswani et al. 2017, eq. 1."""
    scores = (q * attn.scale) @ k.transpose(-1, -2)
    if attn.upcast_softmax:
        scores = scores.float()
    return scores.softmax(-1)


class ControlUNet(nn.Module):
    """diffusers' UNet with the control inputs of the bundle's `unet` graph."""

    def __init__(self, unet: UNet2DConditionModel, layers: ControlledLayers) -> None:
        super().__init__()
        self.unet, self.shrink = unet, layers.shrink
        for name in attention_layers(unet):
            check_plain(name, unet.get_submodule(name))
        self.processors = {
            name: ControlAttention(name in layers.edited, name in layers.blends) for name in attention_layers(unet)
        }

    def forward(
        self,
        sample: Tensor,  # [B,C,h,w]
        timestep: Tensor,  # [B]
        encoder_hidden_states: Tensor,  # [B,77,D]
        source_index: Tensor,
        token_transfer: Tensor,
        token_keep: Tensor,
        self_replace: Tensor,
        blend_words: Tensor,
        text_embeds: Tensor | None = None,  # [B,P] of SDXL
        time_ids: Tensor | None = None,  # [B,6] of SDXL
    ) -> tuple[Tensor, Tensor]:
        """noise_pred [B,C,h,w], blend_maps [B,K,h_a,w_a]."""
        control = Control.of(source_index, token_transfer, token_keep, self_replace, blend_words)
        added = None if text_embeds is None else {"text_embeds": text_embeds, "time_ids": time_ids}
        before = self.unet.attn_processors
        self.unet.set_attn_processor({f"{name}.processor": one for name, one in self.processors.items()})
        try:
            for processor in self.processors.values():
                processor.control = control
            noise = self.unet(sample, timestep, encoder_hidden_states, added_cond_kwargs=added, return_dict=False)[0]
            return noise, self.blend_maps(sample)
        finally:
            for processor in self.processors.values():
                processor.control = processor.map = None
            self.unet.set_attn_processor(before)

    def blend_maps(self, sample: Tensor) -> Tensor:
        """The mean of the blend layers' maps [B,K,h_a,w_a]."""
        maps = [one.map for one in self.processors.values() if one.map is not None]
        total = maps[0]
        for one in maps[1:]:
            total = total + one
        mean = total if len(maps) == 1 else total * (1.0 / len(maps))  # [B,N,K]
        return mean.transpose(1, 2).unflatten(2, (sample.shape[2] // self.shrink, sample.shape[3] // self.shrink))
