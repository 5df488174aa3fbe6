"""Tiny diffusion folders with random weights, in the shapes of Stable Diffusion 1.x, 2.x and SDXL."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from limner.runtime.bundle.shipped import checkpoints_folder
from limner.training.avatars.tokens import write_tokenizer
from limner.training.models.diffusion import SCHEDULER, AutoencoderConfig, build_autoencoder, save_pipeline

TEXT_WIDTH, POOLED = 16, 10
SHARED = {"sample_size": 8, "norm_num_groups": 8, "cross_attention_dim": TEXT_WIDTH, "layers_per_block": 1}
UNETS: dict[str, dict[str, Any]] = {
    "sd1": {
        "block_out_channels": (16, 32), "attention_head_dim": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
    "wide": {  # channels enough for minimal filtering, maps of 32 and 16 places a side
        "sample_size": 32, "block_out_channels": (96, 96, 128), "attention_head_dim": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    },
    "sd2": {
        "block_out_channels": (16, 32), "attention_head_dim": (2, 4), "use_linear_projection": True,
        "upcast_attention": True, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
    "sdxl": {
        "block_out_channels": (16, 32), "attention_head_dim": (2, 4), "use_linear_projection": True,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": POOLED + 6 * 8,
    },
}  # fmt: skip


def tiny_unet(kind: str, seed: int = 0) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(**{**SHARED, **UNETS[kind]}).eval().requires_grad_(False)


def tiny_vae() -> AutoencoderKL:
    torch.manual_seed(1)
    return build_autoencoder(AutoencoderConfig(size=16, widths=(8, 16), groups=4)).eval().requires_grad_(False)


def write_folder(root: Path, kind: str = "sd1", words: bool = False) -> Path:
    """A folder in diffusers' format; "sd2" predicts v and fills texts up with "!", "sdxl" has two text encoders.

    Tokens are letters, or with `words` those of the avatars' CLIP, so that whole sentences fit.
    """
    tokenizer = root.parent / "tokens"
    merges = (checkpoints_folder() / "avatars" / "clip" / "merges.txt").read_text(encoding="utf-8") if words else ""
    pairs = (line.split(" ") for line in merges.splitlines()[1:] if line)
    vocabulary = write_tokenizer(tokenizer, [(a, b) for a, b in pairs])
    torch.manual_seed(2)
    config: dict[str, Any] = {
        "vocab_size": vocabulary, "hidden_size": TEXT_WIDTH // (2 if kind == "sdxl" else 1), "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 77,
        "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1,
        "hidden_act": "quick_gelu" if kind == "sd1" else "gelu",
    }  # fmt: skip
    text = CLIPTextModel(CLIPTextConfig(**config))
    vae = tiny_vae()
    vae.register_to_config(scaling_factor=0.2)
    scheduler = {**SCHEDULER, "prediction_type": "v_prediction" if kind == "sd2" else "epsilon"}
    save_pipeline(root, tiny_unet(kind), vae, text.train(False), tokenizer, scheduler)
    (root / "README.md").write_text("---\nlicense: openrail\n---\n# A model\n", encoding="utf-8")
    if kind == "sdxl":
        second = CLIPTextConfig(**config | {"num_hidden_layers": 3, "projection_dim": POOLED})
        _add_second(root, CLIPTextModelWithProjection(second).train(False))
    if kind == "sd2":
        for name in ("tokenizer_config.json", "special_tokens_map.json"):  # as Stability's own
            path = root / "tokenizer" / name
            path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "pad_token": "!"}))
    return root


def _add_second(root: Path, encoder: CLIPTextModelWithProjection) -> None:
    """The second text encoder of SDXL, its tokenizer, which fills up with "!", and the index of such a pipeline."""
    encoder.save_pretrained(root / "text_encoder_2")
    shutil.copytree(root / "tokenizer", root / "tokenizer_2")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = root / "tokenizer_2" / name
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "pad_token": "!"}))
    index = json.loads((root / "model_index.json").read_text(encoding="utf-8"))
    index |= {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True,
              "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
              "tokenizer_2": ["transformers", "CLIPTokenizer"]}  # fmt: skip
    for name in ("safety_checker", "requires_safety_checker"):
        index.pop(name)
    (root / "model_index.json").write_text(json.dumps(index))
