"""Estimates with concepts: which rows the UNet is given, and what is added to the base from them.

A batch has N pictures, each with concepts of its own. One call of the UNet takes

    N rows without text, N rows with the pictures' texts where the base is guided, one row a concept that is needed
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from limner.runtime.diffusion.control import AttentionControl
from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.diffusion.sampling import guided
from limner.runtime.guidance.concepts import Concept, SemanticGuidance
from limner.runtime.guidance.masks import active, masked_guidance
from limner.runtime.methods.sega import MaskKind

__all__ = ["Base", "MaskedSteering", "SemanticSteering", "Steering"]

FloatArray = NDArray[np.float32]


class Base:
    """e_0 + w (e_t - e_0); e_0 alone where no picture has a text or w is 0."""

    def __init__(
        self,
        networks: DiffusionNetworks,
        prompts: Sequence[str],  # one a picture, "" for a picture that nothing is known of
        negative: str,
        scale: float,  # w
        guided_steps: int | None = None,  # after that many the text's rows alone are computed; None is all
    ) -> None:
        self.networks = networks
        self.guided_steps = guided_steps
        self.scale = scale
        self.count = len(prompts)
        self.uncond = networks.token_states([negative] * self.count, "negative_prompt")
        texts = any(prompt.strip() for prompt in prompts) and scale != 0.0
        self.text = networks.token_states(prompts, "source.prompt") if texts else None

    def guides(self, step: int) -> bool:
        """Whether step `step` is guided, by texts and by concepts."""
        return self.guided_steps is None or step < self.guided_steps

    def states(self, step: int) -> list[FloatArray]:
        """Token states of the base's rows at a step, [N,77,D] each."""
        if self.text is None:
            return [self.uncond]
        return [self.uncond, self.text] if self.guides(step) else [self.text]

    def combined(self, output: FloatArray, step: int) -> FloatArray:
        """The base from the first rows of a UNet's output."""
        first = output[: self.count]
        if len(self.states(step)) == 1:
            return first.copy()
        return guided(first, output[self.count : 2 * self.count], self.scale)

    def estimate(self, sample: FloatArray, timestep: float, index: int) -> FloatArray:
        """The base alone, at a step counted from the first one that is taken."""
        states = self.states(index)
        rows = np.concatenate([sample] * len(states))
        return self.combined(self.networks.unet(rows, timestep, np.concatenate(states)).output, index)


class Steering(ABC):
    """A base and the concepts of its pictures; an `Estimate` for `denoise`."""

    maps = False  # whether attention maps of the concepts are wanted

    def __init__(
        self,
        networks: DiffusionNetworks,
        base: Base,
        texts: Sequence[Sequence[str]],  # the concepts of each picture
        concepts: Sequence[Sequence[Concept]],
        first: int,  # the sampler's step that warm-up and cool-down count from
    ) -> None:
        self.networks = networks
        self.base = base
        self.texts = texts
        self.concepts = concepts
        self.first = first
        known = list(dict.fromkeys(text for row in texts for text in row))
        states = networks.token_states(known, "prompts.text") if known else np.zeros((0, 1, 1), np.float32)
        self._states = dict(zip(known, states, strict=True))
        self._words = {text: len(networks.tokenizer.tokens(text, "prompts.text")) for text in known}

    @abstractmethod
    def needed(self, row: int, index: int) -> list[int]:
        """Return the concepts of picture `row` whose estimate step `index` can not do without."""

    @abstractmethod
    def added(
        self,
        row: int,
        index: int,
        timestep: float,
        uncond: FloatArray,  # [1,C,h,w]
        estimates: dict[int, FloatArray],  # concept -> [1,C,h,w]
        maps: dict[int, FloatArray],  # concept -> [h_a,w_a]
    ) -> FloatArray | None:
        """Return what picture `row` gets on top of its base, or None."""

    @abstractmethod
    def mean_masks(self) -> list[dict[str, FloatArray]]:
        """Return each picture's concepts and their mean masks [h,w], of the steps that they were computed at."""

    def estimate(self, sample: FloatArray, timestep: float, index: int) -> FloatArray:
        """Return the steered estimate [N,C,h,w] in one call of the UNet."""
        step = index - self.first
        if not self.base.guides(step):
            return self.base.estimate(sample, timestep, step)
        pairs = [(row, c) for row in range(self.base.count) for c in self.needed(row, step)]
        base = self.base.states(step)
        rows = [*range(self.base.count)] * len(base) + [row for row, _ in pairs]
        states = [*base, *(self._states[self.texts[row][c]][None] for row, c in pairs)]
        found = self.networks.unet(
            sample[rows], timestep, np.concatenate(states), self._control(pairs, len(base)),
            maps=self.maps and bool(pairs),
        )  # fmt: skip
        result = self.base.combined(found.output, step)
        before = len(rows) - len(pairs)
        for row in range(self.base.count):
            own = {c: before + k for k, (other, c) in enumerate(pairs) if other == row}
            estimates = {c: found.output[k : k + 1] for c, k in own.items()}
            maps = {} if found.maps is None else {c: found.maps[k, 0] for c, k in own.items()}
            added = self.added(row, step, timestep, found.output[row : row + 1], estimates, maps)
            if added is not None:
                result[row] += added[0]
        return result

    def _control(self, pairs: list[tuple[int, int]], copies: int) -> AttentionControl | None:
        """The identity; where maps are wanted, each concept's row asks for the attention of its words."""
        if not self.maps or not pairs:
            return None
        before = self.base.count * copies
        tokens = self.networks.tokens
        words = np.zeros((before + len(pairs), 1, tokens), np.float32)
        for k, (row, c) in enumerate(pairs):
            words[before + k, 0, 1 : 1 + self._words[self.texts[row][c]]] = 1.0  # after the start token
        return AttentionControl.identity(len(words), tokens, words)


