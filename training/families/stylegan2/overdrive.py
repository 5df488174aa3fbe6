"""Codes pushed beyond what pictures show, so that a linear edit in W, W+ or S lands on a clean picture.

A global direction adds the same offset to every source: an edit towards choice t of an option gives the code
c + k (t - u), with the source's choice c and the mean choice u, not the one-hot t. The warm start shows the
generator such codes with the picture of t as the target, so that the stronger choice wins and nothing of c is
left; it also shows codes drawn towards the mean (truncation) with the picture unchanged.

A text says "long hair", not which: its direction is the mean over such variants. One variant of each value, the first
of its likeliest, stands in for it: it is what is drawn where a code tells no more (`StandIns` chooses such pictures).
And an edit by style channels moves those alone that have most to do with it: `sparse` leaves out the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from limner.training.avatars.attributes import POSE_NAMES, StyleSpec


@dataclass(frozen=True)
class OverdriveConfig:
    """How often, and how far."""

    probability: float = 0.0  # share of pictures with one option over-driven; 0 for none
    least: float = 0.8  # smallest k
    most: float = 2.5  # largest k
    variant: tuple[float, float] = (0.3, 1.0)  # share of k that tells the variants of one attribute value apart
    layer_spread: float = 0.3  # each layer's k is k times 1 +- this
    stand_in: float = 0.0  # share of pictures whose code tells a value alone, see `stand_ins.py`
    apart: bool = False  # options that depend on another, and that one, are over-driven one by one too
    sparse: float = 0.0  # share of over-driven pictures whose offset is that of the channels it moves most, to_rgb none
    sparse_most: float = 0.5  # largest threshold there: a share of the largest offset in deviations of its channel
    plain_rgb: float = 0.5  # share of over-driven pictures whose to_rgb styles stay those of the source
    weights: dict[str, float] = field(default_factory=dict)  # option -> how often it is chosen, 1 where not given
    truncation: float = 0.0  # share of pictures whose code is drawn towards the mean
    truncation_least: float = 0.6  # smallest psi there

    def __post_init__(self) -> None:
        for name in ("probability", "stand_in", "sparse", "sparse_most"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise ValueError(f"overdrive.{name}: got {share}; allowed: 0 to 1")
        if self.sparse and not self.moves:
            raise ValueError(f"overdrive.sparse: got {self.sparse}; allowed: 0 where probability and stand_in are 0")

    @property
    def moves(self) -> bool:
        """Whether any picture has an option over-driven."""
        return self.probability > 0 or self.stand_in > 0


class Overdrive:
    """Changes codes [N, K] to codes per layer [N, L, K]. Options that depend on another move with it."""

    def __init__(self, style: StyleSpec, config: OverdriveConfig) -> None:
        self.config = config
        sizes = [len(option.choices) for option in style.options]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        names = [option.name for option in style.options]
        size = sum(sizes) + len(POSE_NAMES)
        self.mean = torch.zeros(size)  # of codes: the choices' weights
        self.value_mean = torch.zeros(size, size)  # row of choice t: mean code of the choices with t's attribute value
        leader = dict(style.attributes).get("expression", "")
        self.groups = torch.zeros(0, size)
        self.alone = torch.zeros(size, size)  # row of a choice: its option's choices
        masks: dict[str, Tensor] = {}
        for option, start, count in zip(style.options, starts, sizes, strict=True):
            weights = torch.tensor([c[2] for c in option.choices])
            self.mean[start : start + count] = weights / weights.sum()
            for k, (_, value, _) in enumerate(option.choices):
                same = torch.tensor([c[1] == value for c in option.choices]) if value else torch.arange(count) == k
                self.value_mean[start + k, start : start + count] = weights * same / (weights * same).sum()
            key = leader if option.depends_on and leader in names else option.name
            masks.setdefault(key, torch.zeros(size))[start : start + count] = 1
            if config.apart and key == leader:
                masks[f"{option.name} alone"] = torch.zeros(size)
                masks[f"{option.name} alone"][start : start + count] = 1
            self.alone[start : start + count, start : start + count] = 1
        self.groups = torch.stack(list(masks.values()))
        self.chances = torch.tensor([float(config.weights.get(name, 1.0)) for name in masks])

    def __call__(self, code: Tensor, layers: int, stand_in: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """code [N, K] of the pictures to draw -> (codes [N, L, K], codes [N, L, K] of the to_rgb styles, thresholds [N]
        of what a channel moves between the two, 0 where all channels do).

        stand_in int [N]: the place in the code of the choice that is told by its value alone, -1 for none.
        """
        config, count = self.config, len(code)
        truncated = (torch.rand(count, 1) < config.truncation).float()
        psi = 1 - truncated * torch.rand(count, 1) * (1 - config.truncation_least)
        mean = self.mean.clone()
        mean[-len(POSE_NAMES) :] = 0
        base = mean + psi * (code - mean)
        base[:, -len(POSE_NAMES) :] = code[:, -len(POSE_NAMES) :]
        chosen = (torch.rand(count, 1) < config.probability).float()
        mask = self.groups[self.chances.multinomial(count, replacement=True)] * chosen
        stand_in = torch.full((count,), -1) if stand_in is None else stand_in.cpu()
        by_value = (stand_in >= 0)[:, None]
        mask = torch.where(by_value, self.alone[stand_in.clamp(min=0)], mask)
        source = torch.where(mask > 0, code[torch.randperm(count)], base)
        value = code @ self.value_mean
        k, thresholds = self._strength(count, layers)
        low, high = config.variant
        share = low + torch.rand(count, 1) * (high - low)
        share = torch.where(by_value, 0.0, share)
        offset = mask * (value - mean + share * (code - value))
        rows = source[:, None] + k * offset[:, None]
        plain = ((torch.rand(count) < config.plain_rgb) | (thresholds > 0)).float()[:, None, None]
        return rows, rows + plain * (source[:, None] - rows), thresholds

    def _strength(self, count: int, layers: int) -> tuple[Tensor, Tensor]:
        """How far each picture is over-driven, k [N, L, 1], and the thresholds [N] of its channels."""
        config, thresholds = self.config, torch.zeros(count)
        k = config.least + torch.rand(count, 1, 1) * (config.most - config.least)
        k = k * (1 + config.layer_spread * (2 * torch.rand(count, layers, 1) - 1))
        if config.sparse:
            thresholds = torch.rand(count) * config.sparse_most * (torch.rand(count) < config.sparse)
        return k * (1 + 2 * thresholds[:, None, None]), thresholds  # fewer channels, further
