"""Pictures on the way of latent optimization: those of the points it passes, and the walk is the same."""

import numpy as np
import pytest

from limner.runtime import Editor, PromptEdit, Recipe, Source
from limner.runtime.bundle.shipped import shipped_bundle
from limner.runtime.timing import Previews

BEARD = (PromptEdit("a person with a beard"),)


@pytest.mark.parametrize("space", ["s", "w_plus"])
def test_they_are_those_of_the_walk_and_change_nothing(space: str) -> None:
    editor, shown = Editor(shipped_bundle("stylegan2"), threads=1), list[tuple[int, np.ndarray]]()
    recipe = Recipe("latent-optimization", Source.from_seed(3), BEARD, {"steps": 12, "space": space})
    plain = editor.edit(recipe, compare=False)
    watched = editor.edit(recipe, Previews(3, lambda step, steps, image: shown.append((step, image))), compare=False)
    assert (watched.image == plain.image).all() and [step for step, _ in shown] == [3, 6, 9]
    kept = editor.edit(Recipe(recipe.method, recipe.source, BEARD, {"steps": 12, "space": space, "keep_every": 1}))
    assert kept.trajectory is not None
    walked = dict(zip(kept.trajectory.steps, kept.trajectory.images, strict=True))
    for step, image in shown:  # of the point that the step begins at
        assert image.shape == (1, 3, 128, 128) and image.dtype == np.float32
        near = np.abs((np.clip(image[0].transpose(1, 2, 0), -1, 1) + 1) * 127.5 - walked[step - 1]).max()
        assert near <= 1.0


def test_refining_an_inversion_shows_none() -> None:
    editor, shown = Editor(shipped_bundle("stylegan2"), threads=1), list[int]()
    picture = editor.sample(4).image
    source = Source("image")
    recipe = Recipe("latent-optimization", source, BEARD, {"steps": 6}, inversion={"refine_steps": 8})
    editor.edit(recipe, Previews(2, lambda step, *_: shown.append(step)), given=picture, compare=False)
    assert shown == [2, 4]
