"""CLIP: transformers' CLIPModel from a config, and its two towers as plain functions of tensors.

The towers are what export traces and losses use: the resize is two matrix products, patches are a reshape
and a linear layer, attention is written out. They share the model's weights and equal its own forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from limner.runtime.errors import InputError
from limner.training.models.resample import Resize, bicubic, published_clip

if TYPE_CHECKING:
    from transformers import CLIPModel

# Per-channel mean and standard deviation of pictures in [0,1] (openai/CLIP, clip.py).
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
Preprocess = Literal["correct", "published"]


def build_clip(config: Mapping[str, Any], attention: str = "eager") -> CLIPModel:
    """A CLIPModel with fresh weights from the values of a transformers config.json.

    Raises InputError for a config without text_config and vision_config.
    """
    from transformers import CLIPConfig, CLIPModel

    for part in ("text_config", "vision_config"):
        if not isinstance(config.get(part), Mapping):
            raise InputError(f"clip.{part}", "nothing", "a mapping, as in transformers' CLIPConfig")
    values = {k: v for k, v in config.items() if k not in ("architectures", "model_type", "transformers_version")}
    return CLIPModel(CLIPConfig(**{**values, "attn_implementation": attention}))


def clip_config(
    vocabulary: int,  # tokens; the last two are start and end
    image_size: int = 128,
    patch: int = 16,
    vision_width: int = 192,
    vision_layers: int = 6,
    vision_heads: int = 3,
    text_width: int = 128,
    text_layers: int = 4,
    text_heads: int = 4,
    embedding: int = 256,
    context_length: int = 77,
) -> dict[str, Any]:
    """The config values of a small CLIP in transformers' names."""
    start, end = vocabulary - 2, vocabulary - 1
    return {
        "projection_dim": embedding,
        "text_config": {
            "vocab_size": vocabulary, "hidden_size": text_width, "intermediate_size": 4 * text_width,
            "num_hidden_layers": text_layers, "num_attention_heads": text_heads, "projection_dim": embedding,
            "max_position_embeddings": context_length, "hidden_act": "quick_gelu",
            "bos_token_id": start, "eos_token_id": end, "pad_token_id": end,
        },
        "vision_config": {
            "hidden_size": vision_width, "intermediate_size": 4 * vision_width, "image_size": image_size,
            "num_hidden_layers": vision_layers, "num_attention_heads": vision_heads, "patch_size": patch,
            "projection_dim": embedding, "hidden_act": "quick_gelu",
        },
    }  # fmt: skip


class ClipPixels(nn.Module):
    """Pictures [N,3,size,size] in [-1,1] -> CLIP's pixel values [N,3,image_size,image_size].

    "correct" is antialiased bicubic, [0,1] and CLIP's mean and deviation; "published" is StyleCLIP's own:
    nearest 7 times and average pooling, without any rescaling.
    """

    def __init__(self, size: int, image_size: int, preprocess: Preprocess = "correct") -> None:
        super().__init__()
        if preprocess not in ("correct", "published"):
            raise InputError("preprocess", repr(preprocess), "'correct' or 'published'")
        correct = preprocess == "correct"
        self.resize = Resize(bicubic(size, image_size) if correct else published_clip(size, image_size))
        # (x + 1) / 2 - mean, over std, as one gain and one offset
        gain = torch.tensor([0.5 / s if correct else 1.0 for s in STD]).view(1, 3, 1, 1)
        offset = torch.tensor([(0.5 - m) / s if correct else 0.0 for m, s in zip(MEAN, STD, strict=True)])
        self.register_buffer("gain", gain, persistent=False)
        self.register_buffer("offset", offset.view(1, 3, 1, 1), persistent=False)
        self.rescales = correct

    gain: torch.Tensor
    offset: torch.Tensor

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        image = self.resize(image)
        return image * self.gain + self.offset if self.rescales else image


