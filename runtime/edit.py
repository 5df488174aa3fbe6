"""The result of an edit, and its strength slider."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from limner.runtime.attention_maps import AttentionMaps
from limner.runtime.pictures.containers import NOTHING, Carried
from limner.runtime.recipe import Recipe
from limner.runtime.schema import require_number
from limner.runtime.storage.later import Later
from limner.runtime.trajectory import Trajectory

__all__ = ["Edit"]

ImageU8 = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Edit:
    """One edited picture and all that is known about it. Pictures are uint8 [H,W,3], RGB.

    `scores`, where the bundle has the networks: clip_before and clip_after (cosine of picture and text, mean
    over the prompts), identity (cosine of reconstruction and edit), pixel (mean square of their difference
    over [-1,1]), and the method's own. `recipe` is complete: defaults, neutral texts and hashes are filled
    in.
    """

    image: ImageU8  # the edit
    recipe: Recipe
    scores: dict[str, float]
    timing: dict[str, float]  # stage -> ms; stages of a batch are those of the whole batch
    provider: str
    _source: Later[ImageU8] = field(repr=False)
    _reconstruction: Later[ImageU8] = field(repr=False)
    trajectory: Trajectory | None = None
    pictures: dict[str, ImageU8] = field(default_factory=dict)  # name -> [H,W,3]: attention maps, masks
    maps: tuple[AttentionMaps, ...] = ()  # of the source's words and the edit's, where they were asked for
    warnings: tuple[str, ...] = ()  # one sentence each, see `notices`
    carried: Carried = NOTHING  # what the source's file holds beside its pixels: XMP, resolution
    compared: bool = True  # whether it was made beside the picture without the edit, as `Editor.edit_batch` says
    _render: Callable[[Recipe], ImageU8] | None = field(default=None, repr=False)
    _shown: dict[float, "Edit"] = field(default_factory=dict, repr=False)

    @property
    def source(self) -> ImageU8:
        """The picture that came in, at the generator's size; of a prompt, the picture without the edit."""
        return self._source()

    @property
    def reconstruction(self) -> ImageU8:
        """The source as the generator makes it; the source itself unless that was a file.

        Made when it is first read, where `Editor.edit` was told not to compare.
        """
        return self._reconstruction()

    def at(self, strength: float) -> "Edit":
        """Return this edit at another strength: 0 is the reconstruction, 1 the edit as it is, at most 10.

        Every prompt's strength is multiplied. It costs one synthesis, or none for 1 and for a strength that
        was asked for before. The result's recipe carries the new strengths and replays to the same pixels;
        its scores are empty. Raises InputError where the method does not go that far.
        """
        strength = require_number("strength", strength, -10.0, 10.0)
        if strength == 1.0 or self._render is None:
            return self
        if strength not in self._shown:
            recipe = self.recipe.scaled(strength)
            edit = Edit(
                image=self._render(recipe),
                _source=self._source,
                _reconstruction=self._reconstruction,
                recipe=recipe,
                scores={},
                timing={},
                provider=self.provider,
                trajectory=self.trajectory,
                warnings=self.warnings,
                carried=self.carried,
                compared=self.compared,
                _render=self._render,
            )
            self._shown[strength] = edit
        return self._shown[strength]

    def preview(self, strength: float) -> ImageU8:
        """Return a picture near `strength` without running anything, where the method kept one on its way.

        Latent optimization keeps one every `keep_every` steps. Where there is none this is
        `at(strength).image`.
        """
        strength = require_number("strength", strength, -10.0, 10.0)
        own = self.recipe.prompts[0].strength
        seen = None if self.trajectory is None or own is None else self.trajectory.seen(strength * own)
        return self.at(strength).image if seen is None else seen
