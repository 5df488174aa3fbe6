"""The last layers of a UNet as a graph of their own, for steps that keep the deeper ones' features.

DeepCache (Ma, Fang & Wang 2024) with its first branch: the last residual block of the way up takes the deep features
and, past all the other layers, the output of the first convolution. The graph is cut out of the UNet's, so both compute
the same, with the same weights in the same file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from torch import Tensor, nn

from limner.runtime.diffusion.caching import DEEP
from limner.runtime.errors import LimnerError

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

__all__ = ["cut", "deep_channels", "deep_layer", "replaced", "watched"]


def deep_layer(unet: UNet2DConditionModel) -> nn.Module:
    """The layer whose output the last residual block takes: the one before it in the last block of the way up."""
    block = unet.up_blocks[-1]
    attentions = getattr(block, "attentions", None)
    return (attentions or block.resnets)[-2]


def deep_channels(unet: UNet2DConditionModel) -> int:
    """Channels of the deep features: what the last residual block takes less what comes from the first convolution."""
    return int(unet.up_blocks[-1].resnets[-1].in_channels) - int(unet.conv_in.out_channels)


def cut(model: ir.Model, inputs: Sequence[str]) -> ir.Model:
    """The graph behind the output deep_features, which becomes an input; a copy that shares the weights.

    LimnerError unless its inputs are those named.
    """
    part = model.clone()
    graph = part.graph
    deep = next(value for value in graph.outputs if value.name == DEEP)
    given = ir.Value(name=f"{DEEP}_given", shape=deep.shape, type=deep.type)
    ir.convenience.replace_all_uses_with(deep, given, replace_graph_outputs=True)
    kept = [value for value in graph.outputs if value.name == "noise_pred"]
    graph.outputs.clear()
    graph.outputs.extend(kept)
    common.RemoveUnusedNodesPass()(part)
    given.name, deep.name = DEEP, f"{DEEP}_before"
    graph.inputs.append(given)
    for value in [value for value in graph.inputs if not value.uses()]:
        graph.inputs.remove(value)
    found = [value.name for value in graph.inputs]
    if set(found) != set(inputs):
        raise LimnerError(f"the last layers of the UNet read {found}, not {list(inputs)}")
    return part


@contextmanager
def watched(unet: UNet2DConditionModel) -> Iterator[list[Tensor]]:
    """The output of the deep layer in every call, in a list."""
    found: list[Tensor] = []
    handle = deep_layer(unet).register_forward_hook(lambda module, args, output: found.append(_first(output)))
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def replaced(unet: UNet2DConditionModel, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Calls in which `change` maps what the last residual block takes, [B,F + C,h,w], the deep features first."""

    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(args[0]), *args[1:])

    handle = unet.up_blocks[-1].resnets[-1].register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _first(output: Any) -> Tensor:
    return output if isinstance(output, torch.Tensor) else torch.as_tensor(output[0])
