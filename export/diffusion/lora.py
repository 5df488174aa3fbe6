"""LoRA files merged into a model's weights at export: W + scale (alpha / rank) up down (Hu et al. 2021, eq. 3).

Names are those of diffusers and PEFT ("unet.<module>.lora_A.weight", and the older "lora.down", "processor.to_q_lora")
and of kohya ("lora_unet_<module with underscores>.lora_down.weight", "lora_te_", "lora_te1_", "lora_te2_", blocks of
SDXL by Stability's numbers). Every tensor of a file is used, or the file is refused with the names of what is left.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from limner.runtime.errors import InputError
from limner.training.models.diffusion import first_ten

if TYPE_CHECKING:
    from limner.export.diffusion.folder import DiffusionFolder, Say

MAX_SCALE = 10.0
KOHYA = {"lora_unet_": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}
PREFIXES = ("unet", "text_encoder_2", "text_encoder")
ENDS = {  # end of a key -> what it holds
    ".lora_A.weight": "down", ".lora_B.weight": "up", ".lora_A.default.weight": "down", ".lora_B.default.weight": "up",
    ".lora_down.weight": "down", ".lora_up.weight": "up", ".lora.down.weight": "down", ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down", ".lora_linear_layer.up.weight": "up", "_lora.down.weight": "down",
    "_lora.up.weight": "up", ".lora_mid.weight": "mid", ".alpha": "alpha",
}  # fmt: skip


@dataclass
class Low:
    """The low-rank matrices of one layer."""

    down: Tensor | None = None  # [r, in] or [r, in, h, w]
    up: Tensor | None = None  # [out, r] or [out, r, 1, 1]
    mid: Tensor | None = None  # [r, r, h, w], of a convolution in three parts
    alpha: float | None = None
    keys: list[str] = field(default_factory=list)

    def difference(self, scale: float) -> Tensor:
        """What is added to the weight, fp32, in the shape of the matrices' product."""
        assert self.down is not None and self.up is not None
        down, up = self.down.float(), self.up.float()
        rank = down.shape[0]
        factor = scale * (rank if self.alpha is None else self.alpha) / rank
        if self.mid is not None:
            found = torch.einsum("or,rshw,si->oihw", up.flatten(1), self.mid.float(), down.flatten(1))
        else:
            found = (up.flatten(1) @ down.flatten(1)).view(up.shape[0], *down.shape[1:])
        return factor * found


def parse_loras(given: Sequence[str]) -> tuple[tuple[Path, float], ...]:
    """["FILE:0.8", "FILE"] -> files with their scales, 1 where none is given."""
    found = []
    for text in given:
        name, colon, number = text.rpartition(":")
        try:
            path, scale = (Path(name), float(number)) if colon and not Path(text).is_file() else (Path(text), 1.0)
        except ValueError:
            path, scale = Path(text), 1.0
        if not abs(scale) <= MAX_SCALE:
            raise InputError("lora", repr(text), f"a scale from {-MAX_SCALE:g} to {MAX_SCALE:g}")
        if not path.is_file():
            raise InputError("lora", repr(text), "FILE or FILE:SCALE, of a .safetensors file that is there")
        if path.suffix != ".safetensors":
            raise InputError("lora", repr(text), "a .safetensors file: others may run code")
        found.append((path, scale))
    return tuple(found)


def merge_loras(folder: DiffusionFolder, loras: Sequence[tuple[Path, float]], say: Say = lambda line: None) -> None:
    """Add every file's layers to the weights of the folder's networks, in place."""
    networks = {"unet": folder.unet, "text_encoder": folder.text_encoder, "text_encoder_2": folder.text_encoder_2}
    for path, scale in loras:
        count = merge_lora(path, scale, {name: one for name, one in networks.items() if one is not None})
        say(f"{path.name}: {count} layers merged at {scale:g}")


@torch.no_grad()
def merge_lora(path: Path, scale: float, networks: Mapping[str, nn.Module]) -> int:
    """Merge one file and return how many layers it changed. InputError names keys that nothing takes."""
    tensors, metadata = _read(path)
    for word, kind in (("dora_scale", "DoRA"), (".hada_", "LoHa"), (".lokr_", "LoKr"), (".oft_", "OFT"),
                       (".diff", "a full difference")):  # fmt: skip
        other = [key for key in tensors if word in key]
        if other:
            raise InputError("lora", f"{path.name} with {kind} ({first_ten(other)})", "plain LoRA")
    places = {name: _places(network) for name, network in networks.items()}
    layers, left = _grouped(tensors, networks, places)
    if left:
        raise InputError("lora", f"{path.name} with keys that no layer takes: {first_ten(left)}",
                         "a LoRA of this model's shape")  # fmt: skip
    changes: list[tuple[Tensor, Tensor]] = []
    for (part, name), low in layers.items():
        weight: Tensor = networks[part].get_submodule(name).weight  # type: ignore[assignment]
        changes.append((weight, _fitting(path, part, name, low, weight, scale, metadata)))
    for weight, change in changes:  # all of them or none
        weight.add_(change.to(weight))
    return len(changes)


