"""Muon for matrices and kernels, AdamW for the rest, in one optimizer.

    m <- mu m + g,   d = g + mu m                               momentum after Nesterov
    p <- p - lr (0.2 sqrt(max(O, I)) orthogonal(d) + decay p)   for d seen as a matrix [O, I]

`orthogonal` replaces the singular values of a matrix by numbers near 1, by five steps of the quintic iteration
X <- a X + (b A + c A A) X with A = X X^T (Jordan et al. 2024, "Muon: an optimizer for hidden layers"). With the factor
0.2 sqrt(max(O, I)) the update is as large as AdamW's, whose learning rates then apply (Liu et al. 2025, "Muon is
scalable for LLM training", eq. 4). A kernel [O, I, h, w] is the matrix [O, I h w], and so is
StyleGAN2's [1, O, I, h, w].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic, chosen by Jordan et al. for fast growth of small values
ITERATIONS = 5
LIKE_ADAM = 0.2  # root mean square of AdamW's updates


def orthogonal(matrices: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
    """matrices [N,O,I] -> the same singular vectors, singular values between about 0.7 and 1.2. The steps are taken in
    `precision`: bfloat16, as published, is fast where the hardware has it."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(precision)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Parameter groups with `matrices` true are updated by Muon, all others by AdamW."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        precision: torch.dtype = torch.float32,
    ) -> None:
        if lr <= 0 or eps <= 0 or not all(0 <= value < 1 for value in (momentum, *betas)):
            raise ValueError(f"lr {lr}, momentum {momentum}, betas {betas}, eps {eps} are not all in their ranges")
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                    "matrices": False}  # fmt: skip
        super().__init__(list(groups), defaults)
        self.precision = precision  # of `orthogonal`

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            given = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["weight_decay"]:
                torch._foreach_mul_(given, 1 - group["lr"] * group["weight_decay"])
            if group["matrices"]:
                self._update_matrices(given, group)
            else:
                for parameter in given:
                    self._update_vector(parameter, group)
        return loss

    def _update_matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Matrices of one shape are orthogonalised together."""
        alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for parameter in parameters:
            gradient, state = parameter.grad, self.state[parameter]
            assert gradient is not None
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].mul_(group["momentum"]).add_(gradient)
            direction = gradient.add(state["momentum"], alpha=group["momentum"])
            direction = (direction[0] if direction.ndim == 5 else direction).flatten(1)
            alike.setdefault((direction.shape[0], direction.shape[1]), []).append((parameter, direction))
        for shape, pairs in alike.items():
            updates = orthogonal(torch.stack([direction for _, direction in pairs]), self.precision)
            rate = group["lr"] * LIKE_ADAM * max(shape) ** 0.5
            for (parameter, _), update in zip(pairs, updates, strict=True):
                parameter.sub_(update.view_as(parameter), alpha=rate)

    def _update_vector(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["step"], state["mean"], state["square"] = 0, torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        first, second = group["betas"]
        mean = state["mean"].lerp_(gradient, 1 - first)
        square = state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        size = (square / (1 - second ** state["step"])).sqrt_().add_(group["eps"])
        parameter.addcdiv_(mean, size, value=-group["lr"] / (1 - first ** state["step"]))
