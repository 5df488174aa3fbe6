"""Latent diffusion (Rombach et al. 2022): the networks from configs, in diffusers' classes and folder format.

A finished model is a folder that `diffusers` reads as a StableDiffusionPipeline: vae/, unet/, text_encoder/,
tokenizer/, scheduler/. So a folder of Stable Diffusion 1.x is the same code at another size.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from limner.runtime.bundle.vocabulary import FILE as WORDS
from limner.runtime.errors import InputError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPModel, CLIPTextModel

# The noise schedule of Stable Diffusion 1.x, so that every scheduler for it applies.
SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_schedule": "scaled_linear",
    "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False, "set_alpha_to_one": False,
    "steps_offset": 1, "timestep_spacing": "leading", "prediction_type": "epsilon", "trained_betas": None,
}  # fmt: skip
WEIGHTS = "diffusion_pytorch_model.safetensors"
HARMLESS = ("position_ids",)  # buffers that older libraries stored and newer ones count out themselves


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of an AutoencoderKL; every width but the last halves the picture once."""

    size: int = 128  # pixels a side
    widths: tuple[int, ...] = (16, 24, 48, 64)  # channels, full resolution first
    blocks: int = 1  # residual blocks a level of the encoder; the decoder has one more
    latent_channels: int = 4  # of the latents
    groups: int = 8  # of the norms

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or any(width % self.groups for width in self.widths):
            raise ValueError(f"widths {self.widths}; allowed: two or more multiples of groups = {self.groups}")
        if self.size % self.factor:
            raise ValueError(f"size {self.size}; allowed: a multiple of {self.factor}")

    @property
    def factor(self) -> int:
        """Pixels per latent, along one side."""
        return 2 ** (len(self.widths) - 1)


@dataclass(frozen=True)
class DenoiserConfig:
    """Sizes of a UNet2DConditionModel with attention at every level; latents halve between levels."""

    widths: tuple[int, ...] = (32, 64, 128)  # channels of the UNet at each size
    blocks: int = 1  # residual blocks a level on the way down; one more on the way up
    head_width: int = 32  # channels of one attention head
    groups: int = 16  # of the norms

    def __post_init__(self) -> None:
        for name, divisor in (("head_width", self.head_width), ("groups", self.groups)):
            if not self.widths or any(width % divisor for width in self.widths):
                raise ValueError(f"widths {self.widths}; allowed: multiples of {name} = {divisor}")


def build_autoencoder(config: AutoencoderConfig) -> AutoencoderKL:
    """An AutoencoderKL with fresh weights; its scaling_factor is 1 until `save_autoencoder` gets the measured one."""
    from diffusers import AutoencoderKL

    levels = len(config.widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.widths, layers_per_block=config.blocks, latent_channels=config.latent_channels,
        norm_num_groups=config.groups, sample_size=config.size, scaling_factor=1.0,
    )  # fmt: skip


