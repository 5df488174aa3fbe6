"""CLIP's image tower rewritten for inference engines; same parameters, same features.

Against `ClipImageTower`, which is the reference in the tests:

- queries, keys and values are one product, with the normalisation's weight and bias and the scale of the queries
  folded into its matrix (when the graph is loaded);
- of the last layer only the class token is computed, since nothing else is read.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limner.training.models.clip import ClipImageTower, unit


class FastClipImage(nn.Module):
    """Pictures [N,3,size,size] in [-1,1] -> unit features [N,C]."""

    def __init__(self, tower: ClipImageTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, image: Tensor) -> Tensor:
        tower = self.tower
        x = tower.tokens(tower.pixels(image))  # [N,T,W]
        *layers, last = tower.vision.encoder.layers
        for layer in layers:
            x = feed_forward(layer, x + attention(layer, x))
        x = feed_forward(last, x[:, :1] + attention(last, x, queries=1))
        return unit(tower.projection(tower.vision.post_layernorm(x[:, 0])))


def attention(layer: Any, x: Tensor, queries: int | None = None) -> Tensor:
    """Self-attention of a pre-norm layer on x [N,T,W] -> [N,queries,W]; None asks for all tokens."""
    block = layer.self_attn
    heads = block.num_heads
    matrix = torch.cat([block.q_proj.weight * block.scale, block.k_proj.weight, block.v_proj.weight])  # [3W,W]
    offset = torch.cat([block.q_proj.bias * block.scale, block.k_proj.bias, block.v_proj.bias])
    mixed = normed_linear(layer.layer_norm1, x, matrix, offset)  # [N,T,3W]
    q, k, v = mixed.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # [N,heads,T,W/heads]
    weights = torch.softmax(torch.matmul(q[:, :, :queries], k.transpose(-1, -2)), dim=-1)
    return block.out_proj(torch.matmul(weights, v).transpose(1, 2).flatten(-2))


def feed_forward(layer: Any, x: Tensor) -> Tensor:
    """x plus the layer's perceptron of x [N,T,W]."""
    hidden = normed_linear(layer.layer_norm2, x, layer.mlp.fc1.weight, layer.mlp.fc1.bias)
    return x + layer.mlp.fc2(layer.mlp.activation_fn(hidden))


def normed_linear(norm: nn.LayerNorm, x: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """matrix norm(x) + offset with the norm's weight and bias folded into both."""
    y = F.layer_norm(x, norm.normalized_shape, eps=norm.eps)
    return F.linear(y, matrix * norm.weight, offset + torch.mv(matrix, norm.bias))
