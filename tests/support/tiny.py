"""Tiny random networks of every family, their checkpoints with a tokenizer, and the bundle exported from them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnxruntime
import onnxscript
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from limner.export.stylegan2.networks import Networks
from limner.export.stylegan2.writer import ExportConfig, export_checkpoints
from limner.runtime.bundle.loading import Bundle, load_bundle
from limner.training.config import to_plain
from limner.training.models.clip import build_clip, clip_config
from limner.training.models.irse import BodyConfig, IdentityConfig, IdentityNet
from limner.training.models.psp import E4eEncoder, EncoderConfig
from limner.training.models.store import save_model
from limner.training.models.stylegan2 import Generator, StyleGAN2Config

SIZE = 8
EMBEDDING = 12  # of CLIP
WORDS = ("a", "person", "with", "beard", "glasses", "smiling", "hair")

GENERATOR = StyleGAN2Config(size=SIZE, z_dim=8, w_dim=16, n_mlp=2, channels={4: 12, 8: 8})
IDENTITY = IdentityConfig(
    image_size=SIZE, input_size=8, crop="none", body=BodyConfig(8, (8, 12), (1, 1), 4), embedding=10, dropout=0.0
)
ENCODER = EncoderConfig(
    image_size=SIZE,
    input_size=2 * SIZE,
    num_ws=GENERATOR.num_ws,
    w_dim=GENERATOR.w_dim,
    body=BodyConfig(8, (8, 8, 12), (1, 1, 1), 4),
    style_width=8,
    coarse=2,
    middle=4,
)


def byte_symbols() -> list[str]:
    """The printable stand-in of each byte, as in OpenAI's bytes_to_unicode."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + place) for place in range(len(others))]


def write_tokenizer(folder: Path) -> int:
    """Write vocab.json and merges.txt with a token per word of WORDS; return the number of tokens."""
    symbols = byte_symbols()
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols)]
    merges: list[str] = []
    for word in WORDS:
        left = word[0]
        for place, letter in enumerate(word[1:], start=2):
            right = letter + ("</w>" if place == len(word) else "")
            if f"{left} {right}" not in merges:
                merges.append(f"{left} {right}")
                tokens.append(left + right)
            left += letter
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return len(tokens)


def tiny_clip_config(vocabulary: int) -> dict[str, object]:
    """CLIP with two layers a tower."""
    return clip_config(
        vocabulary, image_size=16, patch=8, vision_width=16, vision_layers=2, vision_heads=2,
        text_width=16, text_layers=1, text_heads=2, embedding=EMBEDDING,
    )  # fmt: skip


@torch.no_grad()
def unsettle(module: nn.Module) -> None:
    """Move what starts at zero or one, so that a part which is left out shows."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point() and ("bias" in name or "noise.weight" in name or "running_mean" in name):
            tensor.add_(0.1 * torch.randn_like(tensor))
        if "running_var" in name or (tensor.dim() == 1 and name.endswith("weight") and len(tensor) > 1):
            tensor.mul_(1 + 0.3 * torch.rand_like(tensor))


def tiny_parts(vocabulary: int = 600, seed: int = 0) -> dict[str, nn.Module]:
    """Generator, CLIP, identity and encoder, random and in eval mode."""
    torch.manual_seed(seed)
    parts = {
        "stylegan2": Generator(GENERATOR),
        "clip": build_clip(tiny_clip_config(vocabulary)),
        "identity": IdentityNet(IDENTITY),
        "encoder": E4eEncoder(ENCODER),
    }
    for module in parts.values():
        unsettle(module)
        module.eval().requires_grad_(False)
    return parts


def tiny_networks(vocabulary: int = 600, seed: int = 0) -> Networks:
    """The same as the export takes them."""
    parts = tiny_parts(vocabulary, seed)
    generator = parts["stylegan2"]
    assert isinstance(generator, Generator)
    return Networks.of(generator, parts["clip"], parts["identity"], parts["encoder"])


def write_tiny_checkpoints(folder: Path) -> Path:
    """Write a folder of checkpoints like checkpoints/avatars."""
    (folder / "clip").mkdir(parents=True)
    vocabulary = write_tokenizer(folder / "clip")
    parts = tiny_parts(vocabulary)
    configs = {
        "stylegan2": GENERATOR, "clip": tiny_clip_config(vocabulary), "identity": IDENTITY, "encoder": ENCODER,
    }  # fmt: skip
    for name, config in configs.items():
        card = f"# {name}\n\n## Licence\n\nWeights: Apache-2.0. Trained on noise.\n"
        save_model(folder / name, name, to_plain(config), parts[name].state_dict(), card)
    generator = parts["stylegan2"]
    assert isinstance(generator, Generator)
    _write_relevance(folder / "edits", generator)
    presets = {"defaults": {"latent-optimization": {"steps": 3, "layers": ["coarse"]}}, "neutrals": {"beard": ""}}
    (folder / "edits" / "presets.json").write_text(json.dumps(presets), encoding="utf-8")
    return folder


def _write_relevance(folder: Path, generator: Generator) -> None:
    folder.mkdir()
    relevance = nn.functional.normalize(torch.randn(generator.num_style_channels, EMBEDDING), dim=1)
    start = 0
    for layer in generator.layers:
        if layer.kind == "to_rgb":
            relevance[start : start + layer.channels] = 0
        start += layer.channels
    ones = torch.ones(generator.num_style_channels)
    save_file({"relevance": relevance, "style_mean": 0 * ones, "style_std": ones}, folder / "relevance.safetensors")


def fingerprint() -> str:
    """A hash of everything that the exported bundle depends on: sources, this file and versions."""
    root = Path(__file__).resolve().parents[2]
    sources = sorted(
        [*root.glob("export/**/*.py"), *root.glob("training/models/*.py"), *root.glob("runtime/bundle/*.py")]
    )
    digest = hashlib.sha256(f"{torch.__version__} {onnxruntime.__version__} {onnxscript.__version__}".encode())
    for path in [*sources, Path(__file__)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny checkpoints; read-only by agreement."""
    return write_tiny_checkpoints(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoints: Path, request: pytest.FixtureRequest) -> Bundle:
    """The bundle exported from the tiny checkpoints, fp16 weights; read-only by agreement.

    The export takes half a minute, so pytest's cache keeps it as long as the sources stay the same.
    """
    out = request.config.cache.mkdir("limner-tiny-bundle") / fingerprint()
    if not (out / "bundle.json").is_file():
        config = ExportConfig(name="tiny", batches=(1, 3))
        export_checkpoints(tiny_checkpoints, out, config, say=lambda line: None)
    return load_bundle(out)
