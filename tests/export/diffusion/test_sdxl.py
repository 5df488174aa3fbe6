"""A folder in the shape of SDXL, exported and run, against diffusers' StableDiffusionXLPipeline on the same weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from support.engines import diffusion
from support.tiny_diffusion import POOLED, TEXT_WIDTH, write_folder

from limner.export.diffusion.folder import read_folder
from limner.export.diffusion.writer import DiffusionExport, export_folder
from limner.runtime import Editor, PromptEdit, Recipe, Source
from limner.runtime.bundle.loading import Bundle
from limner.runtime.diffusion.sampling import Draws, generate
from limner.runtime.errors import InputError
from limner.runtime.settings import SamplingParameters

PROMPT = "a face with red hair"
TOLERANCE = 1e-3  # in latents, relative to the largest: ONNX Runtime sums in another order than torch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("sdxl") / "model", "sdxl")


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    config = DiffusionExport(name="sdxl", batches=(1, 2))
    return export_folder(folder, folder.with_name("bundle"), config, say=lambda line: None)


def test_the_bundle_says_what_the_unet_takes(bundle: Bundle) -> None:
    meta = bundle.diffusion
    assert (meta.pooled, meta.zero_empty, bundle.manifest.clip.embedding) == (POOLED, True, TEXT_WIDTH)
    assert meta.second_pad not in (bundle.manifest.clip.pad, bundle.manifest.clip.eos)
    names = [tensor.name for tensor in bundle.graph("unet").inputs]
    assert names[-2:] == ["text_embeds", "time_ids"]
    assert all(graph.parity and graph.parity.max_rel_error <= 1e-4 for graph in bundle.manifest.graphs.values())


@pytest.mark.parametrize("negative", ["", "glasses"])
def test_plain_generation(folder: Path, bundle: Bundle, negative: str) -> None:
    pipe = StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    noise = Draws([3], (4, 8, 16))()
    found = pipe(
        PROMPT,
        negative_prompt=negative or None,
        height=16,
        width=32,
        num_inference_steps=8,
        guidance_scale=5.0,
        latents=torch.from_numpy(noise),
        output_type="latent",
    ).images.numpy()
    parameters = SamplingParameters(steps=8, guidance_scale=5.0, height=16, width=32)
    mine = generate(diffusion(Editor(bundle)).networks, [PROMPT], [3], parameters, negative=negative)
    assert np.abs(mine - found).max() <= TOLERANCE * max(1.0, np.abs(found).max())


def test_both_methods_edit(bundle: Bundle) -> None:
    editor = Editor(bundle)
    source = Source.from_prompt(PROMPT, 4)
    swap = Recipe("prompt-to-prompt", source, (PromptEdit("a face with blue hair", options={"blend": ["hair"]}),),
                  {"steps": 4})  # fmt: skip
    concept = Recipe("sega", source, (PromptEdit("glasses", options={"warmup": 0}),), {"steps": 4})
    for recipe in (swap, concept):
        edit = editor.edit(recipe)
        assert edit.image.shape == (16, 16, 3) and (edit.image != edit.reconstruction).any()
    picture = np.random.RandomState(0).randint(0, 256, (16, 16, 3), dtype=np.uint8)
    real = Recipe("sega", Source("image"), (PromptEdit("glasses"),), {"steps": 4})
    assert set(editor.edit(real, given=picture).pictures) == {"mask-glasses"}


@pytest.mark.parametrize(
    ("change", "word"),
    [("vocabulary", "tokenizer_2/vocab.json"), ("plain unet", "pooled"), ("no second", "without text_encoder_2")],
)
def test_parts_that_do_not_fit_are_refused(folder: Path, tmp_path: Path, change: str, word: str) -> None:
    root = tmp_path / "model"
    shutil.copytree(folder, root)
    if change == "vocabulary":
        (root / "tokenizer_2" / "vocab.json").write_text("{}")
    elif change == "plain unet":
        shutil.copytree(write_folder(tmp_path / "sd1") / "unet", root / "unet", dirs_exist_ok=True)
    else:
        shutil.rmtree(root / "text_encoder_2")
        assert json.loads((root / "unet" / "config.json").read_text())["cross_attention_dim"] == TEXT_WIDTH
    with pytest.raises(InputError, match=word):
        read_folder(root)