def _fitting(path: Path, part: str, name: str, low: Low, weight: Tensor, scale: float, metadata: Mapping[str, Any]
             ) -> Tensor:  # fmt: skip
    where = f"{path.name}: {part}.{name}"
    if low.down is None or low.up is None:
        raise InputError("lora", f"{where} with half of its matrices", "both, down and up")
    if low.alpha is None:
        low.alpha = _alpha(metadata, part, name)
    try:
        change = low.difference(scale)
    except RuntimeError as reason:
        raise InputError(
            "lora", f"{where} with matrices that do not fit each other", "down [r, in], up [out, r]"
        ) from reason
    if change.numel() == weight.numel() and change.shape[:2] == weight.shape[:2]:
        change = change.view_as(weight)
    if change.shape != weight.shape:
        raise InputError("lora", f"{where} for a weight {list(change.shape)}", f"{list(weight.shape)}")
    if not bool(torch.isfinite(change).all()):
        raise InputError("lora", f"{where} with NaN or infinity", "finite numbers")
    return change


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as reason:
        raise InputError("lora", f"{path.name}, which does not read ({reason})", "a safetensors file") from reason
    try:
        config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except ValueError:
        config = {}
    return tensors, config if isinstance(config, dict) else {}


def _alpha(metadata: Mapping[str, Any], part: str, name: str) -> float | None:
    """lora_alpha of diffusers' metadata: for all layers, or by a pattern of the layer's name."""
    alpha = metadata.get(f"{part}.lora_alpha")
    for pattern, value in (metadata.get(f"{part}.alpha_pattern") or {}).items():
        if name == pattern or name.endswith(f".{pattern}"):
            alpha = value
    return float(alpha) if isinstance(alpha, (int, float)) else None


def _places(network: nn.Module) -> dict[str, str]:
    """Module names by their forms in files: as they are, and with underscores for dots."""
    names = [name for name, one in network.named_modules() if isinstance(one, (nn.Linear, nn.Conv2d))]
    found = {name: name for name in names} | {name.replace(".", "_"): name for name in names}
    bare = {name: name for name in found}
    if not any(name.startswith("text_model") for name in names):  # newer transformers leave the prefix out
        bare |= {f"text_model.{name}": name for name in found if "." in name}
        bare |= {f"text_model_{name}": name for name in found if "." not in name}
    return {written: found[name] for written, name in bare.items()}


def _grouped(tensors: Mapping[str, Tensor], networks: Mapping[str, nn.Module], places: Mapping[str, dict[str, str]]
             ) -> tuple[dict[tuple[str, str], Low], list[str]]:  # fmt: skip
    """The matrices of each (network, module), and the keys that belong to none."""
    layers: dict[tuple[str, str], Low] = {}
    left = []
    for key, value in tensors.items():
        end = next((end for end in ENDS if key.endswith(end)), None)
        place = None if end is None else _place(key.removesuffix(end), end, networks, places)
        if end is None or place is None:
            left.append(key)
            continue
        low = layers.setdefault(place, Low())
        low.keys.append(key)
        setattr(low, ENDS[end], float(value) if ENDS[end] == "alpha" else value)
    return layers, left


def _place(name: str, end: str, networks: Mapping[str, nn.Module], places: Mapping[str, dict[str, str]]
           ) -> tuple[str, str] | None:  # fmt: skip
    """The network and module that a key is about; None if there is none."""
    for prefix, part in KOHYA.items():
        if name.startswith(prefix) and part in places:
            written = name.removeprefix(prefix)
            found = places[part].get(written)
            if found is None and part == "unet":
                found = places[part].get(_from_stability(written, networks[part]))
            return None if found is None else (part, found)
    part = next((one for one in PREFIXES if name.startswith(f"{one}.")), "unet")
    if part not in places:
        return None
    written = name.removeprefix(f"{part}.").replace(".processor.", ".")
    found = places[part].get(written) or places[part].get(written.replace(".to_out", ".to_out.0"))
    return None if found is None else (part, found)


def _from_stability(written: str, unet: nn.Module) -> str:
    """kohya's name of an SDXL layer, after Stability's block numbers, as diffusers' with underscores.

    input_blocks: each level has its residual blocks (and attention), then a downsampler; output_blocks likewise.
    """
    config: Any = unet.config
    per_level = int(config.layers_per_block)
    match = re.match(r"(input_blocks|output_blocks)_(\d+)_(\d+)_(.*)|middle_block_(\d+)_(.*)", written)
    if match is None:
        return {"time_embed_0": "time_embedding_linear_1", "time_embed_2": "time_embedding_linear_2",
                "label_emb_0_0": "add_embedding_linear_1", "label_emb_0_2": "add_embedding_linear_2",
                "out_2": "conv_out"}.get(written, written)  # fmt: skip
    if match[5] is not None:
        kind = {"0": "resnets_0", "1": "attentions_0", "2": "resnets_1"}.get(match[5], "")
        return f"mid_block_{kind}_{_inside(match[6])}"
    side, number, part, rest = match[1], int(match[2]), int(match[3]), match[4]
    if side == "input_blocks":
        if number == 0:
            return "conv_in"
        level, place = divmod(number - 1, per_level + 1)
        if place == per_level:
            return f"down_blocks_{level}_downsamplers_0_conv"
        return f"down_blocks_{level}_{'resnets' if part == 0 else 'attentions'}_{place}_{_inside(rest)}"
    level, place = divmod(number, per_level + 1)
    if rest == "conv":
        return f"up_blocks_{level}_upsamplers_0_conv"
    return f"up_blocks_{level}_{'resnets' if part == 0 else 'attentions'}_{place}_{_inside(rest)}"


def _inside(rest: str) -> str:
    """A residual block's own layers under their names in diffusers."""
    return {"in_layers_2": "conv1", "out_layers_3": "conv2", "emb_layers_1": "time_emb_proj",
            "skip_connection": "conv_shortcut"}.get(rest, rest)  # fmt: skip
