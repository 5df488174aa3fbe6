"""Folders as people own them: each change against the folder's own pipeline, in levels of 255, or one sentence.

The pipeline is read afresh from the folder by `from_pretrained`, so that what our reading leaves out would show.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_diffusion import write_folder

from limner.export.diffusion.cli import run
from limner.export.diffusion.folder import read_folder
from limner.export.diffusion.picture import quiet
from limner.export.diffusion.writer import DiffusionExport, export_folder
from limner.runtime.bundle.loading import Bundle, load_bundle
from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.diffusion.samplers.by_name import default_sampler
from limner.runtime.diffusion.sampling import generate
from limner.runtime.editor import Editor
from limner.runtime.errors import InputError
from limner.runtime.graphs.sessions import Sessions
from limner.runtime.pictures.images import to_u8
from limner.runtime.recipe import PromptEdit, Recipe, Source
from limner.runtime.settings import SamplingParameters

PROMPT, NEGATIVE = "a person with a beard", "a hat"
CONFIG = DiffusionExport(batches=(1,), weights_storage="fp32")
Change = Callable[[Path], object]
UNET, VAE, TEXT = "unet/config.json", "vae/config.json", "text_encoder/config.json"
SCHEDULER, INDEX = "scheduler/scheduler_config.json", "model_index.json"
WEIGHTS = {"unet": "diffusion_pytorch_model.safetensors", "vae": "diffusion_pytorch_model.safetensors",
           "text_encoder": "model.safetensors"}  # fmt: skip


@pytest.fixture(scope="module")
def owned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("owned") / "model", "sd1", words=True)


@pytest.fixture(scope="module")
def owned_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("owned-xl") / "model", "sdxl", words=True)


def with_values(name: str, **values: Any) -> Change:
    """Keys of a config set; None of `...` takes a key out."""

    def change(root: Path) -> None:
        path = root / name
        found = json.loads(path.read_text()) | values
        path.write_text(json.dumps({key: value for key, value in found.items() if value is not ...}))

    return change


def with_tensors(part: str, edit: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    def change(root: Path) -> None:
        path = root / part / WEIGHTS[part]
        tensors = load_file(path)
        edit(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return change


def all_of(*changes: Change) -> Change:
    return lambda root: [change(root) for change in changes]


def pipeline(root: Path) -> Any:
    with quiet():
        variant = {"variant": "fp16"} if list(root.glob("unet/*.fp16.*")) else {}
        more = (
            variant | {"safety_checker": None}
            if json.loads((root / INDEX).read_text()).get("safety_checker")
            else variant
        )
        pipe = diffusers.DiffusionPipeline.from_pretrained(
            str(root), local_files_only=True, torch_dtype=torch.float32, low_cpu_mem_usage=False, **more
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture_of_pipeline(root: Path, noise: np.ndarray, steps: int, decode_here: bool = False) -> np.ndarray:
    """uint8 [H,W,3]; `decode_here` decodes by the VAE's config, where the pipeline does not read all of it."""
    pipe = pipeline(root)
    factor = pipe.vae_scale_factor
    with torch.no_grad(), quiet():
        found = pipe(PROMPT, negative_prompt=NEGATIVE, num_inference_steps=steps, guidance_scale=5.0,
                     height=noise.shape[2] * factor, width=noise.shape[3] * factor,
                     latents=torch.from_numpy(noise.copy()),
                     output_type="latent" if decode_here else "np").images  # fmt: skip
        if not decode_here:
            return np.rint(found[0] * 255).astype(np.uint8)
        config = pipe.vae.config
        mean = torch.tensor(config.latents_mean or [0.0]).view(1, -1, 1, 1)
        std = torch.tensor(config.latents_std or [1.0]).view(1, -1, 1, 1)
        z = found * std / config.scaling_factor + mean + (config.shift_factor or 0.0)
        return to_u8(pipe.vae.decode(z).sample.numpy())[0]


def levels(root: Path, bundle: Bundle, decode_here: bool = False) -> float:
    """Mean difference of the bundle's picture and the pipeline's, of 255."""
    networks = DiffusionNetworks.from_bundle(bundle, Sessions(bundle, threads=1))
    stochastic = default_sampler(networks.scheduler) in ("lcm", "ddpm", "euler-ancestral", "dpm-solver++-sde")
    steps = 1 if stochastic else 4
    noise = np.random.RandomState(1).standard_normal((1, *networks.latent_shape())).astype(np.float32)
    made = generate(networks, [PROMPT], [0], SamplingParameters(steps=steps, guidance_scale=5.0), negative=NEGATIVE,
                    latents=noise)  # fmt: skip
    ours = to_u8(networks.decode(made))[0]
    theirs = picture_of_pipeline(root, noise, steps, decode_here)
    assert ours.shape == theirs.shape and ours.std() > 0
    return float(np.abs(ours.astype(int) - theirs).mean())


