"""Prompt-to-Prompt by surgery on materialised attention maps, in torch, as the published code does it.

Written from the paper and the published notebooks, with nothing of the runtime in it: maps of all heads are made,
the conditional half is cut into source and edits, swapped, mixed and put back; the maps of the local edit are stored
over the steps. It is the reference that the runtime is compared with. Word places and aligners are given by hand.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel

from support.attention_twin import BLEND_LAYERS, attention_layers


@dataclass
class Controller:
    """AttentionReplace, AttentionRefine and AttentionReweight in one; E edits of one source."""

    steps: int
    cross_alpha: torch.Tensor  # [steps + 1,E,77]
    self_range: tuple[int, int]
    mapper: torch.Tensor | None = None  # word swap: [E,77,77]
    refine: tuple[torch.Tensor, torch.Tensor] | None = (
        None  # refinement: indices [E,77] with -1 for none, alphas [E,77]
    )
    equalizer: torch.Tensor | None = None  # re-weighting: [E,77]
    blend: "Blend | None" = None
    layers: tuple[str, ...] = BLEND_LAYERS  # whose maps the blend takes
    step: int = 0
    store: list[torch.Tensor] = field(default_factory=list)  # [B,H,h,w,77] of the blend layers, summed over steps
    fresh: list[torch.Tensor] = field(default_factory=list)

    def __call__(self, probs: torch.Tensor, is_cross: bool, name: str, heads: int) -> torch.Tensor:
        """probs [2(E+1)*H,P,n] of one layer, the unconditional half first."""
        half = probs.shape[0] // 2
        edited = self.edit(probs[half:].reshape(-1, heads, *probs.shape[1:]), is_cross)
        if is_cross and name.startswith(self.layers):
            side = int(probs.shape[1] ** 0.5)
            self.fresh.append(edited.reshape(*edited.shape[:2], side, side, -1))
        return torch.cat([probs[:half], edited.reshape(half, *probs.shape[1:])])

    def edit(self, attention: torch.Tensor, is_cross: bool) -> torch.Tensor:
        """[E+1,H,P,n] -> the same, edited."""
        base, others = attention[0], attention[1:]
        if is_cross:
            alpha = self.cross_alpha[self.step][:, None, None, :]
            others = self.cross(base, others) * alpha + (1 - alpha) * others
        elif self.self_range[0] <= self.step < self.self_range[1]:
            others = base[None].expand_as(others)
        return torch.cat([base[None], others])

    def cross(self, base: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        result = base[None].expand_as(others)
        if self.mapper is not None:
            result = torch.einsum("hpw,ewn->ehpn", base, self.mapper)
        if self.refine is not None:
            indices, alphas = self.refine
            taken = torch.stack([base[:, :, index] for index in indices])
            result = taken * alphas[:, None, None] + others * (1 - alphas[:, None, None])
        if self.equalizer is not None:
            result = result * self.equalizer[:, None, None, :]
        return result

    def between_steps(self) -> None:
        if not self.store:
            self.store = self.fresh
        else:
            self.store = [old + new for old, new in zip(self.store, self.fresh, strict=True)]
        self.fresh = []
        self.step += 1


@dataclass
class Blend:
    """LocalBlend with subtracted words and a start; words [E+1,77]."""

    words: torch.Tensor
    start: int
    threshold: float = 0.3
    subtract: torch.Tensor | None = None
    subtract_threshold: float = 0.3

    def mask(self, store: list[torch.Tensor], words: torch.Tensor, pool: bool, size: Any) -> torch.Tensor:
        maps = torch.cat(store, dim=1)  # layers and heads together
        maps = (maps * words[:, None, None, None, :]).sum(-1).mean(1, keepdim=True)
        if pool:
            maps = F.max_pool2d(maps, 3, 1, 1)
        maps = F.interpolate(maps, size=size)
        maps = maps / maps.amax((2, 3), keepdim=True)
        found = maps.gt(self.threshold if pool else self.subtract_threshold)
        return found[:1] | found

    def __call__(self, x: torch.Tensor, store: list[torch.Tensor], step: int) -> torch.Tensor:
        if step < self.start:
            return x
        mask = self.mask(store, self.words, True, x.shape[2:])
        if self.subtract is not None:
            mask = mask & ~self.mask(store, self.subtract, False, x.shape[2:])
        return x[:1] + mask.float() * (x - x[:1])


class Surgeon:
    """The attention processor that materialises the maps and lets a controller at them."""

    def __init__(self, controller: Controller | None, name: str) -> None:
        self.controller, self.name = controller, name

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        is_cross = encoder_hidden_states is not None
        context = encoder_hidden_states if is_cross else hidden_states
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(context))
        value = attn.head_to_batch_dim(attn.to_v(context))
        probs = (torch.bmm(query, key.transpose(1, 2)) * attn.scale).softmax(-1)
        if self.controller is not None:
            probs = self.controller(probs, is_cross, self.name, attn.heads)
        out = attn.batch_to_head_dim(torch.bmm(probs, value))
        return attn.to_out[1](attn.to_out[0](out))


@torch.no_grad()
def surgery(
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
    controller: Controller | None,
    start: torch.Tensor,  # [1,C,h,w]
    uncond: torch.Tensor,  # [77,D]
    texts: torch.Tensor,  # [E+1,77,D]
    steps: int,
    scale: float,
    replay: Callable[[int], torch.Tensor] | None = None,  # the source's latents after a step
) -> torch.Tensor:
    """Run text2image_ldm_stable of the published code; return latents [E+1,C,h,w]."""
    names = [f"{name}.processor" for name, _ in attention_layers(unet)]
    unet.set_attn_processor({name: Surgeon(controller, name) for name in names})
    scheduler.set_timesteps(steps)
    members = len(texts)
    context = torch.cat([uncond[None].expand(members, -1, -1), texts])
    latents = start.expand(members, -1, -1, -1)
    for index, timestep in enumerate(scheduler.timesteps):
        free, told = unet(torch.cat([latents] * 2), timestep, context).sample.chunk(2)
        latents = scheduler.step(free + scale * (told - free), timestep, latents).prev_sample
        if replay is not None:
            latents = torch.cat([replay(index)[None], latents[1:]])
        if controller is not None:
            controller.between_steps()
            if controller.blend is not None:
                latents = controller.blend(latents, controller.store, index)
    return latents


def time_words(steps: int, windows: Sequence[dict[Any, tuple[float, float]]]) -> torch.Tensor:
    """get_time_words_attention_alpha: windows of each edit, keys are tuples of token places or "default"."""
    alpha = torch.zeros(steps + 1, len(windows), 77)
    for edit, table in enumerate(windows):
        for places, (first, last) in table.items():
            columns = list(range(77)) if places == "default" else list(places)
            begin, end = int(first * (steps + 1)), int(last * (steps + 1))
            alpha[:, edit, columns] = 0
            alpha[begin:end, edit, columns] = 1
    return alpha
