"""torch.compile of a module's heavy parts, in place, for the steps of a training.

Two things are done on CPUs alone. Networks of convolutions are laid out with channels last, in which compiled steps of
diffusers' UNet are almost twice as fast. And diffusers' upsampling doubles rows and columns by a view that is expanded:
torch 2.13 reads the gradient of a compiled nearest interpolation before it is written where a division follows, as in
every block of an AutoencoderKL's decoder, so that all layers before it get a gradient of zero.
"""

from __future__ import annotations

from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from limner.runtime.errors import InputError

__all__ = ["compile_parts", "leave_compiled"]


def compile_parts(module: pl.LightningModule, on_gpu: bool = False) -> None:
    """torch.compile what the module names as its heavy parts, in place; InputError for a family that names none.

    On a GPU each pass is replayed as one CUDA graph where the module says `replays`, that it goes through its parts and
    back once a step: small networks wait for launches otherwise.
    """
    parts = getattr(module, "compiled_parts", None)
    if parts is None:
        raise InputError("trainer.compile", "true", f"false for a {type(module).__name__}",
                         "stylegan2 has a setting `compile` of its own")  # fmt: skip
    mode = "reduce-overhead" if on_gpu and getattr(module, "replays", False) else None
    for part in parts():
        if not on_gpu:
            part.to(memory_format=torch.channels_last)
            for upsampling in _upsamplings(part):
                upsampling.interpolate = False
                upsampling._doubling = upsampling.register_forward_pre_hook(_double_first)
        part.compile(mode=mode)


def leave_compiled(module: pl.LightningModule) -> None:
    """Let the heavy parts be called as they were: figures are of other sizes, which would be compiled anew."""
    for part in cast(Any, module).compiled_parts():
        part._compiled_call_impl = None
        part.to(memory_format=torch.contiguous_format)
        for upsampling in _upsamplings(part):
            if hasattr(upsampling, "_doubling"):
                upsampling._doubling.remove()
                del upsampling._doubling
                upsampling.interpolate = True


def doubled(image: Tensor) -> Tensor:
    """image [N,C,H,W] -> [N,C,2H,2W], every value four times: nearest interpolation without an index."""
    rows, channels, height, width = image.shape
    spread = image[:, :, :, None, :, None].expand(rows, channels, height, 2, width, 2)
    return spread.reshape(rows, channels, 2 * height, 2 * width)


def _double_first(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return (doubled(given[0]), *given[1:])


def _upsamplings(part: nn.Module) -> list[Any]:
    """Those that interpolate (the others convolve transposed)."""
    from diffusers.models.upsampling import Upsample2D

    return [m for m in part.modules() if isinstance(m, Upsample2D) and (m.interpolate or hasattr(m, "_doubling"))]
