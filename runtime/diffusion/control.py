"""The attention control of one call of the UNet, as tensors.

For row b with the source row s = source_index[b], in every controlled cross-attention layer

    A'_b = A_s T_b + A_b diag(d_b)          T = token_transfer, d = token_keep

and where self_replace[b] is 1 the controlled self-attention layers take queries and keys of row s. The maps that
come back are the mean of A' over heads and blend layers, weighted by blend_words and summed over the tokens.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["AttentionControl"]


@dataclass(frozen=True, eq=False)
class AttentionControl:
    """Control of B rows; the fields are named like the graph's inputs."""

    source_index: NDArray[np.int64]  # [B]
    token_transfer: NDArray[np.float32]  # [B,77,77], rows: tokens of the source, columns: tokens of b
    token_keep: NDArray[np.float32]  # [B,77]
    self_replace: NDArray[np.float32]  # [B], 0 or 1
    blend_words: NDArray[np.float32]  # [B,K,77], K >= 1

    @classmethod
    def identity(
        cls,
        rows: int,
        tokens: int = 77,
        blend_words: NDArray[np.float32] | None = None,  # [B,K,77]; None asks for one empty map
    ) -> "AttentionControl":
        """The control that changes nothing: the plain UNet."""
        return cls(
            source_index=np.arange(rows, dtype=np.int64),
            token_transfer=np.zeros((rows, tokens, tokens), np.float32),
            token_keep=np.ones((rows, tokens), np.float32),
            self_replace=np.zeros(rows, np.float32),
            blend_words=np.zeros((rows, 1, tokens), np.float32) if blend_words is None else blend_words,
        )

    @property
    def rows(self) -> int:
        """B."""
        return len(self.source_index)
