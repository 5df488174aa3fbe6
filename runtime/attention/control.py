"""The tensors that make one call of the UNet a Prompt-to-Prompt step, and the rows that the call needs.

For row b with source row s, in every controlled cross-attention layer (Hertz et al. 2022, section 3, as one formula):

    A'_b = A_s T_b + A_b diag(d_b)          T = M diag(alpha e gamma),  d = alpha e (1 - gamma) + 1 - alpha

M and gamma are the alignment, e the weights of the tokens (c of the paper's re-weighting), alpha is 1 while a token's
window is open. Nothing is renormalised. Where self_replace is 1, the controlled self-attention layers take the source
row's queries and keys. Only conditional rows are edited; plain rows have T = 0 and d = 1.

The batch is [unconditional rows, conditional rows], the source before its edits: 2 (N + 1) rows for N edits of one
source. A row is left out where that changes no other row: the source when every window of every edit is closed and
nothing else asks for it, its unconditional row where its guidance is known to change nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limner.runtime.attention.aligners import Alignment
from limner.runtime.diffusion.control import AttentionControl

__all__ = ["Control", "EditControl", "Row"]

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class EditControl:
    """The control of one edit over a whole run."""

    alignment: Alignment
    weights: FloatArray  # e [77]
    alpha: FloatArray  # [steps + 1,77]
    self_steps: tuple[int, int]  # first step with self-replacement, first without again

    def transfer(self, step: int) -> FloatArray:
        """T [77,77] of a step."""
        used: FloatArray = self.alignment.transfer * (self._alpha(step) * self.weights * self.alignment.matched)
        return used

    def keep(self, step: int) -> FloatArray:
        """d [77] of a step."""
        alpha = self._alpha(step)
        kept: FloatArray = alpha * self.weights * (1 - self.alignment.matched) + 1 - alpha
        return kept

    def replaces_self(self, step: int) -> bool:
        """Whether self attention is the source's at this step."""
        return self.self_steps[0] <= step < self.self_steps[1]

    def needs_source(self, step: int) -> bool:
        """Whether this step or a later one takes anything from the source."""
        alpha = self.alpha[min(step, len(self.alpha) - 1) :]
        first, last = self.self_steps
        return (first < last and step < last) or bool(alpha.any())

    def _alpha(self, step: int) -> FloatArray:
        alpha: FloatArray = self.alpha[min(step, len(self.alpha) - 1)]
        return alpha


@dataclass(frozen=True)
class Row:
    """One row of a call: `member` 0 is the source, 1 to N are its edits."""

    member: int
    conditional: bool


@dataclass(frozen=True, eq=False)
class Control:
    """All edits of one source, in one batch."""

    edits: Sequence[EditControl]
    words: FloatArray  # [N+1,K,77], the columns that each blend map sums, a member a row
    keep_source: bool = True  # run the source to the end, whether the edits need it or not
    guide_source: bool = True  # its unconditional row counts
    guided_steps: int | None = None  # unconditional rows after that many change nothing; None: they always do

    def rows(self, step: int) -> tuple[Row, ...]:
        """The rows of this step's call, in order."""
        source = self.keep_source or any(edit.needs_source(step) for edit in self.edits)
        edits = range(1, len(self.edits) + 1)
        told = [Row(0, True)] if source else []
        told += [Row(member, True) for member in edits]
        if self.guided_steps is not None and step >= self.guided_steps:
            return tuple(told)
        free = [Row(0, False)] if source and self.guide_source else []
        free += [Row(member, False) for member in edits]
        return (*free, *told)

    def tensors(self, step: int, rows: Sequence[Row]) -> AttentionControl:
        """What the UNet takes for these rows."""
        told = [index for index, row in enumerate(rows) if row.conditional]
        blend_words = np.zeros((len(rows), *self.words.shape[1:]), dtype=np.float32)  # [B,K,77]
        blend_words[told] = self.words[[rows[index].member for index in told]]
        result = AttentionControl.identity(len(rows), self.words.shape[-1], blend_words)
        if Row(0, True) not in rows:
            return result
        for index in told:
            if rows[index].member:
                edit = self.edits[rows[index].member - 1]
                result.source_index[index] = rows.index(Row(0, True))
                result.token_transfer[index] = edit.transfer(step)
                result.token_keep[index] = edit.keep(step)
                result.self_replace[index] = edit.replaces_self(step)
        return result