def export(root: Path) -> Bundle:
    return export_folder(root, root.parent / "bundle", CONFIG, say=lambda line: None)


# --- what is read, as the folder's pipeline reads it ------------------------------------------------------


def saved_by_todays_libraries(root: Path) -> None:
    pipe = pipeline(root)
    shutil.rmtree(root)
    pipe.save_pretrained(root)


def sharded(root: Path) -> None:
    path = root / "unet" / WEIGHTS["unet"]
    tensors = load_file(path)
    names = sorted(tensors)
    halves = {"diffusion_pytorch_model-00001-of-00002.safetensors": names[::2],
              "diffusion_pytorch_model-00002-of-00002.safetensors": names[1::2]}  # fmt: skip
    for file, keys in halves.items():
        save_file({key: tensors[key] for key in keys}, root / "unet" / file, metadata={"format": "pt"})
    weight_map = {key: file for file, keys in halves.items() for key in keys}
    (root / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    )
    path.unlink()


def as_bin(part: str) -> Change:
    def change(root: Path) -> None:
        path = root / part / WEIGHTS[part]
        name = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
        torch.save(load_file(path), root / part / name)
        path.unlink()

    return change


def fp16_beside_non_ema(root: Path) -> None:
    path = root / "unet" / WEIGHTS["unet"]
    tensors = load_file(path)
    save_file({k: v * 1.5 for k, v in tensors.items()}, path.with_name("diffusion_pytorch_model.non_ema.safetensors"),
              metadata={"format": "pt"})  # fmt: skip
    path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))


