"""Batch norm of the published IR-SE networks in functional form."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def norm(x: Tensor, state: dict[str, Tensor], key: str) -> Tensor:
    return F.batch_norm(x, state[f"{key}.running_mean"], state[f"{key}.running_var"], state[f"{key}.weight"],
                        state[f"{key}.bias"])  # fmt: skip
