"""The run of a Prompt-to-Prompt edit: one source and N edits, from the same latents, step by step together.

Hertz et al. 2022, algorithm 1, with classifier-free guidance. The randomness is one: edits start from the source's
latents, and a sampler that takes noise gives all of them the same.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from limner.runtime.attention.control import Control, Row
from limner.runtime.attention.local_blend import LocalBlend
from limner.runtime.attention.maps import MapRecorder, word_columns
from limner.runtime.attention.plan import Plan
from limner.runtime.attention_maps import AttentionMaps
from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.diffusion.previews import watch
from limner.runtime.diffusion.samplers.by_name import Sampler
from limner.runtime.diffusion.sampling import denoise, guided
from limner.runtime.errors import InputError
from limner.runtime.timing import Progress

__all__ = ["Edited", "Guidance", "edit_latents"]

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Guidance:
    """What guides the run.

    Direct and edit-friendly inversion give `replay`: the source's latents after every step, which take the place of
    computed ones.
    Negative-prompt inversion gives `uncond`, the token states of the source's own prompt, and `same`.
    """

    scale: float
    uncond: FloatArray  # [77,D]
    steps: int | None = None  # that are guided; None is all
    same: bool = False  # `uncond` is what the source is told: guidance changes nothing about it
    replay: FloatArray | None = None  # [S,C,h,w]

    @property
    def guides_source(self) -> bool:
        """Whether the source's unconditional row changes anything."""
        return not self.same and self.replay is None


@dataclass(frozen=True, eq=False)
class Edited:
    """What came out of a run."""

    latents: FloatArray  # [N+1,C,h,w], the source first; it is no picture if it was not asked for
    masks: list[NDArray[np.bool_] | None]  # [h,w] of the local edits at the last step
    maps: list[AttentionMaps] = field(default_factory=list)  # of the source and the edits, if asked for


def edit_latents(
    networks: DiffusionNetworks,
    sampler: Sampler,
    plan: Plan,
    start: FloatArray,  # [C,h,w], latents of the first step, with the sampler's scale
    guidance: Guidance,
    *,
    first: int = 0,  # the sampler's step that the plan's first one is
    draw: Callable[[], FloatArray] | None = None,  # standard normal draws [1,C,h,w], for a sampler that takes them
    want_source: bool = True,  # whether the source's picture is asked for
    want_maps: bool = False,
    progress: Progress | None = None,
) -> Edited:
    """Run all edits of the plan.

    Raises InputError for a guidance scale that tells the edits nothing, and naming the step for NaN.
    """
    if not guidance.scale > 1.0:
        hint = "7.5 is usual"
        raise InputError("parameters.guidance_scale", f"{guidance.scale:g}", "more than 1 with edits", hint)
    run = _Run(networks, plan, guidance, want_source, want_maps, first)
    members = len(plan.prompts)
    latents = denoise(
        sampler,
        np.repeat(start[None], members, axis=0),
        run.estimate,
        draw=None if draw is None else lambda: np.repeat(draw(), members, axis=0),
        after=run.after,
        first=first,
        progress=progress,
        watch=watch(networks, progress, row=1),
    )
    masks = [None if blend is None else blend.mask for blend in run.blends]
    return Edited(latents, masks, run.recorder.result() if run.recorder is not None else [])


class _Run:
    """The state of one run."""

    def __init__(
        self,
        networks: DiffusionNetworks,
        plan: Plan,
        guidance: Guidance,
        want_source: bool,
        want_maps: bool,
        first: int,
    ) -> None:
        self.networks = networks
        self.first = first
        self.plan = plan
        self.guidance = guidance
        self.blends = [None if edit.blend is None else LocalBlend(edit.blend) for edit in plan.edits]
        self.recorder = MapRecorder(plan.prompts) if want_maps else None
        words = [plan.words, *([word_columns(plan.prompts, plan.words.shape[-1])] if want_maps else [])]
        self.wants_maps = any(part.shape[1] for part in words)
        self.columns = np.concatenate(words, axis=1)  # [N+1,K,77]
        if not self.wants_maps:
            self.columns = np.zeros((len(plan.prompts), 1, plan.words.shape[-1]), dtype=np.float32)
        computed = want_source and guidance.replay is None
        keep = computed or want_maps or any(blend is not None for blend in self.blends)
        edits = [edit.control for edit in plan.edits]
        self.control = Control(edits, self.columns, keep, guidance.guides_source, guidance.steps)
        self.texts = networks.token_states([prompt.text for prompt in plan.prompts])  # [N+1,77,D]
        self.maps: FloatArray | None = None  # [N+1,K,h_a,w_a] of the last call

    def estimate(self, sample: FloatArray, timestep: float, index: int) -> FloatArray:
        """Guided outputs of all members; zeros for a source that nothing asks for any more."""
        index -= self.first
        rows = self.control.rows(index)
        members = [row.member for row in rows]
        states = np.stack([self.texts[row.member] if row.conditional else self.guidance.uncond for row in rows])
        found = self.networks.unet(
            sample[members], timestep, states, self.control.tensors(index, rows), maps=self.wants_maps
        )
        output = np.zeros_like(sample)
        for member in sorted(set(members)):
            told = found.output[rows.index(Row(member, True))]
            free = Row(member, False)
            output[member] = guided(found.output[rows.index(free)], told, self.guidance.scale) if free in rows else told
        if found.maps is not None:
            self.maps = found.maps[[rows.index(Row(member, True)) for member in range(len(self.texts))]]
            if self.recorder is not None:
                self.recorder.add(timestep, self.maps[:, self.plan.words.shape[1] :])
        return output

    def after(self, index: int, latents: FloatArray) -> FloatArray:
        """Replay the source, then blend the local edits."""
        index -= self.first
        latents = latents.copy()  # the sampler may remember what it gave
        if self.guidance.replay is not None:
            latents[0] = self.guidance.replay[index]
        for member, blend in enumerate(self.blends, start=1):
            if blend is not None:
                maps = None if self.maps is None or blend.settings.words is None else self.maps[[0, member]]
                latents[member] = blend.blend(index, latents[0], latents[member], maps)
        return latents
