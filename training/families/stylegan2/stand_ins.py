"""Pictures whose code will tell one option by its value alone, beside those of the data as they come.

Of the variants that a value has (six haircuts are "long"), the first of the likeliest stands in for it. What a text's
direction says is shared among the variants, so the more a value has, the more often its stand-in is drawn. Options
whose every value is one choice, colours for the most, have no need of it.
"""

from __future__ import annotations

import numpy as np
import torch

from limner.training.avatars.attributes import StyleSpec
from limner.training.avatars.dataset import AvatarsDataset

__all__ = ["StandIns", "stand_ins"]

LEAST = 3  # variants that a value of fewer counts as: a head has to go bald under any hair


def stand_ins(style: StyleSpec) -> dict[tuple[int, int], int]:
    """(option, choice) that stands in for a value -> how many variants; options where some value has more than one."""
    found = {}
    for place, option in enumerate(style.options):
        values = [choice[1] for choice in option.choices if choice[1]]
        for value in dict.fromkeys(values) if len(set(values)) < len(values) else ():
            mine = [k for k, choice in enumerate(option.choices) if choice[1] == value]
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
                weights.append(max(variants, LEAST))
        self.chances = np.array(weights) / max(sum(weights), 1)

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng(indices)
        places, told = indices.copy(), np.full(len(indices), -1, np.int64)
        for n in np.flatnonzero(rng.random(len(indices)) < self.share) if self.pictures else ():
            place, shown = self.pictures[rng.choice(len(self.pictures), p=self.chances)]
            told[n], places[n] = place, rng.choice(shown)
        return self.data.batch(places) | {"stand_in": torch.from_numpy(told)}
