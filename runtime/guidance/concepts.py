"""Semantic guidance (Brack et al. 2023, "SEGA: instructing text-to-image models using semantic guidance").

At step i, with e_0 the unconditional estimate, e_t the one of the text and e_c that of concept c (eq. 4 to 9):

    psi_c = s_c (e_c - e_0), zero where |psi_c| < quantile(|psi_c|, threshold) over the pixels of a channel
    g_c   = weight_c, 0 if it is negative; a concept past its cool-down has psi_c = 0 and g_c = 0
    W     = concepts past their warm-up, C all of them
    G     = sum over C of g_c psi_c + s_m nu          nu <- beta nu + (1 - beta) G, through the warm-up too
    eps   = e_0 + w (e_t - e_0) + (G if W = C, else sum over W of g_c psi_c / sum over W of g)

It follows diffusers' SemanticStableDiffusionPipeline, but for one case: where every concept of W has g = 0 while
others still warm up, that one divides zero by zero; here nothing is added. s_c is signed: below 0 the concept is
guided away from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limner.runtime.methods.drawing import DrawnMasks

__all__ = ["Concept", "SemanticGuidance", "channel_quantile", "quantile"]

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Concept:
    """How one concept guides."""

    scale: float = 5.0  # s_c, below 0 away from the concept
    threshold: float = 0.9  # 0 to 1, the part of each channel's pixels that stays
    warmup: int = 10  # the first step that it is added at
    cooldown: int | None = None  # the first step that it is no longer added at; None is never
    weight: float = 1.0
    drawn: DrawnMasks | None = None  # places added to what is kept of a channel, and taken from it

    def cooled(self, index: int) -> bool:
        """Whether step `index` is past the cool-down."""
        return self.cooldown is not None and index >= self.cooldown

    @property
    def gain(self) -> float:
        """g_c before the cool-down."""
        return max(self.weight, 0.0)


class SemanticGuidance:
    """The guidance of one picture's concepts; remembers the momentum, so take a new one for every run."""

    def __init__(
        self,
        concepts: Sequence[Concept],
        steps: int,  # calls of the network in the whole run
        momentum_scale: float = 0.1,  # s_m
        momentum_beta: float = 0.4,  # beta
    ) -> None:
        self.concepts = tuple(concepts)
        self.momentum_scale = momentum_scale
        self.momentum_beta = momentum_beta
        self._momentum: FloatArray | None = None
        self.kept: dict[int, list[FloatArray]] = {}  # concept -> a step's part of the channels that is not zero [h,w]
        all_warm = max((concept.warmup for concept in concepts), default=0)
        self._momentum_counts = momentum_scale != 0.0 and momentum_beta < 1.0 and all_warm < steps

    def needed(self, index: int) -> list[int]:
        """Return the concepts whose estimate can change the result of step `index` or of a later one.

        Left out are those without gain or scale, those past their cool-down, and those still warming up where
        no momentum carries them on.
        """
        return [
            c
            for c, concept in enumerate(self.concepts)
            if concept.gain > 0.0
            and concept.scale != 0.0
            and not concept.cooled(index)
            and (index >= concept.warmup or self._momentum_counts)
        ]

    def __call__(
        self,
        index: int,
        uncond: FloatArray,  # e_0 [N,C,h,w]
        estimates: Mapping[int, FloatArray],  # concept -> e_c [N,C,h,w], of those in `needed(index)`
    ) -> FloatArray | None:
        """Return what is added to the estimate, [N,C,h,w], or None for nothing."""
        terms = {c: np.float32(self.concepts[c].gain) * self._term(c, uncond, e) for c, e in estimates.items()}
        warm = [c for c, concept in enumerate(self.concepts) if index >= concept.warmup]
        everything = self._total(uncond, list(terms.values()))
        if len(warm) == len(self.concepts):
            return everything if self.concepts else None
        gains = sum(self.concepts[c].gain for c in warm if not self.concepts[c].cooled(index))
        added = [terms[c] for c in warm if c in terms]
        if not added or gains == 0.0:
            return None
        return _sum(added) / np.float32(gains)

    def _total(self, uncond: FloatArray, terms: list[FloatArray]) -> FloatArray:
        """Return G and move the momentum on."""
        before = np.zeros_like(uncond) if self._momentum is None else self._momentum
        total = _sum([*terms, np.float32(self.momentum_scale) * before])
        beta = np.float32(self.momentum_beta)
        self._momentum = beta * before + (np.float32(1) - beta) * total
        return total

    def _term(self, c: int, uncond: FloatArray, estimate: FloatArray) -> FloatArray:
        """psi_c, with the small pixels zero."""
        concept = self.concepts[c]
        psi = (estimate - uncond) * np.float32(concept.scale)
        size = np.abs(psi)
        keep = size >= channel_quantile(size, concept.threshold)
        if concept.drawn is not None:
            keep = concept.drawn.on(keep)
        self.kept.setdefault(c, []).append(keep.mean(axis=(0, 1), dtype=np.float32))
        return np.where(keep, psi, np.float32(0))


def channel_quantile(values: FloatArray, q: float) -> FloatArray:
    """Quantile over the pixels of each channel: [N,C,h,w] -> [N,C,1,1]."""
    flat = values.reshape(*values.shape[:2], -1)
    return quantile(flat, q)[..., None, None]


def quantile(values: FloatArray, q: float) -> FloatArray:
    """Quantile over the last axis, linear in between, in float32 as torch.quantile places it: [...,P] -> [...].

    Where the rank is a whole number this is exactly that value, so that "at or above" keeps it.
    """
    count = values.shape[-1]
    rank = np.float32(q) * np.float32(count - 1)
    low, high = int(np.floor(rank)), min(int(np.ceil(rank)), count - 1)
    ordered = np.partition(values, sorted({low, high}), axis=-1)
    below, above = ordered[..., low], ordered[..., high]
    part = np.float32(rank - np.float32(low))
    if part < 0.5:
        return below + part * (above - below)
    return above - (above - below) * (np.float32(1) - part)


def _sum(terms: Sequence[FloatArray]) -> FloatArray:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
