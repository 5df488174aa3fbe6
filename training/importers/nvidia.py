"""NVIDIA's stylegan2-ada-pytorch .pkl: {"G", "D", "G_ema", ...}, objects of persistent classes.

training/networks.py there. Its formulas are rosinality's but for names and two details:

- weights of convolutions are used as they are and demodulated, w s / sqrt(sum (w s)^2 + 1e-8), where ours are scaled
  by c = 1 / sqrt(I k^2) first: c cancels but for the 1e-8, which is 1e-8 relative to a mean square of one;
- x2 layers call conv2d_resample with flip_weight off, a true convolution of the zero-inserted input. That is a
  transposed correlation with the weight as it is stored, so nothing is flipped (TensorFlow's files need it).

To-RGB multiplies its style by c, which is ours; noise_const [r,r] and noise_strength [] become noises.noise_i
[1,1,r,r] and noise.weight [1]; mapping.w_avg is latent_avg.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from limner.training.importers.files.opening import Foreign
from limner.training.importers.files.pickles import Record, Refused
from limner.training.importers.states import (
    Imported,
    Options,
    as_tensors,
    count,
    is_tensor,
    module_state,
    shape,
    tensor_of,
)
from limner.training.importers.stylegan2 import KERNEL_ERROR, facts, with_table
from limner.training.models.stylegan2 import StyleGAN2Config, fir_kernel

WHAT = "NVIDIA stylegan2-ada-pytorch .pkl"
PARTS = {
    "weight": "conv.weight",
    "affine.weight": "conv.modulation.weight",
    "affine.bias": "conv.modulation.bias",
    "noise_strength": "noise.weight",
    "bias": "activate.bias",
}
SYNTHESIS = re.compile(r"synthesis\.b(\d+)\.(conv0|conv1|torgb)\.(.+)")


def recognises(foreign: Foreign) -> bool:
    content = foreign.content
    return foreign.format == "pickle" and isinstance(content, Mapping) and isinstance(content.get("G_ema"), Record)


def convert(foreign: Foreign, options: Options) -> Imported:
    record = foreign.content.get("G_ema") if isinstance(foreign.content, Mapping) else None
    state = module_state(record)
    check(state)
    config = read_config(record, state)
    named = {}
    for key, value in state.items():
        if not key.endswith("resample_filter"):
            name = new_name(key, config)
            named[name] = _shaped(name, value)
    tensors = as_tensors(named)
    for i, resolution in enumerate((4, *(r for r in config.resolutions[1:] for _ in range(2)))):  # use_noise off
        layer = "conv1" if i == 0 else f"convs.{i - 1}"
        if f"{layer}.noise.weight" not in tensors and f"noises.noise_{i}" not in tensors:
            tensors[f"{layer}.noise.weight"] = torch.zeros(1)
            tensors[f"noises.noise_{i}"] = torch.zeros(1, 1, resolution, resolution)
    clamp = conv_clamp(record)
    notes: tuple[str, ...] = ()
    if clamp is not None:
        notes = (
            f"The published code clamps feature maps at {clamp:g} for its fp16 layers; here they are not clamped.",
        )
    return Imported("stylegan2", "stylegan2", config, tensors, "StyleGAN2 generator (NVIDIA)", facts(config), notes)


def check(state: Mapping[str, Any]) -> None:
    """Refuse the relatives that our generator is not."""
    if any(re.match(r"synthesis\.L\d+_", key) for key in state):
        raise Refused("a StyleGAN3 generator")
    if "mapping.embed.weight" in state:
        raise Refused("a generator conditioned on classes")
    if any(key.endswith(".skip.weight") for key in state):
        raise Refused("a generator of the architecture 'resnet', not 'skip'")
    if "synthesis.b4.torgb.weight" not in state:
        raise Refused("a generator without to-RGB layers at every resolution")
    for key, value in state.items():
        if key.endswith("resample_filter"):
            kernel, expected = tensor_of(value), fir_kernel(1.0)
            if (
                kernel is None
                or kernel.shape != expected.shape
                or float((kernel - expected).abs().max()) > KERNEL_ERROR
            ):
                raise Refused(f"a generator with another filter than [1,3,3,1] in {key!r}")


def read_config(record: Any, state: Mapping[str, Any]) -> StyleGAN2Config:
    layers = count(state, "mapping.fc{}.weight")
    if layers == 0:
        raise Refused("a generator without a mapping network")
    resolutions = sorted(
        int(m[1]) for m in (re.fullmatch(r"synthesis\.b(\d+)\.conv1\.weight", key) for key in state) if m
    )
    if resolutions != [2**k for k in range(2, len(resolutions) + 2)]:
        raise Refused(f"a generator of the resolutions {resolutions}")
    channels = {r: shape(state, f"synthesis.b{r}.conv1.weight", 4)[0] for r in resolutions}
    rgb = shape(state, f"synthesis.b{resolutions[-1]}.torgb.weight", 4)[0]
    if rgb != 3:
        raise Refused(f"a generator of {rgb} colour channels")
    gains = {_plain(_child(record, "mapping", f"fc{i}"), "bias_gain") for i in range(layers)}
    if len(gains) != 1 or not (isinstance(gain := gains.pop(), (int, float)) and 0 < gain <= 1):
        raise Refused("a generator whose mapping layers do not tell one lr_multiplier")
    z_dim, w_dim = shape(state, "mapping.fc0.weight", 2)[1], shape(state, f"mapping.fc{layers - 1}.weight", 2)[0]
    return with_table(resolutions[-1], z_dim, w_dim, layers, channels, float(gain))


def _child(record: Any, *names: str) -> Any:
    for name in names:
        modules = (
            record.state.get("_modules") if isinstance(record, Record) and isinstance(record.state, dict) else None
        )
        record = modules.get(name) if isinstance(modules, dict) else None
    return record


def _plain(record: Any, name: str) -> Any:
    return record.state.get(name) if isinstance(record, Record) and isinstance(record.state, dict) else None


def conv_clamp(record: Any) -> float | None:
    """What the published layers clamp their output at, if they do."""
    value = _plain(_child(record, "synthesis", "b4", "conv1"), "conv_clamp")
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def new_name(key: str, config: StyleGAN2Config) -> str:
    """Our name of a key of NVIDIA's; a key that fits nowhere keeps its own."""
    if key == "mapping.w_avg":
        return "latent_avg"
    if key == "synthesis.b4.const":
        return "input.input"
    if found := re.fullmatch(r"mapping\.fc(\d+)\.(weight|bias)", key):
        return f"style.{int(found[1]) + 1}.{found[2]}"
    found = SYNTHESIS.fullmatch(key)
    if not found or int(found[1]) not in config.resolutions:
        return key
    level, layer, part = int(math.log2(int(found[1]))) - 3, found[2], found[3]  # 8 px is level 0
    if level < 0 and layer == "conv0":
        return key
    if layer == "torgb":
        name = "to_rgb1" if level < 0 else f"to_rgbs.{level}"
        return f"{name}.{'bias' if part == 'bias' else PARTS.get(part, part)}"
    index = 0 if level < 0 else 2 * level + (1 if layer == "conv0" else 2)
    if part == "noise_const":
        return f"noises.noise_{index}"
    name = "conv1" if index == 0 else f"convs.{index - 1}"
    return f"{name}.{PARTS.get(part, part)}"


def _shaped(name: str, value: Any) -> Any:
    """A tensor with the axes that our names have."""
    tensor = tensor_of(value) if is_tensor(value) else None
    if tensor is None:
        return value
    if name == "input.input" or name.endswith(".conv.weight"):
        return tensor[None]
    if name.endswith("noise.weight"):
        return tensor.reshape(-1)
    if name.startswith("noises."):
        return tensor[None, None]
    if name.startswith("to_rgb") and name.endswith(".bias") and "modulation" not in name:
        return tensor.reshape(1, -1, 1, 1)
    return tensor