def old_vae_attention(root: Path) -> None:
    """Attention as diffusers before 0.13 named it."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for key in list(tensors):
            for new, old in names.items():
                if ".attentions." in key and f".{new}." in key:
                    tensors[key.replace(f".{new}.", f".{old}.")] = tensors.pop(key)

    with_tensors("vae", rename)(root)


def positions_stored(root: Path) -> None:
    """Older transformers stored the numbers of the positions."""

    def add(tensors: dict[str, torch.Tensor]) -> None:
        prefix = "text_model." if any(key.startswith("text_model.") for key in tensors) else ""
        tensors[f"{prefix}embeddings.position_ids"] = torch.arange(77)[None]

    with_tensors("text_encoder", add)(root)


def scheduler(name: str, **more: Any) -> Change:
    """Another class, named in both files as `save_pretrained` does."""
    return all_of(with_values(SCHEDULER, _class_name=name, **more), with_values(INDEX, scheduler=["diffusers", name]))


READ: dict[str, Change] = {
    "as it is": lambda root: None,
    "saved by today's libraries": saved_by_todays_libraries,
    "clip_sample true": with_values(SCHEDULER, clip_sample=True),
    "clip_sample absent": with_values(SCHEDULER, clip_sample=...),
    "steps_offset 0": with_values(SCHEDULER, steps_offset=0),
    "steps_offset absent": with_values(SCHEDULER, steps_offset=...),
    "prediction_type sample": with_values(SCHEDULER, prediction_type="sample"),
    "trained betas": with_values(SCHEDULER, trained_betas=[0.001 + 0.00001 * i for i in range(1000)]),
    "zero-SNR, v": with_values(SCHEDULER, rescale_betas_zero_snr=True, prediction_type="v_prediction",
                               timestep_spacing="trailing"),
    "LCM": scheduler("LCMScheduler"), "TCD": scheduler("TCDScheduler"), "UniPC": scheduler("UniPCMultistepScheduler"),
    "DEIS": scheduler("DEISMultistepScheduler"), "Heun": scheduler("HeunDiscreteScheduler"),
    "DDPM": scheduler("DDPMScheduler"), "PNDM": scheduler("PNDMScheduler", skip_prk_steps=True),
    "SDE": scheduler("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++"),
    "Karras": scheduler("DPMSolverMultistepScheduler", use_karras_sigmas=True),
    "sharded weights": sharded,
    "UNet as .bin alone": as_bin("unet"), "text encoder as .bin alone": as_bin("text_encoder"),
    "fp16 beside non_ema": fp16_beside_non_ema,
    "old names in the VAE": old_vae_attention,
    "position_ids stored": positions_stored,
    "no model_index.json": lambda root: None,
    "a safety checker named": with_values(INDEX, safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
                                          requires_safety_checker=True),
    "dropout": with_values(UNET, dropout=0.1),
    "sample_size 8 x 12": with_values(UNET, sample_size=[8, 12]),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_a_changed_folder_gives_its_pipelines_picture(owned: Path, tmp_path: Path, name: str) -> None:
    root = tmp_path / "model"
    shutil.copytree(owned, root)
    READ[name](root)
    if name == "no model_index.json":
        saved = (root / INDEX).read_bytes()
        (root / INDEX).unlink()
        bundle = export(root)
        (root / INDEX).write_bytes(saved)
    else:
        bundle = export(root)
    assert levels(root, bundle) < 1.0
    picture = json.loads((bundle.root / "parity.json").read_text())["picture"]
    assert picture["pipeline"] == "StableDiffusionPipeline" and picture["mean_levels"] <= picture["allowed_mean_levels"]
    if name == "sample_size 8 x 12":
        assert bundle.diffusion.image_size == 16 and bundle.diffusion.image_width == 24
        assert Editor(bundle).generate(["a person"], [0])[0].image.shape == (16, 24, 3)


@pytest.mark.parametrize("values", [{"latents_mean": [0.3, -0.2, 0.5, 0.1], "latents_std": [1.5, 0.8, 2.0, 1.1]},
                                    {"shift_factor": 0.4}])  # fmt: skip
def test_latents_are_measured_as_the_vae_says(owned: Path, owned_xl: Path, tmp_path: Path, values: dict[str, Any]
                                              ) -> None:  # fmt: skip
    for source, pictured_here in ((owned, True), (owned_xl, "shift_factor" in values)):
        root = tmp_path / source.parent.name / "model"
        shutil.copytree(source, root)
        with_values(VAE, **values)(root)
        bundle = export(root)
        assert levels(root, bundle, decode_here=pictured_here) < 1.0
        networks = DiffusionNetworks.from_bundle(bundle, Sessions(bundle, threads=1))
        image = np.random.RandomState(0).rand(1, 3, 16, 16).astype(np.float32) * 2 - 1
        raw = networks.graphs.run("vae_encoder", image=image)["latent_mean"]
        found = networks.encode(image) / networks.meta.scaling_factor
        std = np.array(values.get("latents_std", [1.0]))[:, None, None]
        mean = np.array(values.get("latents_mean", [0.0]))[:, None, None] + values.get("shift_factor", 0.0)
        np.testing.assert_allclose(found, (raw - mean) / std, rtol=1e-4, atol=1e-4)
        plain = networks.graphs.run("vae_decoder", latents=raw)["image"]
        np.testing.assert_allclose(networks.decode(networks.encode(image)), np.clip(plain, -1, 1), atol=1e-3)


def add_token(root: Path, flags: bool) -> None:
    """A textual inversion's token: one row more of embeddings, as `tokenizer.add_tokens` and `resize` leave it."""
    vocabulary = len(json.loads((root / "tokenizer" / "vocab.json").read_text()))

    def grow(tensors: dict[str, torch.Tensor]) -> None:
        key = next(key for key in tensors if key.endswith("token_embedding.weight"))
        tensors[key] = torch.cat([tensors[key], 3 * torch.randn(1, tensors[key].shape[1]).to(tensors[key])])

    with_tensors("text_encoder", grow)(root)
    with_values(TEXT, vocab_size=vocabulary + 1)(root)
    (root / "tokenizer" / "added_tokens.json").write_text(json.dumps({"<cat-toy>": vocabulary}))
    if flags:
        entry = {"content": "<cat-toy>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": True,
                 "special": False}  # fmt: skip
        with_values("tokenizer/tokenizer_config.json", added_tokens_decoder={str(vocabulary): entry})(root)


@pytest.mark.parametrize("today", [False, True])
def test_an_added_token_has_its_id(owned: Path, tmp_path: Path, today: bool) -> None:
    root = tmp_path / "model"
    shutil.copytree(owned, root)
    add_token(root, flags=today)
    if today:
        saved_by_todays_libraries(root)
    bundle = export(root)
    networks = DiffusionNetworks.from_bundle(bundle, Sessions(bundle, threads=1))
    theirs = pipeline(root).tokenizer
    for text in ("a <cat-toy> with a hat", "<cat-toy>", "hat<cat-toy>, red", "a cat-toy"):
        wanted = theirs(text, padding="max_length", max_length=77).input_ids
        assert networks.tokenizer.encode(text)[0].tolist() == wanted, text
    assert not np.allclose(networks.token_states(["a <cat-toy>"]), networks.token_states(["a hat"]))


