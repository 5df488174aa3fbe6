"""An exported folder in the runtime against diffusers on the same folder: plain generation, SEGA, a picture edited."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.deprecated.semantic_stable_diffusion.pipeline_semantic_stable_diffusion import (
    SemanticStableDiffusionPipeline,
)
from support.engines import diffusion

from limner.runtime import Editor, PromptEdit, Recipe, Source
from limner.runtime.bundle.loading import Bundle
from limner.runtime.completing import completed
from limner.runtime.diffusion.sampling import Draws, generate
from limner.runtime.guidance.sega import edited_latents
from limner.runtime.settings import SamplingParameters

STEPS = 12
TOLERANCE = 1e-3  # in latents, relative to the largest: ONNX Runtime sums in another order than torch
PROMPT, CONCEPTS = "a face with red hair", ("a beard", "glasses")


def pipeline(cls: type, folder: Path) -> StableDiffusionPipeline:
    pipe = cls.from_pretrained(folder, torch_dtype=torch.float32)  # type: ignore[attr-defined]
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise(bundle: Bundle) -> np.ndarray:
    meta = bundle.diffusion
    return Draws([3], (meta.latent_channels, meta.sample_size, meta.sample_size))()


def difference(mine: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(mine - theirs).max() / max(1.0, np.abs(theirs).max()))


def test_plain_generation(sd1_folder: Path, sd1_bundle: Bundle) -> None:
    found = pipeline(StableDiffusionPipeline, sd1_folder)(
        PROMPT, num_inference_steps=STEPS, latents=torch.from_numpy(noise(sd1_bundle)), output_type="latent"
    )
    networks = diffusion(Editor(sd1_bundle)).networks
    mine = generate(networks, [PROMPT], [3], SamplingParameters(steps=STEPS))
    assert difference(mine, found.images.numpy()) <= TOLERANCE


def test_sega(sd1_folder: Path, sd1_bundle: Bundle) -> None:
    found = pipeline(SemanticStableDiffusionPipeline, sd1_folder)(
        PROMPT,
        num_inference_steps=STEPS,
        latents=torch.from_numpy(noise(sd1_bundle)),
        editing_prompt=list(CONCEPTS),
        reverse_editing_direction=[False, True],
        edit_warmup_steps=[2, 4],
        edit_cooldown_steps=[9, 99],
        edit_threshold=[0.7, 0.9],
        edit_guidance_scale=[6.0, 5.0],
        edit_momentum_scale=0.3,
        output_type="latent",
    )
    prompts = (
        PromptEdit(CONCEPTS[0], strength=6.0, options={"warmup": 2, "cooldown": 9, "threshold": 0.7}),
        PromptEdit(CONCEPTS[1], strength=-5.0, options={"warmup": 4, "threshold": 0.9}),
    )
    recipe = Recipe("sega", Source.from_prompt(PROMPT, 3), prompts, {"steps": STEPS, "momentum_scale": 0.3})
    editor = Editor(sd1_bundle)
    whole = completed(editor.bundle, recipe)
    whole = replace(whole, parameters=replace(whole.parameters, guidance="semantic"))
    start = diffusion(editor).start(whole, None)
    mine, _ = edited_latents(diffusion(editor).networks, [start], [whole], None, None)
    assert difference(mine, np.asarray(found.images)) <= TOLERANCE
    assert editor.edit(recipe).image.shape == (16, 16, 3)


@pytest.mark.parametrize("masks", ["intersect", "attention", "noise"])
def test_a_picture(sd1_bundle: Bundle, masks: str) -> None:
    picture = np.random.RandomState(0).randint(0, 256, (16, 16, 3), dtype=np.uint8)
    recipe = Recipe("sega", Source("image"), (PromptEdit(CONCEPTS[0]),), {"steps": 4, "masks": masks})
    edit = Editor(sd1_bundle).edit(recipe, given=picture)
    assert np.abs(edit.at(0.0).image.astype(int) - edit.reconstruction).max() <= 1
    assert set(edit.pictures) == {f"mask-{CONCEPTS[0]}"}
