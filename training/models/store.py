"""Checkpoint folders: config.json (family and config), model.safetensors, README.md (the model card)."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from limner.runtime.errors import InputError, LimnerError, nearest
from limner.training.config import from_mapping, to_plain

# family -> module, and there the function of the config's plain values or the config class and the network
BUILDERS = {
    "stylegan2": "limner.training.models.stylegan2:StyleGAN2Config:Generator",
    "clip": "limner.training.models.clip:build_clip",
    "identity": "limner.training.models.irse:IdentityConfig:IdentityNet",
    "encoder": "limner.training.models.psp:EncoderConfig:E4eEncoder",
    "judge": "limner.training.models.judge:JudgeConfig:Judge",
    "reader": "limner.training.models.reader:ReaderConfig:Reader",
    "mapper": "limner.training.models.mapper:MapperConfig:build_mapper",
}
FP16_LARGEST, FP16_SMALLEST = 6.0e4, 6.0e-5  # a tensor whose largest value lies outside is kept as it is
SHOWN = 10


def build_model(family: str, config: Mapping[str, Any]) -> nn.Module:
    """The network of a family from its config's plain values, with fresh weights."""
    if family not in BUILDERS:
        raise InputError("family", repr(family), ", ".join(BUILDERS), nearest(family, BUILDERS))
    path, *names = BUILDERS[family].split(":")
    parts = [getattr(importlib.import_module(path), name) for name in names]
    values: Any = dict(config)
    if len(parts) == 2:
        values = from_mapping(parts[0], values, family)
    model: nn.Module = parts[-1](values)
    return model


def go_on_from(network: nn.Module, folder: str | Path, what: str) -> None:
    """Load the weights of a folder into a network; InputError for another kind of network, or other sizes."""
    earlier = load_model(folder)
    if type(earlier) is not type(network) or earlier.config != network.config:
        raise InputError("start", f"{folder}, another network", f"{what} with this run's `model` and data")
    network.load_state_dict(earlier.state_dict())


def build_on_meta(family: str, config: Any) -> nn.Module:
    """The same without memory or values, for names and shapes; `config` is a dataclass or a mapping."""
    with torch.device("meta"):
        return build_model(family, to_plain(config))


def save_model(
    folder: str | Path,
    family: str,  # a key of BUILDERS
    config: Any,  # dataclass or mapping
    state_dict: Mapping[str, torch.Tensor],
    card: str = "",  # README.md; empty leaves an old one alone
    dtype: torch.dtype = torch.float16,  # of the stored floating-point weights
) -> Path:
    """Write a checkpoint folder; each file is written beside its place and renamed. Returns the folder."""
    if family not in BUILDERS:
        raise InputError("family", repr(family), ", ".join(BUILDERS), nearest(family, BUILDERS))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: _stored(value, dtype) for name, value in state_dict.items()}
    beside = folder / "model.safetensors.part"
    save_file(tensors, str(beside), metadata={"format": "pt", "family": family})
    sort_metadata(beside)
    beside.chmod(0o644)  # safetensors makes files that only their owner reads
    text = json.dumps({"family": family, "config": to_plain(config)}, indent=2) + "\n"
    _replace_text(folder / "config.json", text)
    beside.replace(folder / "model.safetensors")
    if card:
        _replace_text(folder / "README.md", card)
    return folder


def sort_metadata(path: Path) -> None:
    """Write the metadata of a safetensors file in the order of its keys: the library's order differs from run to run,
    and with it the file's hash."""
    with path.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        if len(text) == length:
            stream.seek(8)
            stream.write(text)


def _stored(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    value = value.detach().cpu().contiguous()
    if value.is_floating_point() and value.numel():
        largest = float(value.abs().max())
        if dtype != torch.float16 or largest == 0 or FP16_SMALLEST < largest < FP16_LARGEST:
            value = value.to(dtype)
    return value.clone()


def _replace_text(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def read_config(folder: str | Path) -> tuple[str, dict[str, Any]]:
    """The family and the config of a checkpoint folder. Raises InputError if config.json does not tell them."""
    path = Path(folder) / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        family, config = content["family"], content["config"]
    except OSError as reason:
        raise InputError("checkpoint", f"{path}, which does not open ({reason.strerror})",
                         "a folder with config.json and model.safetensors") from reason  # fmt: skip
    except (ValueError, KeyError, TypeError) as reason:
        raise InputError("checkpoint", f"{path}, which does not read", "JSON with family and config") from reason
    return family, config


def load_model(folder: str | Path) -> nn.Module:
    """The network of a checkpoint folder in eval mode with fp32 weights.

    Raises InputError for a missing or broken file, LimnerError when the keys do not fit the network.
    """
    family, config = read_config(folder)
    model = build_model(family, config)
    load_state(model, read_tensors(Path(folder) / "model.safetensors"))
    return model.eval().requires_grad_(False)


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file, floating-point ones as fp32."""
    try:
        tensors = load_file(str(path))
    except (OSError, SafetensorError) as reason:
        raise InputError("checkpoint", f"{path}, which does not load ({reason})", "a safetensors file") from reason
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def load_state(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Copy `state` into the network, all keys or none.

    Raises LimnerError that lists up to ten missing, unexpected and mismatched keys of each kind.
    """
    problems = state_problems(model.state_dict(), state)
    if problems:
        raise LimnerError(f"the weights do not fit {type(model).__name__}: {'; '.join(problems)}")
    model.load_state_dict(dict(state))


def state_problems(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> list[str]:
    """Missing, unexpected and mismatched keys of `state`, a phrase a kind with the first ten names."""
    missing = [k for k in own if k not in state]
    unexpected = [k for k in state if k not in own]
    mismatched = [f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}"
                  for k in own if k in state and own[k].shape != state[k].shape]  # fmt: skip
    return [f"{len(names)} {what}: {', '.join(names[:SHOWN])}{' ...' if len(names) > SHOWN else ''}"
            for what, names in (("missing", missing), ("unexpected", unexpected), ("mismatched", mismatched))
            if names]  # fmt: skip
