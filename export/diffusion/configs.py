"""Every key of a folder's configs: used, known to change nothing, or refused by name with its value.

A key that is looked at by nobody would be left out of the export and of the comparison alike, so nothing would show.
Keys of libraries' own (`_class_name`, `_diffusers_version`) begin with an underscore.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner.runtime.diffusion.samplers.by_name import DIFFUSERS_CLASSES, default_sampler, make_sampler
from limner.runtime.diffusion.samplers.schedule import SchedulerConfig
from limner.runtime.errors import BundleError, InputError, nearest
from limner.runtime.schema import read_json

INDEX = "model_index.json"
PIPELINES = {"StableDiffusionPipeline": False, "StableDiffusionXLPipeline": True}  # whether it has two text encoders


@dataclass(frozen=True)
class Only:
    """A key that is supported with these values alone."""

    values: tuple[Any, ...]
    why: str = ""


USED = "used"  # the networks are diffusers' and transformers' own, made from it
NOTHING = "nothing"  # changes nothing of what is exported
Rules = Mapping[str, str | Only]

UNET: dict[str, str | Only] = {
    **dict.fromkeys((
        "sample_size", "in_channels", "out_channels", "center_input_sample", "flip_sin_to_cos", "freq_shift",
        "block_out_channels", "layers_per_block", "downsample_padding", "mid_block_scale_factor", "act_fn",
        "norm_num_groups", "norm_eps", "cross_attention_dim", "transformer_layers_per_block",
        "reverse_transformer_layers_per_block", "attention_head_dim", "use_linear_projection",
        "addition_time_embed_dim", "upcast_attention", "resnet_time_scale_shift", "resnet_skip_time_act",
        "resnet_out_scale_factor", "time_embedding_dim", "time_embedding_act_fn", "timestep_post_act",
        "conv_in_kernel", "conv_out_kernel", "projection_class_embeddings_input_dim",
    ), USED),
    "dropout": NOTHING, "addition_embed_type_num_heads": NOTHING,
    "down_block_types": USED, "up_block_types": USED,
    "mid_block_type": Only(("UNetMidBlock2DCrossAttn", None)),
    "only_cross_attention": Only((False,)), "dual_cross_attention": Only((False,)),
    "num_attention_heads": Only((None,), "attention_head_dim holds it in folders of Stable Diffusion"),
    "encoder_hid_dim": Only((None,)), "encoder_hid_dim_type": Only((None,)),
    "class_embed_type": Only((None,), "a class-conditioned UNet needs an input that no method gives"),
    "num_class_embeds": Only((None,), "a class-conditioned UNet needs an input that no method gives"),
    "class_embeddings_concat": Only((False,)),
    "addition_embed_type": Only((None, "text_time")),
    "time_embedding_type": Only(("positional",)),
    "time_cond_proj_dim": Only((None,), "a UNet that is told its guidance scale (a distilled LCM) is not supported; "
                                        "an LCM LoRA is: --lora FILE:1"),
    "attention_type": Only(("default",)), "mid_block_only_cross_attention": Only((None, False)),
    "cross_attention_norm": Only((None,)),
}  # fmt: skip
BLOCKS = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
          "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}  # fmt: skip
VAE: dict[str, str | Only] = {
    **dict.fromkeys((
        "down_block_types", "up_block_types", "block_out_channels", "layers_per_block", "act_fn", "latent_channels",
        "norm_num_groups", "scaling_factor", "shift_factor", "latents_mean", "latents_std", "use_quant_conv",
        "use_post_quant_conv", "mid_block_add_attention",
    ), USED),
    "in_channels": Only((3,)), "out_channels": Only((3,)),
    "sample_size": NOTHING, "force_upcast": NOTHING,  # computed in fp32
}  # fmt: skip
TEXT: dict[str, str | Only] = {
    **dict.fromkeys((
        "vocab_size", "hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers",
        "num_attention_heads", "max_position_embeddings", "hidden_act", "layer_norm_eps",
    ), USED),
    **dict.fromkeys((
        "architectures", "attention_dropout", "dropout", "initializer_range", "initializer_factor", "bos_token_id",
        "eos_token_id", "pad_token_id", "dtype", "torch_dtype", "transformers_version", "output_hidden_states",
        "output_attentions", "return_dict", "chunk_size_feed_forward", "id2label", "label2id", "problem_type",
        "tie_word_embeddings", "use_cache", "use_bfloat16", "torchscript", "attn_implementation", "name_or_path",
    ), NOTHING),
    "model_type": Only(("clip_text_model", "clip")), "is_encoder_decoder": Only((False,)), "is_decoder": Only((False,)),
    "add_cross_attention": Only((False,)), "pruned_heads": Only(({},)),
}  # fmt: skip
TOKENIZER: dict[str, str | Only] = {
    **dict.fromkeys(("pad_token", "model_max_length", "added_tokens_decoder", "extra_special_tokens",
                     "additional_special_tokens"), USED),
    **dict.fromkeys((
        "name_or_path", "special_tokens_map_file", "tokenizer_file", "clean_up_tokenization_spaces", "backend",
        "model_input_names", "processor_class", "is_local", "errors", "use_fast", "legacy", "max_length", "stride",
        "truncation_strategy", "truncation_side", "pad_to_multiple_of", "pad_token_type_id", "local_files_only",
        "split_special_tokens", "spaces_between_special_tokens", "vocab_size", "init_inputs",
    ), NOTHING),
    "tokenizer_class": Only(("CLIPTokenizer", "CLIPTokenizerFast", "TokenizersBackend", "PreTrainedTokenizerFast")),
    "bos_token": Only(("<|startoftext|>",)), "eos_token": Only(("<|endoftext|>",)),
    "unk_token": Only(("<|endoftext|>",)), "do_lower_case": Only((True,)), "add_prefix_space": Only((False, None)),
    "add_bos_token": Only((True,)), "add_eos_token": Only((True,)), "padding_side": Only(("right",)),
}  # fmt: skip
SCHEDULER_NOTHING = frozenset({  # read beside a key that is refused when it is on
    "dynamic_thresholding_ratio", "sample_max_value", "time_shift_type", "base_shift", "max_shift",
    "base_image_seq_len", "max_image_seq_len", "lambda_min", "rho",
    "invert_sigmas", "stochastic_sampling",
})  # fmt: skip
INDEX_KEYS: dict[str, str | Only] = {
    **dict.fromkeys(("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler",
                     "force_zeros_for_empty_prompt"), USED),
    **dict.fromkeys(("safety_checker", "feature_extractor", "requires_safety_checker", "add_watermarker"), NOTHING),
    "image_encoder": Only(((None, None),), "an image prompt is not supported"),
    "requires_aesthetics_score": Only((False, None), "a refiner is not supported"),
}  # fmt: skip


def check_config(part: str, config: Mapping[str, Any], rules: Rules) -> None:
    """InputError naming a key that nobody knows, or a value that is not supported."""
    for key, value in config.items():
        if key.startswith("_"):
            continue
        rule = rules.get(key)
        where = f"model.{part}.{key}"
        if rule is None:
            raise InputError(where, f"{_short(value)}, a key that nothing here reads",
                             "the keys of the published models", nearest(key, rules))  # fmt: skip
        allowed = [_plain(one) for one in rule.values] if isinstance(rule, Only) else []
        each = value if isinstance(value, list) and value and key != "image_encoder" else [value]  # one a level
        if isinstance(rule, Only) and not all(_plain(one) in allowed for one in each):
            raise InputError(where, _short(value), " or ".join(map(repr, rule.values)), rule.why)


def check_unet(config: Mapping[str, Any]) -> tuple[int, int]:
    """The UNet's config, checked; height and width of the latents that it was trained at."""
    check_config("unet", config, UNET)
    for key, known in BLOCKS.items():
        for kind in config.get(key, ()):
            if kind not in known:
                raise InputError(f"model.unet.{key}", repr(kind), ", ".join(known))
    return _latent_size(config.get("sample_size"), str(config.get("_diffusers_version", "")))


