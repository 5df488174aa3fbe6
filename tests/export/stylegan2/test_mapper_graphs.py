"""Mappers in a bundle: their graphs against torch, what bundle.json says of them, and mappers that do not fit."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny import GENERATOR

from limner.export.stylegan2 import writer as bundle_writer
from limner.export.stylegan2.graphs import build_specs
from limner.export.stylegan2.networks import load_networks
from limner.export.stylegan2.writer import ExportConfig, export_checkpoints
from limner.runtime.bundle.loading import Bundle
from limner.runtime.errors import InputError
from limner.runtime.stylegan2.latent_mapper import mapper_steps, render_steps
from limner.runtime.stylegan2.networks import Models
from limner.training.models.mapper import LatentMapper, MapperConfig, build_mapper, generator_digest
from limner.training.models.store import load_model, save_model

TOLERANCE = 1e-4  # as the export's own, fp32
SIZES: dict[str, Any] = {"num_ws": GENERATOR.num_ws, "w_dim": GENERATOR.w_dim}
KEPT = ("mapping", "affine", "synthesis_w", "synthesis_s", "identity")


@pytest.fixture(scope="module")
def checkpoints(tiny_checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny checkpoints with a mapper of W+ and one of S."""
    folder = Path(shutil.copytree(tiny_checkpoints, tmp_path_factory.mktemp("mapped") / "checkpoints"))
    generator: Any = load_model(folder / "stylegan2")
    digest, styles = generator_digest(generator.state_dict()), tuple(layer.channels for layer in generator.layers)
    torch.manual_seed(4)
    card = "# x\n\n## Licence\n\nWeights: Apache-2.0. Trained on noise.\n"
    for config in (
        MapperConfig("levels", **SIZES, fine=False, prompt="a person with a beard", generator=digest, strength=1.5),
        MapperConfig("styles", **SIZES, styles=styles, prompt="a person with glasses"),
    ):
        place = folder / "edits" / "mappers" / config.prompt.split()[-1]
        save_model(place, "mapper", config, build_mapper(config).state_dict(), card)
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of those, with the few graphs that mappers need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            bundle_writer,
            "build_specs",
            lambda n: {k: v for k, v in build_specs(n).items() if k in KEPT or k.startswith("mapper_")},
        )
        out = tmp_path_factory.mktemp("out") / "bundle"
        return export_checkpoints(checkpoints, out, ExportConfig(batches=(1, 3)), say=lambda line: None)


def test_what_the_bundle_says_of_mappers(checkpoints: Path, bundle: Bundle) -> None:
    manifest, digest = bundle.manifest, generator_digest(load_model(checkpoints / "stylegan2").state_dict())
    assert manifest.generator is not None
    assert manifest.generator.weights == digest
    beard, glasses = manifest.mappers["beard"], manifest.mappers["glasses"]
    assert (beard.prompt, beard.space, beard.generator, beard.strength) == (
        "a person with a beard", "w_plus", digest, 1.5,
    )  # fmt: skip
    assert (glasses.space, glasses.generator, glasses.strength) == ("style_channels", "", 1.0)
    for name in manifest.mappers:
        parity = manifest.graphs[f"mapper_{name}"].parity
        assert parity is not None and parity.max_rel_error <= TOLERANCE
    assert any(entry.source == "edits/mappers/beard/README.md" for entry in manifest.licences)


def test_the_runtime_edits_as_torch_does(checkpoints: Path, bundle: Bundle) -> None:
    networks = load_networks(checkpoints)
    models, strengths = Models(bundle, threads=1), {"beard": 1.5, "glasses": 0.7}
    w = torch.randn(3, GENERATOR.num_ws, GENERATOR.w_dim)
    beard, glasses = networks.mappers["beard"], networks.mappers["glasses"]
    with torch.no_grad():
        styles = networks.generator.affine(w + 1.5 * beard(w)) + 0.7 * glasses(networks.generator.affine(w))
        expected = networks.generator.synthesis_from_styles(styles).numpy()
        alone = networks.generator.synthesis(w + 1.5 * beard(w)).numpy()
    steps = mapper_steps(models, list(strengths), w.numpy())
    for wanted, chosen in ((expected, steps), (alone, {"beard": steps["beard"]})):
        found = render_steps(models, w.numpy(), chosen, strengths)
        assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < TOLERANCE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"generator": "b" * 64}, "a mapper for the generator bbbbbbbbbbbb"),
        ({"w_dim": GENERATOR.w_dim + 2}, "a mapper for latents of another shape"),
        ({"num_ws": GENERATOR.num_ws + 2}, "a mapper for latents of another shape"),
    ],
)
def test_mappers_of_other_generators_are_refused(
    checkpoints: Path, tmp_path: Path, change: dict[str, Any], words: str, limner: Callable[..., Any]
) -> None:
    folder = Path(shutil.copytree(checkpoints, tmp_path / "checkpoints"))
    config = replace(MapperConfig(**SIZES), **change)
    save_model(folder / "edits" / "mappers" / "bald", "mapper", config, build_mapper(config).state_dict())
    with pytest.raises(InputError, match=words) as caught:
        load_networks(folder)
    assert caught.value.field == "checkpoints.edits/mappers/bald"
    ran = limner("export", "onnx", "--checkpoints", folder, "--out", tmp_path / "bundle")
    assert ran.code == 2 and words in ran.err
    assert not (tmp_path / "bundle").exists()


def test_another_network_is_no_mapper(checkpoints: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoints, tmp_path / "checkpoints"))
    shutil.copytree(folder / "identity", folder / "edits" / "mappers" / "bald")
    with pytest.raises(InputError, match="a IdentityNet; allowed: a latent mapper"):
        load_networks(folder)


def test_fp16_rounding_takes_mappers_along(checkpoints: Path) -> None:
    networks = load_networks(checkpoints)
    mapper = networks.mappers["beard"]
    assert isinstance(mapper, LatentMapper)
    weight = next(mapper.parameters())
    weight.add_(1e-3 * torch.randn_like(weight))
    networks.round_to_fp16()
    assert torch.equal(weight, weight.half().float())