class SemanticSteering(Steering):
    """The published guidance of SEGA."""

    def __init__(
        self,
        networks: DiffusionNetworks,
        base: Base,
        texts: Sequence[Sequence[str]],
        concepts: Sequence[Sequence[Concept]],
        steps: int,
        momentum: tuple[float, float],  # scale and beta
        first: int = 0,
    ) -> None:
        super().__init__(networks, base, texts, concepts, first)
        self._guidance = [SemanticGuidance(row, steps, *momentum) for row in concepts]

    def needed(self, row: int, index: int) -> list[int]:
        return self._guidance[row].needed(index)

    def added(
        self,
        row: int,
        index: int,
        timestep: float,
        uncond: FloatArray,
        estimates: dict[int, FloatArray],
        maps: dict[int, FloatArray],
    ) -> FloatArray | None:
        return self._guidance[row](index, uncond, estimates)

    def mean_masks(self) -> list[dict[str, FloatArray]]:
        return [_means(texts, one.kept) for texts, one in zip(self.texts, self._guidance, strict=True)]


class MaskedSteering(Steering):
    """The guidance of LEDITS++: every concept inside its own mask."""

    def __init__(
        self,
        networks: DiffusionNetworks,
        base: Base,
        texts: Sequence[Sequence[str]],
        concepts: Sequence[Sequence[Concept]],
        kind: MaskKind = "intersect",
        first: int = 0,
    ) -> None:
        super().__init__(networks, base, texts, concepts, first)
        self.kind: MaskKind = kind
        self.maps = kind != "noise"
        self._masks: list[dict[int, list[FloatArray]]] = [{} for _ in texts]

    def needed(self, row: int, index: int) -> list[int]:
        return [c for c, concept in enumerate(self.concepts[row]) if active(concept, index)]

    def added(
        self,
        row: int,
        index: int,
        timestep: float,
        uncond: FloatArray,
        estimates: dict[int, FloatArray],
        maps: dict[int, FloatArray],
    ) -> FloatArray | None:
        total: FloatArray | None = None
        for c, estimate in estimates.items():
            concept = self.concepts[row][c]
            part, mask = masked_guidance(concept, uncond, estimate, maps.get(c), timestep, self.kind)
            self._masks[row].setdefault(c, []).append(mask[0, 0])
            total = part if total is None else total + part
        return total

    def mean_masks(self) -> list[dict[str, FloatArray]]:
        return [_means(texts, found) for texts, found in zip(self.texts, self._masks, strict=True)]


def _means(texts: Sequence[str], masks: Mapping[int, list[FloatArray]]) -> dict[str, FloatArray]:
    """A picture's concepts and the means of their masks over the steps, [h,w]."""
    return {texts[c]: np.mean(found, axis=0, dtype=np.float32) for c, found in masks.items()}
