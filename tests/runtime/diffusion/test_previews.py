"""Pictures on the way: x0 as diffusers' schedulers say it, and as many as asked."""

import numpy as np
import pytest
import torch
from support.torch_twin import CLASSES, SD15, TinyModels, difference

from limner.runtime import Editor, PromptEdit, Recipe, Source
from limner.runtime.bundle.shipped import checkpoints_folder
from limner.runtime.diffusion.previews import predicted_clean
from limner.runtime.diffusion.sampling import generate, new_sampler
from limner.runtime.settings import SamplerName, SamplingParameters
from limner.runtime.timing import Previews

SHIPPED = checkpoints_folder() / "avatars" / "diffusion"


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["ddim", "euler", "ddpm"])
def test_the_clean_picture_is_that_of_diffusers(tiny: TinyModels, name: SamplerName, prediction: str) -> None:
    networks = tiny.networks(prediction)
    sampler = new_sampler(networks, SamplingParameters(steps=10, sampler=name))
    theirs = CLASSES[name].from_config(SD15 | {"prediction_type": prediction})
    theirs.set_timesteps(10)
    random = np.random.RandomState(0)
    for index in (0, 4, 8):
        latents = random.randn(1, 4, 8, 8).astype(np.float32) * (sampler.init_noise_sigma if index == 0 else 1.0)
        output = random.randn(1, 4, 8, 8).astype(np.float32)
        timestep, theirs._step_index = theirs.timesteps[index], None  # what it looks up anew
        sample = theirs.scale_model_input(torch.from_numpy(latents), timestep)
        wanted = theirs.step(torch.from_numpy(output), timestep, torch.from_numpy(latents)).pred_original_sample
        scaled = sampler.scale_input(latents, index)
        assert difference(scaled, sample.numpy()) <= 1e-5
        found = predicted_clean(sampler, output, scaled, float(sampler.timesteps[index]))
        assert difference(found, wanted.numpy()) <= 2e-3  # Euler's sigmas lie between two timesteps' own


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("method", ["sega", "prompt-to-prompt", "generate"])
def test_as_many_as_asked_nearer_and_nearer(method: str, count: int) -> None:
    shown: list[tuple[int, np.ndarray]] = []
    steps: list[int] = []
    progress = Previews(count, lambda step, total, image: shown.append((step, image)), lambda k, *_: steps.append(k))
    editor = Editor(SHIPPED, threads=1)
    source = Source.from_prompt("a portrait of a man", 3)
    text = "glasses" if method == "sega" else "a portrait of a man with a hat"
    if method == "generate":
        made = editor.generate(["a portrait of a man"], [3], {"steps": 12}, progress=progress)[0].image
    else:
        recipe = Recipe(method, source, (PromptEdit(text),), {"steps": 12})
        made = editor.edit(recipe, progress, compare=False).image
        assert (made == Editor(SHIPPED, threads=1).edit(recipe, compare=False).image).all()
    assert [step for step, _ in shown] == {0: [], 1: [6], 3: [3, 6, 9]}[count] and steps == list(range(1, 13))
    final = made.astype(np.float32) / 127.5 - 1
    far = [float(np.abs(image[0].transpose(1, 2, 0) - final).mean()) for _, image in shown]
    assert far == sorted(far, reverse=True) and all(image.shape == (1, 3, 128, 128) for _, image in shown)


def test_a_picture_on_the_way_costs_no_call_of_the_unet(tiny: TinyModels) -> None:
    networks = tiny.networks()
    generate(networks, ["a cat"], [0], SamplingParameters(steps=4), progress=Previews(2, lambda *_: None))
    assert networks.unet_rows == 2 * 4
