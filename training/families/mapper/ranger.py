"""Ranger, the optimizer of the published mappers: gradient centralisation, RAdam and Lookahead in one step.

    g  <- g - mean of g over all but the first axis, of matrices and more     Yong et al. 2020, eq. 1
    m  <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2                       Liu et al. 2019, algorithm 2
    r_inf = 2 / (1 - b2) - 1,  r = r_inf - 2 t b2^t / (1 - b2^t)              the same
    r > 5:   p <- p - lr R m / ((1 - b1^t) (sqrt(v) + eps)),                  the same; R below, times sqrt(1 - b2^t)
    else:    p <- p - lr m / (1 - b1^t)
    every k steps: slow <- slow + alpha (p - slow), p <- slow                 Zhang et al. 2019, algorithm 1

    R = sqrt((r - 4) (r - 2) r_inf / ((r_inf - 4) (r_inf - 2) r))

As in the published code, eps is added to sqrt(v) before the bias correction, weight decay is p <- p - lr decay p,
and the slow weights start at the first p. All of the state is saved with the optimizer, so a run can go on from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

RECTIFY_ABOVE = 5.0  # r of the variance; the paper takes 4


class Ranger(torch.optim.Optimizer):
    """The defaults are those of the published mapper training, apart from its learning rate of 0.5."""

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.95, 0.999),
        eps: float = 1e-5,
        weight_decay: float = 0.0,
        alpha: float = 0.5,  # part of the way that the slow weights go
        k: int = 6,  # steps between theirs
    ) -> None:
        if lr <= 0 or eps <= 0 or not 0 < alpha <= 1 or k < 1 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"lr {lr}, eps {eps}, alpha {alpha}, k {k}, betas {betas} are not all in their ranges")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "alpha": alpha, "k": k}
        super().__init__(parameters, defaults)

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
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, p: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2), lr = self.state[p], group["betas"], group["lr"]
        if not state:
            state |= {"step": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p), "slow": p.detach().clone()}
        grad = p.grad
        assert grad is not None
        if grad.dim() > 1:
            grad = grad - grad.mean(tuple(range(1, grad.dim())), keepdim=True)
        state["step"] += 1
        state["m"].mul_(beta1).add_(grad, alpha=1 - beta1)
        state["v"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        if group["weight_decay"]:
            p.add_(p, alpha=-group["weight_decay"] * lr)
        rate, rectified = rectification(state["step"], beta1, beta2)
        if rectified:
            p.addcdiv_(state["m"], state["v"].sqrt().add_(group["eps"]), value=-lr * rate)
        else:
            p.add_(state["m"], alpha=-lr * rate)
        if state["step"] % group["k"] == 0:
            state["slow"].add_(p - state["slow"], alpha=group["alpha"])
            p.copy_(state["slow"])


def rectification(step: int, beta1: float, beta2: float) -> tuple[float, bool]:
    """The factor of the learning rate at a step from 1, and whether the variance is used yet."""
    shrunk = beta2**step
    r_inf = 2 / (1 - beta2) - 1
    r = r_inf - 2 * step * shrunk / (1 - shrunk)
    unbiased = 1 / (1 - beta1**step)
    if r <= RECTIFY_ABOVE:
        return unbiased, False
    ratio = (r - 4) * (r - 2) * r_inf / ((r_inf - 4) * (r_inf - 2) * r)
    return math.sqrt((1 - shrunk) * ratio) * unbiased, True
