"""Prompt-to-Prompt on an exported bundle in ONNX Runtime against surgery on the same folder's UNet in torch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from support.attention_control import control
from support.attention_surgery import Blend, Controller, surgery, time_words
from support.engines import diffusion
from support.tiny_diffusion import write_folder

from limner.runtime import Editor
from limner.runtime.attention.editing import Guidance, edit_latents
from limner.runtime.attention.plan import plan_edits
from limner.runtime.attention.words import read_prompt
from limner.runtime.diffusion.samplers.by_name import make_sampler

STEPS, SCALE = 50, 7.5
SOURCE, TARGET = "a red hat", "a blue hat"


@pytest.mark.slow
def test_exported_unet_follows_the_surgery(tmp_path: Path) -> None:
    """Swap, weight, windows, self-replacement and local blend with subtracted words; 50 DDIM steps, latents <= 1e-4."""
    from limner.export.diffusion.writer import DiffusionExport, export_folder

    folder = write_folder(tmp_path / "sd1")
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").eval()
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if ".attn" in name and name.endswith(("to_q.weight", "to_k.weight", "to_v.weight")):
                weight.mul_(2.5)  # sharp enough to matter
            weight.copy_(weight.half())  # as the bundle stores it
    unet.save_pretrained(folder / "unet")
    bundle = export_folder(folder, tmp_path / "bundle", DiffusionExport(name="tiny"), say=lambda line: None)
    networks = diffusion(Editor(bundle)).networks
    start = np.random.RandomState(3).standard_normal((4, 8, 8)).astype(np.float32)
    source, target = (read_prompt(networks.tokenizer, text) for text in (SOURCE, TARGET))
    settings = control(
        weights={"hat": 2.0},
        cross_replace=(0.0, 0.7),
        self_replace=0.4,
        blend=("hat",),
        subtract=("red:blue",),
        blend_threshold=0.6,
        subtract_threshold=0.9,
    )
    plan = plan_edits(source, [(target, settings)], STEPS)
    uncond = networks.token_states([""])[0]
    sampler = make_sampler(networks.scheduler, "ddim", STEPS, 0.0)
    found = edit_latents(networks, sampler, plan, start, Guidance(SCALE, uncond))

    # The tokens are letters: a=1, then the three of "red" and the four of "blue", then the three of "hat".
    red, blue = [2, 3, 4], [2, 3, 4, 5]
    assert source.length == 9 and target.length == 10
    mapper = torch.zeros(1, 77, 77)
    mapper[0, [0, 1], [0, 1]] = 1
    mapper[0, 2:5, 2:6] = 0.25
    mapper[0, [5, 6, 7, 8], [6, 7, 8, 9]] = 1
    rest = list(range(10, 77))
    mapper[0, rest, rest] = 1
    words, away = torch.zeros(2, 77), torch.zeros(2, 77)
    words[0, [5, 6, 7]] = words[1, [6, 7, 8]] = 1
    away[0, red] = away[1, blue] = 1
    equalizer = torch.ones(1, 77)
    equalizer[0, [6, 7, 8]] = 2.0
    controller = Controller(
        STEPS,
        time_words(STEPS, [{"default": (0.0, 0.7)}]),
        (0, 20),
        mapper=mapper,
        equalizer=equalizer,
        blend=Blend(words, 10, 0.6, away, 0.9),
        layers=bundle.diffusion.blend_layers,
    )
    texts = torch.from_numpy(networks.token_states([SOURCE, TARGET]))
    config = DDIMScheduler.from_pretrained(folder, subfolder="scheduler").config
    noise, free = torch.from_numpy(start)[None], torch.from_numpy(uncond)
    wanted = surgery(unet, DDIMScheduler.from_config(config), controller, noise, free, texts, STEPS, SCALE)
    difference = np.abs(found.latents - wanted.numpy()).max()
    assert difference <= 1e-4, f"{difference:.2e}"
    assert found.masks[0] is not None and 0 < found.masks[0].mean() < 1
    assert np.abs(found.latents[1] - found.latents[0]).max() > 0.01
