"""The gradient of latent optimization as one graph, made by tracing grad-and-value in torch.

    loss(w) = a (1 - cos(CLIP(G(w)), t)) + b sum (w - w0)^2 + c (1 - cos(ID(G(w)), i)) + d mean (G(w) - y)^2

(Patashnik et al. 2021, eq. 1 and 2, with a pixel term for inversion). The rows of a batch are independent, so the
gradient of the batch's sum is each row's own gradient. The graph returns every term apart, the gradient and the
picture; the weights a, b, c, d are an input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.overrides import TorchFunctionMode

from limner.export.stylegan2.gradient_rules import RULES
from limner.runtime.errors import LimnerError

INPUTS = ("w_plus", "w_plus_source", "text_features", "identity_source", "target_image", "loss_weights")
OUTPUTS = ("loss_clip", "loss_l2", "loss_identity", "loss_pixel", "gradient", "image")

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LatentLoss:
    """The four loss terms as a function of w_plus; the networks take images in [-1,1]."""

    synthesis: Network  # w_plus [N,L,D] -> image [N,3,H,W]; in S style channels [N,S] stand for w_plus throughout
    clip_image: Network  # image -> unit [N,C]
    identity: Network  # image -> unit [N,I]

    def terms(
        self,
        w_plus: Tensor,
        w_plus_source: Tensor,
        text_features: Tensor,
        identity_source: Tensor,
        target_image: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return loss_clip, loss_l2, loss_identity, loss_pixel [N] and image [N,3,H,W]."""
        image = self.synthesis(w_plus)
        clip = 1.0 - (self.clip_image(image) * text_features).sum(1)
        l2 = (w_plus - w_plus_source).square().sum(tuple(range(1, w_plus.dim())))
        identity = 1.0 - (self.identity(image) * identity_source).sum(1)
        pixel = (image - target_image).square().mean((1, 2, 3))
        return clip, l2, identity, pixel, image

    def gradient(
        self,
        w_plus: Tensor,
        w_plus_source: Tensor,
        text_features: Tensor,
        identity_source: Tensor,
        target_image: Tensor,
        loss_weights: Tensor,  # [4]: clip, l2, identity, pixel
    ) -> tuple[Tensor, ...]:
        """Return what the graph returns, in the order of OUTPUTS."""

        def total(point: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            *terms, image = self.terms(point, w_plus_source, text_features, identity_source, target_image)
            parts = [term * weight for term, weight in zip(terms, loss_weights.unbind(0), strict=True)]
            return torch.stack(parts).sum(), (*terms, image)

        gradient, (_, (*terms, image)) = torch.func.grad_and_value(total, has_aux=True)(w_plus)
        return (*terms, gradient, image)

    def gradient_by_autograd(self, w_plus: Tensor, *targets: Tensor) -> tuple[Tensor, ...]:
        """The same by torch's own backward pass: the reference."""
        *compared, loss_weights = targets
        with torch.enable_grad():
            point = w_plus.detach().clone().requires_grad_(True)
            *terms, image = self.terms(point, *compared)
            total = torch.stack([(term * weight).sum() for term, weight in zip(terms, loss_weights, strict=True)]).sum()
            (gradient,) = torch.autograd.grad(total, point)
        return (*(term.detach() for term in terms), gradient, image.detach())


class FlatLinear(TorchFunctionMode):
    """Gives F.linear two-dimensional inputs: with three it would fix the batch size while traced for gradients."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear and args[0].dim() > 2:
            x, *rest = args
            return F.linear(x.flatten(0, -2), *rest, **(kwargs or {})).unflatten(0, x.shape[:-1])
        return func(*args, **(kwargs or {}))


def trace(
    function: Callable[..., tuple[Tensor, ...]],
    inputs: tuple[Tensor, ...],
    axes: tuple[tuple[int, ...], ...],  # of each input, those that are free; axis 0 is the batch
    differentiates: bool = True,  # put the backward rules in place
) -> fx.GraphModule:
    """Record `function` operator by operator; the free sizes are symbols, every other one a number.

    Raises LimnerError if an operation ties a free size to the number that it happens to be in `inputs`.
    """
    shapes = ShapeEnv()
    fake = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True, static_shapes=False)

    def stand_in(tensor: Tensor, free: tuple[int, ...]) -> Tensor:
        sizes = [DimDynamic.STATIC] * tensor.dim()
        for axis in free:
            sizes[axis] = DimDynamic.DYNAMIC if axis else DimDynamic.DUCK  # equal numbers share one symbol: the batch
        return fake.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))

    stand_ins = [stand_in(tensor, free) for tensor, free in zip(inputs, axes, strict=True)]

    def call(*arrays: Tensor) -> tuple[Tensor, ...]:  # a bound method would count its `self` as an input
        with FlatLinear():
            return function(*arrays)

    rules = RULES if differentiates else {}
    tracer = make_fx(call, decomposition_table=rules, tracing_mode="symbolic", _allow_non_fake_inputs=True)
    graph: fx.GraphModule = tracer(*stand_ins)
    for array, free in zip(stand_ins, axes, strict=True):
        for axis in free:
            if not is_symbolic(array.shape[axis]):
                raise LimnerError(f"an operation of the graph fixes the {'size of an axis' if axis else 'batch size'}")
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def is_symbolic(size: Any) -> bool:
    """True for a size that no operation has tied to a number."""
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None