def unit(x: torch.Tensor) -> torch.Tensor:
    """Rows of x [N,C] at length 1."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def attend(layer: Any, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """One pre-norm transformer layer of CLIP on x [N,T,C]; `mask` [T,T] is added to the scores."""
    attention, mlp = layer.self_attn, layer.mlp
    heads = attention.num_heads
    y = layer.layer_norm1(x)
    q, k, v = (
        project(y).unflatten(-1, (heads, -1)).transpose(1, 2)  # [N,heads,T,C/heads]
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    scores = torch.matmul(q * attention.scale, k.transpose(-1, -2))  # [N,heads,T,T]
    weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
    mixed = torch.matmul(weights, v).transpose(1, 2).flatten(-2)  # [N,T,C]
    x = x + attention.out_proj(mixed)
    return x + mlp.fc2(mlp.activation_fn(mlp.fc1(layer.layer_norm2(x))))


class ClipImageTower(nn.Module):
    """Pictures [N,3,size,size] in [-1,1] -> unit image features [N,C]."""

    def __init__(self, model: CLIPModel, size: int, preprocess: Preprocess = "correct") -> None:
        super().__init__()
        config: Any = model.config
        self.vision, self.projection = model.vision_model, model.visual_projection
        image_size = config.vision_config.image_size
        self.patch = int(config.vision_config.patch_size)
        self.pixels = ClipPixels(size, int(image_size), preprocess)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return unit(self.projection(self.pooled(self.pixels(image))))

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """CLIP's pixel values [N,3,S,S] -> class token and patches [N,1+P,W] before the transformer."""
        embeddings, p = self.vision.embeddings, self.patch
        count = pixels.shape[-1] // p
        blocks = pixels.unflatten(3, (count, p)).unflatten(2, (count, p))  # [N,3,count,p,count,p]
        flat = blocks.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # [N,P,3pp]
        patches = F.linear(flat, embeddings.patch_embedding.weight.flatten(1))
        first = embeddings.class_embedding + torch.zeros_like(patches[:, :1])  # [N,1,W]
        x = torch.cat([first, patches], dim=1) + embeddings.position_embedding.weight
        return self.vision.pre_layrnorm(x)

    def hidden(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """CLIP's pixel values [N,3,S,S] -> class token and patches [N,1+P,W] after each layer."""
        x, found = self.tokens(pixels), []
        for layer in self.vision.encoder.layers:
            x = attend(layer, x, None)
            found.append(x)
        return found

    def pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        """CLIP's pixel values [N,3,S,S] -> [N,W], the class token before the projection."""
        return self.vision.post_layernorm(self.hidden(pixels)[-1][:, 0])

    def maps(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Patch activations [N,P,W] after each layer: features for a perceptual loss."""
        return [x[:, 1:] for x in self.hidden(self.pixels(image))]


class ClipTextTower(nn.Module):
    """Token ids int64 [N,77] (or fewer columns) -> unit text features [N,C], read at the first end token."""

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        config: Any = model.config
        self.text, self.projection = model.text_model, model.text_projection
        self.end = int(config.text_config.eos_token_id)
        length = int(config.text_config.max_position_embeddings)
        mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    mask: torch.Tensor

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return unit(self.projection(self.pooled(input_ids)))

    def pooled(self, input_ids: torch.Tensor) -> torch.Tensor:
        """ids [N,T] -> [N,W] at each row's end token, before the projection."""
        embeddings, length = self.text.embeddings, input_ids.shape[1]
        x = embeddings.token_embedding(input_ids) + embeddings.position_embedding.weight[:length]
        for layer in self.text.encoder.layers:
            x = attend(layer, x, self.mask[:length, :length].to(x.dtype))
        x = self.text.final_layer_norm(x)
        if self.end == 2:  # OpenAI's own files name a wrong end token: its id is the largest in the row
            place = input_ids.argmax(dim=1)
        else:
            place = (input_ids == self.end).int().argmax(dim=1)
        return torch.gather(x, 1, place.view(-1, 1, 1).expand(-1, 1, x.shape[-1]))[:, 0]


__all__ = [
    "MEAN",
    "STD",
    "ClipImageTower",
    "ClipPixels",
    "ClipTextTower",
    "attend",
    "build_clip",
    "clip_config",
    "unit",
]
