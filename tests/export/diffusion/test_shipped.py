"""The shipped diffusion model: one folder that diffusers and the runtime both read, and edits that show."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from support.engines import diffusion

from limner.runtime import Editor
from limner.runtime.bundle.shipped import checkpoints_folder, shipped_bundle
from limner.runtime.diffusion.sampling import Draws, generate
from limner.runtime.settings import SamplingParameters
from limner.runtime.study.judge import JudgeGraph
from limner.runtime.study.recipes import recipe_of
from limner.runtime.study.samples import Sample
from limner.training.avatars.descriptions import describe
from limner.training.avatars.edits import EDITS
from limner.training.avatars.held_out import asked_of

WORDS = {
    "hair": "short", "hair_color": "brown", "facial_hair": "none", "eyewear": "none", "expression": "neutral",
    "skin": "tanned", "clothes": "t-shirt", "clothes_color": "green", "background": "pink",
}  # fmt: skip
BY_NAME = {edit.name: edit for edit in EDITS}
SEEDS = (0, 1, 2, 3)
STEPS = 8


@pytest.fixture(scope="module")
def editor() -> Editor:
    return Editor(shipped_bundle("diffusion"), threads=1)


@pytest.fixture(scope="module")
def judge() -> JudgeGraph:
    return JudgeGraph(checkpoints_folder() / "avatars" / "judge")


def seen(judge: JudgeGraph, images: Sequence[NDArray[np.uint8]], attribute: str) -> list[str]:
    return [words[attribute] for words in judge.words(np.stack(images))]


def test_diffusers_makes_the_same_latents(editor: Editor) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(
        checkpoints_folder() / "avatars" / "diffusion", torch_dtype=torch.float32, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    meta = editor.bundle.diffusion
    noise = Draws([5], (meta.latent_channels, meta.sample_size, meta.sample_size))()
    found = pipe(
        describe(WORDS), num_inference_steps=STEPS, guidance_scale=4.0, latents=torch.from_numpy(noise),
        output_type="latent",
    )  # fmt: skip
    settings = SamplingParameters(steps=STEPS, guidance_scale=4.0)
    mine = generate(diffusion(editor).networks, [describe(WORDS)], [5], settings)
    wanted = found.images.numpy()
    assert np.abs(mine - wanted).max() <= 1e-3 * np.abs(wanted).max()


def test_pictures_show_what_their_prompt_says(editor: Editor, judge: JudgeGraph) -> None:
    texts = [describe({**WORDS, "background": color, "eyewear": "glasses"}) for color in ("blue", "yellow")]
    made = [one.image for one in editor.generate(texts, SEEDS[:2], {"steps": STEPS})]
    assert seen(judge, made, "background") == ["blue", "yellow"]
    assert seen(judge, made, "eyewear") == ["glasses", "glasses"]


@pytest.mark.parametrize("method", ["prompt-to-prompt", "sega"])
@pytest.mark.parametrize("name", ["sunglasses", "bald"])
def test_edits_are_seen(editor: Editor, judge: JudgeGraph, method: str, name: str) -> None:
    edit = BY_NAME[name]
    asked = {name: asked_of(edit, WORDS)}
    people = [Sample(seed, "", "", seed, WORDS, describe(WORDS), asked) for seed in SEEDS]
    recipes = [recipe_of(editor.bundle, method, edit, person, None, {"steps": 12}) for person in people]
    done = [editor.edit(recipe) for recipe in recipes]
    before = seen(judge, [one.reconstruction for one in done], edit.attribute)
    after = seen(judge, [one.image for one in done], edit.attribute)
    assert edit.value not in before
    assert sum(value == edit.value for value in after) >= len(SEEDS) - 1
