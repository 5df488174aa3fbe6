"""Pictures whose code will tell one option by its value alone, beside those of the data as they come.

Of the variants that a value has (six haircuts are "long"), the first of the likeliest stands in for it. What a text's
direction says is shared among the variants, so the more a value has, the more often its stand-in is drawn.
"""

from __future__ import annotations

import numpy as np
import torch

from limner.training.avatars.attributes import StyleSpec
from limner.training.avatars.dataset import AvatarsDataset

__all__ = ["StandIns", "stand_ins"]


def stand_ins(style: StyleSpec) -> dict[tuple[int, int], int]:
    """(option, choice) that stands in for a value of more than one variant -> how many variants."""
    found = {}
    for place, option in enumerate(style.options):
        for value in dict.fromkeys(choice[1] for choice in option.choices if choice[1]):
            mine = [k for k, choice in enumerate(option.choices) if choice[1] == value]
            if len(mine) > 1:
                found[place, max(mine, key=lambda k: option.choices[k][2])] = len(mine)
    return found


class StandIns:
    """`data` with `share` of each batch's pictures exchanged; `stand_in` int64 [N] is the place in a code, -1 for none.

    What is exchanged depends on the batch's indices alone, so that a resumed training sees the same.
    """

    def __init__(self, data: AvatarsDataset, share: float) -> None:
        self.data, self.share = data, share
        sizes = [len(option.choices) for option in data.style.options]
        self.pictures: list[tuple[int, np.ndarray]] = []  # place in a code, and the pictures that show it
        weights = []
        for (option, choice), variants in stand_ins(data.style).items():
            shown = np.flatnonzero(data.options[:, option] == choice)
            if len(shown):
                self.pictures.append((sum(sizes[:option]) + choice, shown))
                weights.append(variants - 1.0)
        self.chances = np.array(weights) / max(sum(weights), 1.0)

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng(indices)
        places, told = indices.copy(), np.full(len(indices), -1, np.int64)
        for n in np.flatnonzero(rng.random(len(indices)) < self.share) if self.pictures else ():
            place, shown = self.pictures[rng.choice(len(self.pictures), p=self.chances)]
            told[n], places[n] = place, rng.choice(shown)
        return self.data.batch(places) | {"stand_in": torch.from_numpy(told)}