def build_denoiser(config: DenoiserConfig, latent_size: int, channels: int, text_width: int) -> UNet2DConditionModel:
    """A UNet with fresh weights for latents [N,channels,latent_size,latent_size] and token states [N,77,text_width]."""
    from diffusers import UNet2DConditionModel

    levels = len(config.widths)
    if latent_size % 2 ** (levels - 1):
        raise InputError("model.widths", f"{levels} levels for latents of {latent_size}", "levels that halve them")
    # diffusers' attention_head_dim counts heads here (its documented misnomer)
    return UNet2DConditionModel(
        sample_size=latent_size, in_channels=channels, out_channels=channels,
        down_block_types=("CrossAttnDownBlock2D",) * levels, up_block_types=("CrossAttnUpBlock2D",) * levels,
        block_out_channels=config.widths, layers_per_block=config.blocks, cross_attention_dim=text_width,
        attention_head_dim=tuple(width // config.head_width for width in config.widths),
        norm_num_groups=config.groups,
    )  # fmt: skip


def text_encoder_of(clip: CLIPModel) -> CLIPTextModel:
    """CLIP's text tower as the CLIPTextModel of a pipeline folder, weights copied."""
    from transformers import CLIPTextModel

    config: Any = clip.config
    encoder: Any = CLIPTextModel(config.text_config)
    state = clip.text_model.state_dict()
    own = encoder.state_dict()
    prefix = "text_model." if all(key.startswith("text_model.") for key in own) else ""
    encoder.load_state_dict({f"{prefix}{key}": value for key, value in state.items() if f"{prefix}{key}" in own})
    return encoder.eval().requires_grad_(False)


def save_autoencoder(folder: Path, network: AutoencoderKL, scaling_factor: float) -> None:
    """Write config.json and the weights in fp16, in diffusers' format; the network itself stays fp32."""
    network.register_to_config(scaling_factor=scaling_factor)
    _save(network, folder)


def load_autoencoder(folder: str | Path) -> AutoencoderKL:
    """A frozen AutoencoderKL in fp32 from a folder of diffusers' format."""
    from diffusers import AutoencoderKL

    _require(Path(folder), "AutoencoderKL")
    network = load_strictly(AutoencoderKL, Path(folder))
    return network.eval().requires_grad_(False)


def load_denoiser(folder: str | Path) -> UNet2DConditionModel:
    """A UNet2DConditionModel in fp32 from a folder of diffusers' format."""
    from diffusers import UNet2DConditionModel

    _require(Path(folder), "UNet2DConditionModel")
    return load_strictly(UNet2DConditionModel, Path(folder))


def load_strictly(kind: Any, folder: Path, field: str = "checkpoint", **options: Any) -> Any:
    """A diffusers or transformers network in fp32 from its folder's safetensors files, every tensor accounted for.

    Raises InputError for a file that does not load, and naming the first ten keys of each kind that the folder lacks,
    has beside the network's own, or has in another shape: what is missing would be random numbers.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # of a second or two, on a stderr that says what matters
    kept = {
        "torch_dtype": torch.float32,
        "local_files_only": True,
        "use_safetensors": True,
        "ignore_mismatched_sizes": True,
        **options,
    }  # fmt: skip; mismatches are named below
    if hasattr(kind, "load_config"):  # diffusers says much about a package that would spare memory
        kept["low_cpu_mem_usage"] = False
    try:
        network, seen = kind.from_pretrained(str(folder), output_loading_info=True, **kept)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as reason:
        line = (str(reason).strip() or type(reason).__name__).splitlines()[0]
        raise InputError(field, f"{folder}, whose weights do not load ({line[:300]})",
                         f"the weights of a {kind.__name__}") from reason  # fmt: skip
    wrong = {"missing": seen["missing_keys"], "unexpected": seen["unexpected_keys"], "of another shape":
             [key if isinstance(key, str) else key[0] for key in seen["mismatched_keys"]]}  # fmt: skip
    wrong = {what: [key for key in keys if not key.endswith(HARMLESS)] for what, keys in wrong.items()}
    named = [f"{len(keys)} {what}: {first_ten(keys)}" for what, keys in wrong.items() if keys]
    if named:
        raise InputError(
            field, f"{folder} with keys {'; '.join(named)}", f"the weights of a {kind.__name__}, all of them"
        )
    return network


def first_ten(keys: Iterable[str]) -> str:
    found = sorted(keys)
    return ", ".join(found[:10]) + (", ..." if len(found) > 10 else "")


def save_pipeline(
    folder: Path,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoder: Any,  # CLIPTextModel
    tokenizer: Path,  # folder with vocab.json and merges.txt
    scheduler: Mapping[str, Any] = SCHEDULER,
) -> None:
    """Write a folder that diffusers reads as a StableDiffusionPipeline, weights in fp16."""
    _save(unet, folder / "unet")
    _save(vae, folder / "vae")
    _save(text_encoder, folder / "text_encoder")
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    _save_tokenizer(folder / "tokenizer", tokenizer, int(text_encoder.config.max_position_embeddings))
    parts = {"feature_extractor": [None, None], "safety_checker": [None, None], "image_encoder": [None, None],
             "scheduler": ["diffusers", scheduler["_class_name"]], "text_encoder": ["transformers", "CLIPTextModel"],
             "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
             "vae": ["diffusers", "AutoencoderKL"]}  # fmt: skip
    index = {"_class_name": "StableDiffusionPipeline", **parts, "requires_safety_checker": False}
    _write_json(folder / "model_index.json", index)


def _save(network: Any, folder: Path) -> None:
    """config.json and the weights in fp16, under the names that diffusers and transformers look for."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    ours = hasattr(network, "save_config")  # diffusers; transformers keeps its config in an object of its own
    network.save_config(str(folder)) if ours else network.config.save_pretrained(str(folder))
    config = folder / "config.json"  # where it was loaded from says nothing elsewhere
    _write_json(config, {k: v for k, v in json.loads(config.read_text()).items() if k != "_name_or_path"})
    state = {name: tensor.detach().cpu().half().contiguous() for name, tensor in network.state_dict().items()}
    path = folder / (WEIGHTS if ours else "model.safetensors")
    beside = path.with_name(path.name + ".part")
    save_file(state, str(beside), metadata={"format": "pt"})
    beside.chmod(0o644)
    beside.replace(path)


def _save_tokenizer(folder: Path, source: Path, length: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("vocab.json", "merges.txt", WORDS):
        if name != WORDS or (source / name).is_file():  # other people's tokenizers have none
            (folder / name).write_bytes((source / name).read_bytes())
    end = "<|endoftext|>"
    special = {"bos_token": "<|startoftext|>", "eos_token": end, "unk_token": end, "pad_token": end}
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(folder / "tokenizer_config.json",
                {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, **special})  # fmt: skip


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _require(folder: Path, kind: str) -> None:
    """Raise InputError unless the folder's config.json says that it holds a `kind`."""
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError) as reason:
        raise InputError("checkpoint", f"{path}, which does not read", f"a folder of diffusers' {kind}") from reason
    if found != kind:
        raise InputError("checkpoint", f"{folder}, which holds {found!r}", f"a folder of diffusers' {kind}")
    if not any(folder.glob("*.safetensors")):
        raise InputError("checkpoint", f"{folder} without weights", f"config.json beside {WEIGHTS}")
