"""The UNet whose attention can be controlled: Prompt-to-Prompt's edits (Hertz et al. 2022) as tensors.

For row b with source row s = source_index[b], in every edited cross-attention layer

    A'_b = A_s T_b + A_b diag(d_b),      T = token_transfer, d = token_keep,

so that A'_b V_b = A_b (d_b V_b) + A_s (T_b V_b), and no edited map is ever made. Values are linear in the text
(V = text W), so d_b and T_b are applied to the text, once for all layers. In an edited self-attention layer a row with
self_replace takes the source row's queries and keys. Blend maps are A'_b w for words w, a mean over heads. Attention is
one fused operation; a layer that blends writes its map beside it.

Rows whose T is all zero are left out of the second term by number: the plain UNet is then all that is computed. The
rows are found once for all layers. That term is written out, since the fused operation of ONNX Runtime before 1.29 ends
the process where it is given no rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limner.export.diffusion.cached import watched
from limner.export.diffusion.layers import ControlledLayers, attention_layers
from limner.export.diffusion.rows import add_rows, attend, split_heads, weigh
from limner.runtime.errors import InputError

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

CONTROL_INPUTS = ("source_index", "token_transfer", "token_keep", "self_replace", "blend_words")


@dataclass(frozen=True, eq=False)
class Control:
    """The control inputs, and what all layers need of them. E rows are edited."""

    edited: Tensor  # int64 [E,1]
    source: Tensor  # int64 [E], of the edited rows
    queries: Tensor  # int64 [B], the row that self-attention takes queries and keys of
    text_kept: Tensor  # [B,77,D], d_b * text
    text_moved: Tensor  # [E,77,D], T_b text
    words_kept: Tensor  # [B,77,K], d_b * w
    words_moved: Tensor  # [E,77,K], T_b w

    @classmethod
    def of(
        cls,
        text: Tensor,  # [B,77,D]
        source_index: Tensor,  # int64 [B]
        token_transfer: Tensor,  # [B,77,77]: source's tokens, row's tokens
        token_keep: Tensor,  # [B,77]
        self_replace: Tensor,  # [B], 0 or 1
        blend_words: Tensor,  # [B,K,77]
    ) -> Control:
        edited = torch.nonzero(token_transfer.abs().amax((1, 2)))
        rows = edited[:, 0]
        keep, transfer = token_keep[:, :, None], token_transfer.index_select(0, rows)
        words = blend_words.transpose(1, 2)  # [B,77,K]
        return cls(
            edited=edited,
            source=source_index.index_select(0, rows),
            queries=torch.where(self_replace != 0, source_index, torch.arange(source_index.shape[0])),
            text_kept=keep * text,
            text_moved=transfer @ text.index_select(0, rows),
            words_kept=keep * words,
            words_moved=transfer @ words.index_select(0, rows),
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
        control = self.control if self.edited else None
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        asking, values = hidden_states, context
        if control is not None and encoder_hidden_states is None:
            asking = context = hidden_states.index_select(0, control.queries)
        elif control is not None:
            values = control.text_kept
        q, k, v = attn.to_q(asking), attn.to_k(context), attn.to_v(values)  # [B,tokens,C]
        mixed = attend(q, k, v, attn.heads, attn.scale)
        if control is not None and encoder_hidden_states is not None:
            moved = attn.to_v(control.text_moved)  # [E,77,C]
            if self.blends:
                weights = attention_map(q, k, attn)
                self.map = blend_map(weights, control)
                own = weights.index_select(0, control.source)  # [E,heads,N,77]
            else:
                own = attention_map(q.index_select(0, control.source), k.index_select(0, control.source), attn)
            mixed = add_rows(mixed, control.edited, weigh(own, moved, attn.heads, attn.to_v.out_features // attn.heads))
        mixed = attn.to_out[0](mixed)  # [B,N,C]
        return mixed / attn.rescale_output_factor if attn.rescale_output_factor != 1 else mixed


def blend_map(weights: Tensor, control: Control) -> Tensor:
    """A'_b w, a mean over heads [B,N,K], of A_b [B,heads,N,77]. Words first, since they are few."""
    kept = (weights @ control.words_kept[:, None]).mean(1)
    of_source = weights.index_select(0, control.source)  # [E,heads,N,77]
    return add_rows(kept, control.edited, (of_source @ control.words_moved[:, None]).mean(1))


def check_plain(name: str, attn: Any) -> None:
    """InputError for an attention layer with parts that `ControlAttention` does not compute."""
    extras = ("spatial_norm", "group_norm", "norm_q", "norm_k", "norm_cross", "added_kv_proj_dim")
    found = [part for part in extras if getattr(attn, part, None)]
    found += ["a bias of its values"] if getattr(attn.to_v, "bias", None) is not None else []
    if found or attn.residual_connection:
        raise InputError(f"unet.{name}", f"attention with {', '.join(found) or 'a shortcut'}", "plain attention")


def attention_map(q: Tensor, k: Tensor, attn: Any) -> Tensor:
    """softmax(q k^T scale) [B,heads,N,M] of q [B,N,C] and k [B,M,C]; Vaswani et al. 2017, eq. 1."""
    q, k = (split_heads(x, attn.heads, attn.to_q.out_features // attn.heads) for x in (q, k))
    dtype = q.dtype
    if attn.upcast_attention:  # Stable Diffusion 2.x: the product overflows in fp16
        q, k = q.float(), k.float()
    scores = (q * attn.scale) @ k.transpose(-1, -2)
    if attn.upcast_softmax:
        scores = scores.float()
    return scores.softmax(-1).to(dtype)


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
    ) -> tuple[Tensor, Tensor, Tensor]:
        """noise_pred [B,C,h,w], blend_maps [B,K,h_a,w_a], deep_features [B,F,h,w]."""
        control = Control.of(encoder_hidden_states, source_index, token_transfer, token_keep, self_replace, blend_words)
        added = None if text_embeds is None else {"text_embeds": text_embeds, "time_ids": time_ids}
        before = self.unet.attn_processors
        self.unet.set_attn_processor({f"{name}.processor": one for name, one in self.processors.items()})
        try:
            for processor in self.processors.values():
                processor.control = control
            with watched(self.unet) as deep:
                noise = self.unet(sample, timestep, encoder_hidden_states, added_cond_kwargs=added, return_dict=False)
            return noise[0], self.blend_maps(sample), deep[0]
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
