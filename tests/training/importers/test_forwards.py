"""Every imported family against the published formulas in float64 (references.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import published, references
from support.importing import Import
from torch import Tensor

from limner.training.models.clip import ClipImageTower, ClipTextTower
from limner.training.models.store import load_model

FLOAT32 = 2e-5  # relative, largest over the picture: some thirty fp32 layers against float64
ROUNDED = 2e-5  # the same of fp16 weights, which both sides read alike


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((found.double() - expected).abs().max() / expected.abs().max())


def noise(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def measured(record_property: Any) -> Any:
    """A function that checks an error and keeps it in the report of the tests."""

    def check(what: str, found: Tensor, expected: Tensor, limit: float = FLOAT32) -> None:
        error = relative(found, expected)
        record_property(what, error)
        print(f"{what}: {error:.1e}")
        assert expected.isfinite().all() and float(expected.std()) > 1e-3
        assert error < limit, what

    return check


GENERATORS: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]] = {
    "rosinality": (published.write_rosinality, references.rosinality_w, references.rosinality_image),
    "nvidia": (published.write_nvidia, references.nvidia_w, references.nvidia_image),
}


@pytest.mark.parametrize("name", GENERATORS)
@torch.no_grad()
def test_generators(name: str, tmp_path: Path, bring: Import, measured: Any) -> None:
    write, reference_w, reference_image = GENERATORS[name]
    state = references.double(write(tmp_path / "file.pt"))
    generator: Any = load_model(bring(tmp_path / "file.pt").folder)
    z, spread = noise(3, 20), 0.3 * noise(3, 8, 16)
    w = generator.mapping(z)
    measured(f"{name} mapping", w, reference_w(state, z.double()))
    w_plus = generator.broadcast(w) + spread
    measured(f"{name} synthesis", generator.synthesis(w_plus), reference_image(state, w_plus.double()))
    average = state.get("latent_avg", state.get("mapping.w_avg"))
    assert average is not None and torch.equal(generator.latent_avg.double(), average)


@torch.no_grad()
def test_identity(tmp_path: Path, bring: Import, measured: Any) -> None:
    state = references.double(published.write_identity(tmp_path / "model_ir_se50.pth"))
    network = load_model(bring(tmp_path / "model_ir_se50.pth").folder)
    image = noise(2, 3, 300, 300).clamp(-1, 1)
    measured("identity", network(image), references.identity(state, image.double(), [1, 2, 1, 1]))


@torch.no_grad()
def test_encoder(tmp_path: Path, bring: Import, measured: Any) -> None:
    state = references.double(published.write_e4e(tmp_path / "e4e.pt"))
    network = load_model(bring(tmp_path / "e4e.pt").folder)
    image = noise(2, 3, 32, 32).clamp(-1, 1)
    measured("e4e", network(image), references.e4e(state, image.double(), [2, 1, 2]))


@torch.no_grad()
def test_decoder_of_an_encoder(tmp_path: Path, bring: Import) -> None:
    published.write_e4e(tmp_path / "e4e.pt", seed=4)
    generator: Any = load_model(bring(tmp_path / "e4e.pt", decoder=True).folder)
    expected = published.rosinality_generator(seed=4)
    assert all(
        torch.equal(generator.state_dict()[key], value) for key, value in expected.items() if "kernel" not in key
    )


def texts() -> Tensor:
    """Start, words, end, zeros behind it as OpenAI pads."""
    ids = torch.zeros(3, 77, dtype=torch.int64)
    for row, count in zip(ids, (3, 9, 30), strict=True):
        row[: count + 2] = torch.tensor([538, *range(5, 5 + count), 539])
    return ids


@torch.no_grad()
def test_clip_of_openai(tmp_path: Path, bring: Import, measured: Any) -> None:
    state = references.double(published.write_openai_clip(tmp_path / "ViT-B-32.pt"))
    model: Any = load_model(bring(tmp_path / "ViT-B-32.pt").folder)
    pixels = noise(2, 3, 32, 32)
    tower = ClipImageTower(model, 32)
    found = tower.projection(tower.pooled(pixels))
    found = found / found.norm(dim=1, keepdim=True)
    measured("CLIP of OpenAI, pictures", found, references.clip_image(state, pixels.double()), ROUNDED)
    measured("CLIP of OpenAI, text", ClipTextTower(model)(texts()), references.clip_text(state, texts()), ROUNDED)


@pytest.mark.parametrize("binary", [False, True])
@torch.no_grad()
def test_clip_of_hugging_face(binary: bool, tmp_path: Path, bring: Import, measured: Any) -> None:
    """Against the formulas under OpenAI's names; transformers' own forward is compared in test_clip.py."""
    state = references.double(published.write_hugging_face_clip(tmp_path, binary=binary))
    model: Any = load_model(bring(tmp_path).folder)
    p = openai_names(state)
    pixels = noise(2, 3, 32, 32)
    tower = ClipImageTower(model, 32)
    found = tower.projection(tower.pooled(pixels))
    found = found / found.norm(dim=1, keepdim=True)
    measured("CLIP of Hugging Face, pictures", found, references.clip_image(p, pixels.double()))
    measured("CLIP of Hugging Face, text", ClipTextTower(model)(texts()), references.clip_text(p, texts()))


INSIDE = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
          "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}  # fmt: skip


def openai_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' names as OpenAI's, written from both programs."""
    found = {"logit_scale": state["logit_scale"], "visual.proj": state["visual_projection.weight"].T,
             "text_projection": state["text_projection.weight"].T}  # fmt: skip
    for ours, theirs in (("visual.", "vision_model."), ("", "text_model.")):
        i = 0
        while f"{theirs}encoder.layers.{i}.mlp.fc1.weight" in state:
            layer, block = f"{theirs}encoder.layers.{i}", f"{ours}transformer.resblocks.{i}"
            for kind in ("weight", "bias"):
                parts = [state[f"{layer}.self_attn.{q}_proj.{kind}"] for q in "qkv"]
                found[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
                for old, new in INSIDE.items():
                    found[f"{block}.{new}.{kind}"] = state[f"{layer}.{old}.{kind}"]
            i += 1
        embeddings = state[f"{theirs}embeddings.position_embedding.weight"]
        found[f"{ours}positional_embedding"] = embeddings
    for kind in ("weight", "bias"):
        found[f"visual.ln_pre.{kind}"] = state[f"vision_model.pre_layrnorm.{kind}"]
        found[f"visual.ln_post.{kind}"] = state[f"vision_model.post_layernorm.{kind}"]
        found[f"ln_final.{kind}"] = state[f"text_model.final_layer_norm.{kind}"]
    found["visual.conv1.weight"] = state["vision_model.embeddings.patch_embedding.weight"]
    found["visual.class_embedding"] = state["vision_model.embeddings.class_embedding"]
    found["token_embedding.weight"] = state["text_model.embeddings.token_embedding.weight"]
    return found


KINDS = {"all levels": ("LevelsMapper", published.LEVELS), "no fine": ("LevelsMapper", published.LEVELS[:2]),
         "single": ("SingleMapper", ())}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_mappers(name: str, tmp_path: Path, bring: Import, measured: Any) -> None:
    kind, levels = KINDS[name]
    sizes = published.GeneratorSizes({4: 6, 8: 6, 16: 6, 32: 6, 64: 6})  # ten layers, two of them fine
    state = references.double(published.write_mapper(tmp_path / "afro.pt", kind, levels, sizes))
    network = load_model(bring(tmp_path / "afro.pt").folder)
    w_plus = noise(3, 10, 16)
    found, expected = network(w_plus), references.mapper(state, w_plus.double())
    measured(f"mapper, {name}", found, expected)
    assert ("fine" in name) == bool((found[:, 8:] == 0).all())


def test_directions(tmp_path: Path, bring: Import) -> None:
    """SplitS of global_directions/MapTS.py on our layout: a direction moves the same channels by the same."""
    from safetensors.torch import load_file

    sizes = published.GeneratorSizes()
    published.write_rosinality(tmp_path / "g.pt", sizes)
    bring(tmp_path / "g.pt")
    convs, layers = published.style_layers(sizes)
    for rows in (None, sum(convs[:4])):  # the whole, and a file that ends with the fourth layer
        fs3, mean, std = published.write_directions(tmp_path, sizes, rows=rows)
        found = load_file(f"{bring(tmp_path / 'fs3.npy', replace_old=True).folder}/relevance.safetensors")
        text = noise(24).numpy()
        strength = fs3 @ text
        parts, start = [], 0
        for i, width in enumerate(layers):  # every second of three is to-RGB
            part = strength[start : start + width] if i % 3 != 1 else strength[:0]
            parts.append(part * std[i] if len(part) else np.zeros(width, np.float32))
            start += len(part)
        expected = torch.from_numpy(np.concatenate(parts))
        assert torch.allclose((found["relevance"] @ torch.from_numpy(text)) * found["style_std"], expected, atol=1e-5)
        assert torch.equal(found["style_mean"], torch.cat([torch.from_numpy(m) for m in mean]))
