"""The shipped diffusion model: one folder that diffusers and the runtime both read, and edits that show."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray

from limner.export.battery import EDITS, Judging
from limner.export.diffusion.battery.methods import PROMPT_TO_PROMPT, SEGA, battery_recipe
from limner.export.diffusion.battery.runs import has_room
from limner.export.diffusion.battery.words import describe
from limner.runtime import Editor
from limner.runtime.bundle.shipped import checkpoints_folder, shipped_bundle
from limner.runtime.diffusion.sampling import Draws, generate
from limner.runtime.pictures.images import to_float
from limner.runtime.settings import SamplingParameters

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
def judge() -> Judging:
    return Judging(checkpoints_folder() / "avatars" / "judge")


def seen(judge: Judging, images: Sequence[NDArray[np.uint8]], attribute: str) -> list[str]:
    return [words[attribute] for words in judge(to_float(np.stack(images)))]


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
    mine = generate(editor.engine.networks, [describe(WORDS)], [5], settings)
    wanted = found.images.numpy()
    assert np.abs(mine - wanted).max() <= 1e-3 * np.abs(wanted).max()


def test_pictures_show_what_their_prompt_says(editor: Editor, judge: Judging) -> None:
    texts = [describe({**WORDS, "background": color, "eyewear": "glasses"}) for color in ("blue", "yellow")]
    made = [one.image for one in editor.generate(texts, SEEDS[:2], {"steps": STEPS})]
    assert seen(judge, made, "background") == ["blue", "yellow"]
    assert seen(judge, made, "eyewear") == ["glasses", "glasses"]


@pytest.mark.parametrize("method", [PROMPT_TO_PROMPT, SEGA])
@pytest.mark.parametrize("name", ["sunglasses", "bald"])
def test_edits_are_seen(editor: Editor, judge: Judging, method: str, name: str) -> None:
    edit = BY_NAME[name]
    assert has_room(edit, WORDS)
    recipes = [battery_recipe(method, edit, WORDS, seed, {"steps": 12}) for seed in SEEDS]
    done = [editor.edit(recipe) for recipe in recipes]
    before = seen(judge, [one.reconstruction for one in done], edit.attribute)
    after = seen(judge, [one.image for one in done], edit.attribute)
    assert edit.value not in before
    assert sum(value == edit.value for value in after) >= len(SEEDS) - 1
