"""CLIP from OpenAI's .pt, a TorchScript archive read as data, and from folders of Hugging Face's; vision transformers.

openai/CLIP, clip/model.py (names and sizes) and transformers' CLIPModel, whose names we keep: queries, keys and values
lie in one matrix there and in three here, projections are transposed. OpenAI's archive has no tokenizer: it is given
beside it. Hugging Face's configs of these models name a wrong end token, 2; it becomes the vocabulary's last.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from limner.runtime.errors import InputError
from limner.runtime.schema import read_json
from limner.training.importers.files.opening import Foreign, open_foreign
from limner.training.importers.files.pickles import Refused
from limner.training.importers.states import (
    Imported,
    Options,
    as_tensors,
    count,
    flat,
    script_state,
    shape,
)
from limner.training.importers.tokenizer import read_tokenizer

WHAT = "OpenAI CLIP .pt (ViT)"
WHAT_FOLDER = "folder of a Hugging Face CLIP"
HEAD = 64  # channels of an attention head, in all of OpenAI's models
EXTRAS = ("input_resolution", "context_length", "vocab_size", "attn_mask")  # numbers, and the causal mask of each layer
PARTS = {
    "attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
}  # fmt: skip
NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)")
INSIDE = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")


def recognises(foreign: Foreign) -> bool:
    state = _state(foreign)
    return state is not None and "visual.conv1.weight" in state and "token_embedding.weight" in state


def _state(foreign: Foreign) -> dict[str, Any] | None:
    if foreign.format == "script":
        return script_state(foreign.content)
    content = foreign.content
    inner = content.get("state_dict") if isinstance(content, Mapping) else None
    return flat(inner) or flat(content)


def convert(foreign: Foreign, options: Options) -> Imported:
    state = _state(foreign)
    if state is None:
        raise Refused("a file without CLIP's weights")
    if "visual.proj" not in state:
        raise Refused("a CLIP with a ResNet for pictures, not a vision transformer")
    config = read_config(state)
    tensors = new_names(
        as_tensors({key: value for key, value in state.items() if key.rpartition(".")[2] not in EXTRAS})
    )
    files = read_tokenizer(options.tokenizer, config["text_config"]["vocab_size"]) if options.tokenizer else {}
    return _imported(config, tensors, "CLIP (OpenAI)", files)


def _imported(config: dict[str, Any], tensors: dict[str, Tensor], title: str, files: dict[str, bytes]) -> Imported:
    vision, text = config["vision_config"], config["text_config"]
    facts = {"pixels a side": vision["image_size"], "pixels a patch": vision["patch_size"],
             "layers of pictures and text": f"{vision['num_hidden_layers']}, {text['num_hidden_layers']}",
             "tokens": text["vocab_size"], "features": config["projection_dim"]}  # fmt: skip
    notes = () if files else ("There is no tokenizer beside these weights: import them again with --tokenizer.",)
    return Imported("clip", "clip", config, tensors, title, facts, notes, files)


def read_config(state: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config of an OpenAI state dict, by the shapes that OpenAI's own build_model reads."""
    width, _, patch, _ = shape(state, "visual.conv1.weight", 4)
    places = shape(state, "visual.positional_embedding", 2)[0]
    length, text_width = shape(state, "positional_embedding", 2)
    vocabulary, embedding = shape(state, "token_embedding.weight", 2)[0], shape(state, "text_projection", 2)[1]
    shape(state, "visual.proj", 2)
    grid = math.isqrt(places - 1)
    if grid * grid != places - 1 or width % HEAD or text_width % HEAD:
        raise Refused(f"a CLIP of {places - 1} patches and widths {width} and {text_width}")
    tower = {"projection_dim": embedding, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    return {
        "projection_dim": embedding,
        "text_config": {
            "vocab_size": vocabulary, "hidden_size": text_width, "num_attention_heads": text_width // HEAD,
            "num_hidden_layers": count(state, "transformer.resblocks.{}.attn.in_proj_weight"),
            "intermediate_size": shape(state, "transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
            "max_position_embeddings": length, **_special(vocabulary), **tower,
        },
        "vision_config": {
            "hidden_size": width, "num_attention_heads": width // HEAD, "patch_size": patch,
            "num_hidden_layers": count(state, "visual.transformer.resblocks.{}.attn.in_proj_weight"),
            "intermediate_size": shape(state, "visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
            "image_size": grid * patch, **tower,
        },
    }  # fmt: skip


def _special(vocabulary: int) -> dict[str, int]:
    """The last two tokens are start and end; texts are padded by the end, which a causal mask never shows."""
    return {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1}


def new_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's state dict in transformers' names; a key that fits nowhere keeps its own."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if inside := INSIDE.fullmatch(key):
            layer = f"{'vision' if inside[1] else 'text'}_model.encoder.layers.{inside[2]}.self_attn"
            for name, part in zip("qkv", value.chunk(3), strict=True):
                found[f"{layer}.{name}_proj.{inside[3]}"] = part.clone()
        elif (block := BLOCK.fullmatch(key)) and block[3] in PARTS:
            tower = "vision" if block[1] else "text"
            found[f"{tower}_model.encoder.layers.{block[2]}.{PARTS[block[3]]}.{block[4]}"] = value
        else:
            projects = key in ("visual.proj", "text_projection")
            found[NAMES.get(key, key)] = value.t().contiguous() if projects else value
    return found


# --- Hugging Face ---------------------------------------------------------------------------------------


def recognises_folder(foreign: Foreign) -> bool:
    path = foreign.path / "config.json"
    if foreign.format != "folder" or not path.is_file():
        return False
    config = read_json(path, "config.json")
    return isinstance(config, dict) and {"text_config", "vision_config"} <= set(config)


def convert_folder(foreign: Foreign, options: Options) -> Imported:
    folder = foreign.path
    given = read_json(folder / "config.json", "config.json")
    files = [folder / name for name in ("model.safetensors", "pytorch_model.bin")]
    weights = next((path for path in files if path.is_file()), None)
    if weights is None:
        raise InputError("file", f"{folder.name!r} without weights", "model.safetensors or pytorch_model.bin beside it")
    state = flat(open_foreign(weights).content)
    if state is None:
        raise Refused(f"a folder whose {weights.name} is no state dict")
    config = hugging_face_config(given, state)
    tensors = as_tensors({key: value for key, value in state.items() if not key.endswith("position_ids")})
    source = options.tokenizer or folder
    files_beside = read_tokenizer(source, config["text_config"]["vocab_size"])
    return _imported(config, tensors, "CLIP (Hugging Face)", files_beside)


def hugging_face_config(given: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config.json that our towers read, its defaults filled in by transformers."""
    from transformers import CLIPConfig

    try:
        whole = CLIPConfig(**{k: v for k, v in given.items() if k not in ("architectures", "model_type")})
    except (TypeError, ValueError, AttributeError) as reason:
        raise Refused(f"a folder whose config.json does not fit CLIP ({reason})") from reason
    text: Any = whole.text_config
    vision: Any = whole.vision_config
    embedding = int(whole.projection_dim or 0)
    for tower in (text, vision):
        if tower.hidden_act not in ("quick_gelu", "gelu") or tower.layer_norm_eps != 1e-5:
            raise Refused(f"a CLIP with {tower.hidden_act} and layer_norm_eps {tower.layer_norm_eps}")
    for tower, name in ((text, "text"), (vision, "vision")):
        layers = count(state, f"{name}_model.encoder.layers.{{}}.mlp.fc1.weight")
        if layers != tower.num_hidden_layers:
            raise Refused(f"a CLIP of {layers} {name} layers whose config.json says {tower.num_hidden_layers}")
    vocabulary = shape(state, "text_model.embeddings.token_embedding.weight", 2)[0]
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
             "layer_norm_eps")  # fmt: skip
    special = _special(vocabulary)
    if text.eos_token_id not in (2, None):
        special["eos_token_id"] = int(text.eos_token_id)
    return {
        "projection_dim": embedding,
        "text_config": {
            **{name: getattr(text, name) for name in names}, "vocab_size": vocabulary, **special,
            "max_position_embeddings": text.max_position_embeddings, "projection_dim": embedding,
        },
        "vision_config": {
            **{name: getattr(vision, name) for name in names}, "image_size": vision.image_size,
            "patch_size": vision.patch_size, "projection_dim": embedding,
        },
    }  # fmt: skip