@pytest.mark.parametrize(("says", "tokens"), [(77, 77), (248, 248), (None, 248)])
def test_a_text_encoder_of_more_positions(owned: Path, tmp_path: Path, says: int | None, tokens: int) -> None:
    """248 positions, as Long-CLIP has: as many tokens as the tokenizer says."""
    root = tmp_path / "model"
    shutil.copytree(owned, root)

    def grow(tensors: dict[str, torch.Tensor]) -> None:
        key = next(key for key in tensors if key.endswith("position_embedding.weight"))
        tensors[key] = torch.randn(248, tensors[key].shape[1]).to(tensors[key])

    with_tensors("text_encoder", grow)(root)
    with_values(TEXT, max_position_embeddings=248)(root)
    with_values("tokenizer/tokenizer_config.json", model_max_length=... if says is None else says)(root)
    bundle = export(root)
    assert bundle.manifest.clip.context_length == tokens
    if says is not None:
        assert levels(root, bundle) < 1.0
    swap = PromptEdit("a person with a hat", options={"blend": ["beard:hat"]})
    edit = Editor(bundle).edit(Recipe("prompt-to-prompt", Source.from_prompt(PROMPT, 1), (swap,), {"steps": 2}))
    assert edit.image.std() > 0


@pytest.mark.parametrize("in_place", [False, True])
def test_files_that_are_links_into_a_cache(owned: Path, tmp_path: Path, in_place: bool) -> None:
    """As a hub's client lays a snapshot: names that point to blobs elsewhere."""
    blobs, root = tmp_path / "blobs", tmp_path / "snapshots" / "model"
    blobs.mkdir()
    for number, path in enumerate(sorted(path for path in owned.rglob("*") if path.is_file())):
        place = root / path.relative_to(owned)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, blobs / str(number))
        place.symlink_to(os.path.relpath(blobs / str(number), place.parent))
    before = {path.name: path.read_bytes() for path in blobs.iterdir()}
    bundle = export_folder(root, None if in_place else tmp_path / "bundle", CONFIG, say=lambda line: None)
    assert load_bundle(bundle.root).digest == bundle.digest
    assert levels(root, bundle) < 1.0
    assert before == {path.name: path.read_bytes() for path in blobs.iterdir()}
    if in_place:
        assert not any((root / name).is_symlink() for name in bundle.manifest.files)


# --- what is refused, in one sentence ---------------------------------------------------------------------


def drop(end: str) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: tensors.pop(next(key for key in sorted(tensors) if key.endswith(end)))


def to_lora_folder(root: Path) -> None:
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    save_file({"unet.x.lora_A.weight": torch.zeros(1, 1)}, root / "pytorch_lora_weights.safetensors")