def _latent_size(size: Any, version: str) -> tuple[int, int]:
    """[height, width] of the latents. A folder of diffusers before 0.9 with less than 64 says so by mistake: its
    pipeline takes 64 (diffusers, StableDiffusionPipeline.__init__)."""
    sides = [size, size] if isinstance(size, int) and not isinstance(size, bool) else size
    if not isinstance(sides, (list, tuple)) or len(sides) != 2 or not all(type(n) is int and n > 0 for n in sides):
        raise InputError("model.unet.sample_size", _short(size), "the latents' side, or [height, width]")
    old = version.split(".")[:2]
    if (
        isinstance(size, int)
        and size < 64
        and len(old) == 2
        and old[0] == "0"
        and old[1].isdecimal()
        and int(old[1]) < 9
    ):
        return 64, 64
    return int(sides[0]), int(sides[1])


def check_vae(config: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The VAE's config, checked; mean and deviation of each latent channel that its latents are measured from, empty
    where it gives none. `shift_factor` is a mean that all channels share."""
    check_config("vae", config, VAE)
    channels = config.get("latent_channels", 4)
    scaling = config.get("scaling_factor", 0.18215)
    if not _number(scaling) or scaling <= 0:
        raise InputError("model.vae.scaling_factor", _short(scaling), "a number above 0")
    found: list[tuple[float, ...]] = []
    for key in ("latents_mean", "latents_std"):
        values = config.get(key)
        if values is not None and (not isinstance(values, (list, tuple)) or len(values) != channels
                                   or not all(_number(one) for one in values)):  # fmt: skip
            raise InputError(f"model.vae.{key}", _short(values), f"{channels} numbers, one a latent channel")
        found.append(tuple(float(one) for one in values or ()))
    mean, std = found
    if any(one <= 0 for one in std):
        raise InputError("model.vae.latents_std", _short(list(std)), "numbers above 0")
    if bool(mean) != bool(std):
        raise InputError("model.vae.latents_mean", "one of latents_mean and latents_std", "both or none")
    shift = config.get("shift_factor") or 0.0
    if not _number(shift):
        raise InputError("model.vae.shift_factor", _short(shift), "a number")
    if shift:
        mean = tuple(one + float(shift) for one in (mean or (0.0,) * channels))
        std = std or (1.0,) * channels
    return mean, std


def check_scheduler(config: Mapping[str, Any], where: str) -> SchedulerConfig:
    """The scheduler's config, checked, its sampler known and its numbers finite."""
    known = set(SchedulerConfig.keys()) | SCHEDULER_NOTHING
    for key, value in config.items():
        if not key.startswith("_") and key not in known:
            raise InputError(f"model.{where}.{key}", f"{_short(value)}, a key that nothing here reads",
                             "the keys of the known schedulers", nearest(key, known))  # fmt: skip
    if config.get("_class_name") not in DIFFUSERS_CLASSES:
        name = config.get("_class_name")
        raise InputError(f"model.{where}._class_name", _short(name), ", ".join(DIFFUSERS_CLASSES),
                         nearest(str(name), DIFFUSERS_CLASSES))  # fmt: skip
    try:
        found = SchedulerConfig.from_dict(config, where)
        make_sampler(found, default_sampler(found), min(20, found.num_train_timesteps))
    except BundleError as reason:
        raise InputError(f"model.{reason.field}", reason.given, reason.allowed, reason.hint) from reason
    except ZeroDivisionError as reason:
        raise InputError(f"model.{where}.rescale_betas_zero_snr", "true", "false with this scheduler") from reason
    return found


def check_index(root: Path) -> str:
    """The pipeline's class by model_index.json, its keys checked; by the folder's parts where there is no such file."""
    two = (root / "text_encoder_2").is_dir()
    path = root / INDEX
    if not path.is_file():
        return next(name for name, pair in PIPELINES.items() if pair == two)
    index = read_json(path, INDEX)
    if not isinstance(index, dict):
        raise InputError(INDEX, "JSON that is no object", "diffusers' model_index.json")
    name = index.get("_class_name")
    if name not in PIPELINES:
        raise InputError(f"{INDEX}._class_name", _short(name), ", ".join(PIPELINES), nearest(str(name), PIPELINES))
    check_config(INDEX, {key: tuple(value) if isinstance(value, list) else value for key, value in index.items()},
                 INDEX_KEYS)  # fmt: skip
    _check_scheduler_class(root, index.get("scheduler"))
    if PIPELINES[str(name)] != two:
        given = f"{name} {'without' if not two else 'beside'} text_encoder_2"
        raise InputError(f"{INDEX}._class_name", given, "the parts of its pipeline")
    return str(name)


def _check_scheduler_class(root: Path, named: Any) -> None:
    """InputError where the index names another scheduler than the scheduler's own file: a pipeline takes the first,
    whoever reads the file alone the second."""
    path = root / "scheduler" / "scheduler_config.json"
    own = read_json(path, "scheduler_config.json").get("_class_name") if path.is_file() else None
    known = named[1] if isinstance(named, list) and len(named) == 2 else None
    if own in DIFFUSERS_CLASSES and known is not None and known != own:
        raise InputError(
            f"{INDEX}.scheduler", f"{known}, and {own} in scheduler/scheduler_config.json", "one of them in both"
        )


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _plain(value: Any) -> Any:
    """Types told apart that Python holds for equal: 1 and True."""
    return type(value).__name__ if isinstance(value, bool) else None, value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."
