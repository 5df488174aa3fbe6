"""StyleGAN2 generators in rosinality's names: {"g_ema": state dict, "latent_avg": [w_dim]}, or the state dict alone.

rosinality/stylegan2-pytorch, model.py. Our generator has its names, so the sizes are all there is to find out, from
shapes: resolutions, channels, mapping layers. `blur` and `upsample` kernels are compared with the one that we use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from limner.training.importers.files.opening import Foreign
from limner.training.importers.files.pickles import Refused
from limner.training.importers.states import (
    Imported,
    Options,
    as_tensors,
    count,
    flat,
    rows,
    shape,
    tensor_of,
)
from limner.training.models.stylegan2 import Generator, StyleGAN2Config, fir_kernel

WHAT = "rosinality StyleGAN2 .pt"
MEAN_SAMPLES, MEAN_SEED = 10_000, 0
KERNEL_ERROR = 1e-5
MAX_SIZE = 4096  # pixels a side


def recognises(foreign: Foreign) -> bool:
    return _state(foreign.content) is not None


def _state(content: Any) -> dict[str, Any] | None:
    inner = content.get("g_ema") if isinstance(content, Mapping) else None
    found = flat(inner) or flat(content)
    return found if found and "conv1.conv.weight" in found and "style.1.weight" in found else None


def convert(foreign: Foreign, options: Options) -> Imported:
    state = _state(foreign.content)
    if state is None:
        raise Refused("a file without a generator's weights")
    latent_avg = foreign.content.get("latent_avg")
    return generator(state, latent_avg, "StyleGAN2 generator (rosinality)")


def generator(state: Mapping[str, Any], latent_avg: Any, title: str) -> Imported:
    """A checkpoint from a state dict in rosinality's names."""
    config = read_config(state)
    kept = {key: value for key, value in state.items() if not key.endswith(".kernel")}
    check_kernels(state)
    tensors = as_tensors(kept)
    notes: tuple[str, ...] = ()
    mean = tensor_of(latent_avg)
    if mean is None and "latent_avg" not in tensors:
        mean = mean_latent(config, tensors)
        notes = (f"The file has no latent_avg: it is the mean w of {MEAN_SAMPLES} samples, seed {MEAN_SEED}.",)
    if mean is not None:
        average = rows(mean, config.w_dim, "latent_avg")
        if not torch.allclose(average, average[:1].expand_as(average)):
            raise Refused("weights whose latent_avg differs between layers")
        tensors["latent_avg"] = average[0]
    return Imported("stylegan2", "stylegan2", config, tensors, title, facts(config), notes)


def facts(config: StyleGAN2Config) -> dict[str, Any]:
    channels = ", ".join(f"{config.channels_at(r)} at {r}" for r in config.resolutions)
    return {"pixels a side": config.size, "mapping layers": config.n_mlp, "feature maps": channels}


def read_config(state: Mapping[str, Any]) -> StyleGAN2Config:
    """All sizes of a generator from the shapes of its weights."""
    layers = count(state, "style.{}.weight")
    upper = count(state, "to_rgbs.{}.conv.weight")
    w_dim = shape(state, f"style.{layers}.weight", 2)[0]
    channels = {4: shape(state, "input.input", 4)[1]}
    for k in range(upper):
        channels[2 ** (k + 3)] = shape(state, f"convs.{2 * k}.conv.weight", 5)[1]
    return with_table(2 ** (upper + 2), shape(state, "style.1.weight", 2)[1], w_dim, layers, channels)


def with_table(size: int, z_dim: int, w_dim: int, n_mlp: int, channels: dict[int, int],
               lr_mlp: float = 0.01) -> StyleGAN2Config:  # fmt: skip
    """A config that says the channels by their published multiplier where they are the published ones."""
    if size > MAX_SIZE:
        raise Refused(f"a generator of {size} pixels a side")
    for multiplier in (2, 1):
        config = StyleGAN2Config(size, z_dim, w_dim, n_mlp, lr_mlp, {}, multiplier)
        if channels == {r: config.channels_at(r) for r in config.resolutions}:
            return config
    return StyleGAN2Config(size, z_dim, w_dim, n_mlp, lr_mlp, channels)


def check_kernels(state: Mapping[str, Any]) -> None:
    """Refuse FIR kernels other than [1,3,3,1] with gain 4, which our generator has built in."""
    for key, value in state.items():
        if key.endswith((".blur.kernel", ".upsample.kernel")):
            kernel = tensor_of(value)
            expected = fir_kernel(4.0)
            if (
                kernel is None
                or kernel.shape != expected.shape
                or float((kernel - expected).abs().max()) > KERNEL_ERROR
            ):
                raise Refused(f"a generator with another filter than [1,3,3,1] in {key!r}")


@torch.no_grad()
def mean_latent(config: StyleGAN2Config, tensors: Mapping[str, Tensor]) -> Tensor:
    """The mean w of the mapping network."""
    small = StyleGAN2Config(4, config.z_dim, config.w_dim, config.n_mlp, config.lr_mlp, {4: 1})
    style = Generator(small).style
    state = {key.removeprefix("style."): value for key, value in tensors.items() if key.startswith("style.")}
    style.load_state_dict(state)
    z = torch.randn(MEAN_SAMPLES, config.z_dim, generator=torch.Generator().manual_seed(MEAN_SEED))
    mean: Tensor = style(z).mean(0)
    return mean