REFUSED: dict[str, tuple[Change, str]] = {
    "a tensor missing, UNet": (with_tensors("unet", drop("conv_in.weight")), r"1 missing: conv_in\.weight"),
    "a tensor missing, text encoder": (with_tensors("text_encoder", drop("fc1.weight")), r"1 missing: .*fc1\.weight"),
    "a tensor missing, VAE": (with_tensors("vae", drop("conv_out.bias")), r"1 missing: .*conv_out\.bias"),
    "a tensor too many": (with_tensors("unet", lambda t: t.update(extra=torch.zeros(1))), "1 unexpected: extra"),
    "another shape": (with_tensors("unet", lambda t: t.update({"conv_in.bias": torch.zeros(3)})), r"conv_in\.bias"),
    "EDM": (scheduler("EDMEulerScheduler"), "EDMEulerScheduler.*allowed: DDIMScheduler"),
    "flow matching": (scheduler("FlowMatchEulerDiscreteScheduler"), "FlowMatchEulerDiscreteScheduler"),
    "a typing error in the class": (scheduler("DDIMSheduler"), "did you mean 'DDIMScheduler'"),
    "no class": (with_values(SCHEDULER, _class_name=...), "_class_name: got None"),
    "two classes": (with_values(SCHEDULER, _class_name="LCMScheduler"), "DDIMScheduler, and LCMScheduler"),
    "a typing error in a key": (with_values(SCHEDULER, beta_shedule="linear"), "did you mean 'beta_schedule'"),
    "sigmoid betas": (with_values(SCHEDULER, beta_schedule="sigmoid"), "sigmoid"),
    "thresholding": (with_values(SCHEDULER, thresholding=True), "thresholding: got True"),
    "time_cond_proj_dim": (with_values(UNET, time_cond_proj_dim=256), "time_cond_proj_dim: got 256"),
    "classes": (with_values(UNET, class_embed_type="timestep"), "class_embed_type: got 'timestep'"),
    "num_class_embeds": (with_values(UNET, num_class_embeds=10), "num_class_embeds: got 10"),
    "sample_size null": (with_values(UNET, sample_size=None), "sample_size: got None"),
    "GLIGEN": (with_values(UNET, attention_type="gated"), "attention_type: got 'gated'"),
    "only cross attention": (with_values(UNET, only_cross_attention=True), "only_cross_attention: got True"),
    "an unknown UNet key": (with_values(UNET, addition_embed_tipe="text"), "did you mean 'addition_embed_type'"),
    "an unknown block": (with_values(UNET, down_block_types=["AttnDownBlock2D", "DownBlock2D"]), "AttnDownBlock2D"),
    "an unknown VAE key": (with_values(VAE, scaling_factr=0.2), "did you mean 'scaling_factor'"),
    "latents_mean of three": (with_values(VAE, latents_mean=[0.0] * 3, latents_std=[1.0] * 4), "4 numbers"),
    "latents_mean alone": (with_values(VAE, latents_mean=[0.0] * 4), "both or none"),
    "scaling_factor 0": (with_values(VAE, scaling_factor=0), "a number above 0"),
    "zero-SNR, PNDM": (scheduler("PNDMScheduler", rescale_betas_zero_snr=True, prediction_type="v_prediction"),
                       "rescale_betas_zero_snr: got true; allowed: false with PNDMScheduler"),
    "zero-SNR, epsilon": (with_values(SCHEDULER, rescale_betas_zero_snr=True), "says nothing"),
    "another pipeline": (with_values(INDEX, _class_name="LatentConsistencyModelPipeline"), "LatentConsistency"),
    "an image encoder": (with_values(INDEX, image_encoder=["transformers", "CLIPVisionModelWithProjection"]),
                         "image prompt"),
    "an unknown text key": (with_values(TEXT, rope_theta=1e4), "rope_theta"),
    "another tokenizer": (with_values("tokenizer/tokenizer_config.json", tokenizer_class="T5Tokenizer"), "T5Tokenizer"),
    "a length beyond the positions": (with_values("tokenizer/tokenizer_config.json", model_max_length=120), "120"),
    "a token of the tokenizer alone": (lambda root: (root / "tokenizer" / "added_tokens.json").write_text(
        json.dumps({"<x>": len(json.loads((root / "tokenizer" / "vocab.json").read_text()))})), "tokenizer alone"),
    "a gap in the ids": (lambda root: (root / "tokenizer" / "added_tokens.json").write_text(
        json.dumps({"<x>": 99_999})), "without a gap"),
    "no weights": (lambda root: (root / "unet" / WEIGHTS["unet"]).unlink(), "no weights among"),
    "a pickle with code": (lambda root: hostile(root), "do not load"),
    "a LoRA alone": (to_lora_folder, "--lora FILE:SCALE"),
}  # fmt: skip


def hostile(root: Path) -> None:
    import pickle

    class Runs:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {root.parent / 'canary'}",)

    (root / "unet" / WEIGHTS["unet"]).unlink()
    (root / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({"conv_in.weight": Runs()}))


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_is_refused_by_name(owned: Path, tmp_path: Path, name: str) -> None:
    root = tmp_path / "model"
    shutil.copytree(owned, root)
    change, words = REFUSED[name]
    change(root)
    with pytest.raises(InputError, match=words) as caught:
        export_folder(root, tmp_path / "bundle", CONFIG, say=lambda line: None)
    assert "\n" not in str(caught.value) and caught.value.field.startswith(("model", "tokenizer"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_single_file_is_told_what_to_do(tmp_path: Path) -> None:
    save_file({"model.diffusion_model.out.0.weight": torch.zeros(1)}, tmp_path / "v1-5.safetensors")
    with pytest.raises(InputError, match=r"from_single_file.*save_pretrained"):
        run(tmp_path / "v1-5.safetensors", None, "", "", False)


def test_a_lora_in_the_folder_is_mentioned(owned: Path, tmp_path: Path) -> None:
    root = tmp_path / "model"
    shutil.copytree(owned, root)
    save_file({"unet.x.lora_A.weight": torch.zeros(1, 1)}, root / "pytorch_lora_weights.safetensors")
    said: list[str] = []
    read_folder(root, said.append)
    assert len(said) == 1 and "--lora FILE:SCALE" in said[0]


def test_an_old_folder_of_latents_below_64_means_64(owned: Path, tmp_path: Path) -> None:
    root = tmp_path / "model"
    shutil.copytree(owned, root)
    with_values(UNET, sample_size=32, _diffusers_version="0.8.1")(root)
    assert read_folder(root).sample_size == (64, 64) == (pipeline(root).unet.config.sample_size,) * 2
