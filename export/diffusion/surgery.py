"""Attention-map surgery: every map is made, edited and applied, row by row, as Prompt-to-Prompt's own code does.

Slow and plain: the reference that the exported UNet is compared with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limner.export.diffusion.cached import deep_channels, replaced
from limner.export.diffusion.layers import ControlledLayers, attention_layers

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


class Surgeon:
    """A diffusers attention processor that edits the maps of one layer."""

    def __init__(self, control: dict[str, Tensor], edited: bool, maps: list[Tensor] | None) -> None:
        self.control, self.edited, self.maps = control, edited, maps

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
                 attention_mask: Tensor | None = None, **_: Any) -> Tensor:  # fmt: skip
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            attn.head_to_batch_dim(project(x), out_dim=4)
            for project, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )  # [B,heads,tokens,c]
        probabilities = torch.softmax(torch.einsum("bhnc,bhmc->bhnm", q.float(), k.float()) * attn.scale, -1)
        if self.edited:
            rows = range(len(probabilities))
            if encoder_hidden_states is None:
                probabilities = torch.stack([self.own_or_source(probabilities, b) for b in rows])
            else:
                probabilities = torch.stack([self.transferred(probabilities, b) for b in rows])
        if self.maps is not None:
            words = self.control["blend_words"]  # [B,K,77]
            self.maps.append(torch.einsum("bhnm,bkm->bkn", probabilities, words) / probabilities.shape[1])
        mixed = torch.einsum("bhnm,bhmc->bhnc", probabilities.to(v.dtype), v)
        mixed = attn.to_out[0](mixed.transpose(1, 2).flatten(2))
        return mixed / attn.rescale_output_factor

    def own_or_source(self, maps: Tensor, row: int) -> Tensor:
        source = int(self.control["source_index"][row])
        return maps[source] if self.control["self_replace"][row] else maps[row]

    def transferred(self, maps: Tensor, row: int) -> Tensor:
        """A'_b = A_s T_b + A_b diag(d_b)."""
        source = int(self.control["source_index"][row])
        moved = maps[source] @ self.control["token_transfer"][row]
        kept = maps[row] @ torch.diag(self.control["token_keep"][row])
        return moved + kept


@torch.no_grad()
def operate(
    unet: UNet2DConditionModel,
    layers: ControlledLayers,
    sample: Tensor,
    timestep: Tensor,
    states: Tensor,
    control: dict[str, Tensor],  # the control inputs by name
    added: dict[str, Tensor] | None = None,
    deep_features: Tensor | None = None,  # in place of what the last residual block gets from the deeper layers
) -> tuple[Tensor, Tensor, Tensor]:
    """noise_pred [B,C,h,w], blend_maps [B,K,h_a,w_a], deep_features [B,F,h,w]."""
    maps: list[Tensor] = []
    before = unet.attn_processors
    unet.set_attn_processor({
        f"{name}.processor": Surgeon(control, name in layers.edited, maps if name in layers.blends else None)
        for name in attention_layers(unet)
    })  # fmt: skip
    count, taken = deep_channels(unet), []

    def last(hidden: Tensor) -> Tensor:
        taken.append(hidden[:, :count])
        return hidden if deep_features is None else torch.cat([deep_features, hidden[:, count:]], 1)

    try:
        with replaced(unet, last):
            noise = unet(sample, timestep, states, added_cond_kwargs=added, return_dict=False)[0]
    finally:
        unet.set_attn_processor(before)
    mean = torch.stack(maps).mean(0)  # [B,K,N]
    sides = sample.shape[2] // layers.shrink, sample.shape[3] // layers.shrink
    return noise, mean.unflatten(2, sides), taken[0]
