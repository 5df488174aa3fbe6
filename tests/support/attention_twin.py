"""A diffusion bundle's graphs as torch functions: the twin of the exported UNet with its attention control.

The controlled attention is the fused form, which materialises no map:
    A'V = SDPA(Q_s, K_s, T V) + SDPA(Q_b, K_b, diag(d) V), and a blend map is one more column of V.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from torch.nn.functional import scaled_dot_product_attention as sdpa

WIDTH, CHANNELS = 32, 4
BLEND_LAYERS = ("down_blocks.0.attentions.0", "up_blocks.0.attentions.0", "up_blocks.0.attentions.1")


def tiny_unet(seed: int = 0) -> UNet2DConditionModel:
    """A random UNet of one level whose attention is sharp enough to matter."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(16,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,  # how many heads, as Stable Diffusion 1.x has it
        norm_num_groups=8,
    )
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if name.endswith(("to_q.weight", "to_k.weight")):
                weight.mul_(2.5)
            if "attn2.to_out" in name or "attn2.to_v" in name:
                weight.mul_(2.0)
            if name == "conv_out.weight":
                weight.mul_(0.3)  # latents of a usual size, so that 1e-4 is a tolerance with room
    return unet.eval()


def text_table(vocabulary: int, seed: int = 1) -> torch.Tensor:
    """The text encoder's weights: a vector a token."""
    return torch.randn(vocabulary, WIDTH, generator=torch.Generator().manual_seed(seed))


def token_states(table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """[N,77] -> [N,77,D]: every token sees those before it a little, and its place."""
    states = table[ids]
    places = torch.sin(torch.arange(ids.shape[1])[:, None] * torch.arange(1, WIDTH + 1) * 0.37)
    before = torch.cumsum(states, dim=1) / torch.arange(1, ids.shape[1] + 1)[:, None]
    return states + 0.5 * before + 0.3 * places


class Twin:
    """Runs "text_encoder", "unet" and the VAE (which doubles and halves) like a bundle's sessions."""

    def __init__(self, unet: UNet2DConditionModel, table: torch.Tensor) -> None:
        self.unet = copy.deepcopy(unet)
        names = [f"{name}.processor" for name, _ in attention_layers(unet)]
        self.unet.set_attn_processor({name: Fused(self, name) for name in names})
        self.table = table
        self.control: dict[str, torch.Tensor] = {}
        self.maps: list[torch.Tensor] = []
        self.calls: list[int] = []  # rows of every call of the UNet

    @torch.no_grad()
    def run(
        self, graph: str, /, *, only: Sequence[str] | None = None, **inputs: NDArray[Any]
    ) -> dict[str, NDArray[Any]]:
        arrays = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()}
        if graph == "text_encoder":
            return {"token_states": token_states(self.table, arrays["input_ids"]).numpy()}
        if graph == "vae_decoder":
            return {
                "image": torch.tanh(arrays["latents"][:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3)).numpy()
            }
        if graph == "vae_encoder":
            mean = torch.nn.functional.avg_pool2d(arrays["image"], 8)
            mean = torch.cat([mean, mean[:, :1]], dim=1)
            return {"latent_mean": mean.numpy(), "latent_logvar": torch.zeros_like(mean).numpy()}
        assert graph == "unet"
        self.control, self.maps = arrays, []
        self.calls.append(len(arrays["sample"]))
        output = self.unet(arrays["sample"], arrays["timestep"], arrays["encoder_hidden_states"]).sample
        found = {"noise_pred": output.numpy(), "blend_maps": torch.stack(self.maps).mean(0).numpy()}
        return {name: found[name] for name in only or found}


def attention_layers(unet: UNet2DConditionModel) -> list[tuple[str, Any]]:
    """(name, module) of the attention layers."""
    return [(name, module) for name, module in unet.named_modules() if name.endswith(("attn1", "attn2"))]


class Fused:
    """The attention processor of the contract."""

    def __init__(self, twin: Twin, name: str) -> None:
        self.twin = twin
        self.blends = name.startswith(BLEND_LAYERS)

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        control = self.twin.control
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        batch, tokens, _ = hidden_states.shape

        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.view(batch, x.shape[1], attn.heads, -1).transpose(1, 2)

        q, k, v = heads(attn.to_q(hidden_states)), heads(attn.to_k(context)), heads(attn.to_v(context))
        index = control["source_index"]
        if encoder_hidden_states is None:
            rows = torch.where(control["self_replace"] > 0, index, torch.arange(batch))
            out = sdpa(q[rows], k[rows], v)
        else:
            words = control["blend_words"].transpose(1, 2)[:, None].expand(-1, attn.heads, -1, -1)  # [B,H,77,K]
            width = v.shape[-1]
            v = torch.cat([v, words], dim=-1)
            moved = control["token_transfer"][:, None] @ v
            kept = control["token_keep"][:, None, :, None] * v
            out = sdpa(q[index], k[index], moved) + sdpa(q, k, kept)
            out, maps = out[..., :width], out[..., width:]
            if self.blends:
                side = int(tokens**0.5)
                self.twin.maps.append(maps.mean(1).transpose(1, 2).reshape(batch, -1, side, side))
        out = out.transpose(1, 2).reshape(batch, tokens, -1)
        return attn.to_out[1](attn.to_out[0](out))
