"""Latents for mappers: every source, and files that are refused without running anything."""

# ruff: noqa: F811  fixtures are named like their import

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support.mapper_parts import NUM_WS, W_DIM, mapper_checkpoints  # noqa: F401
from support.tiny import SIZE

from limner.runtime.errors import InputError
from limner.runtime.pictures.images import read_picture
from limner.training.families.mapper.latents import LatentPool, LatentsConfig, make_pool, read_latents, split_pool
from limner.training.models.store import load_model
from limner.training.models.stylegan2 import Generator


@pytest.fixture(scope="module")
def generator(mapper_checkpoints: Path) -> Generator:
    found = load_model(mapper_checkpoints / "stylegan2")
    assert isinstance(found, Generator)
    found.latent_avg.normal_()
    return found


def test_samples_are_truncated_and_repeat(generator: Generator) -> None:
    pool = make_pool(LatentsConfig(count=50, held_out=10), generator)
    assert pool.shape == (50, NUM_WS, W_DIM)
    assert torch.equal(pool, make_pool(LatentsConfig(count=50, held_out=10), generator))
    assert not torch.equal(pool, make_pool(LatentsConfig(count=50, held_out=10, seed=1), generator))
    assert (pool == pool[:, :1]).all()
    whole = make_pool(LatentsConfig(count=50, held_out=10, truncation=1.0), generator)
    average = generator.latent_avg
    assert torch.allclose(pool - average, 0.7 * (whole - average), atol=1e-5)
    train, held_out = split_pool(pool, 10)
    assert len(train) == 40 and torch.equal(held_out, pool[40:])
    assert torch.equal(LatentPool(pool).batch(np.array([3, 1]))["w_plus"], pool[[3, 1]])


@pytest.mark.parametrize("name", ["latents.npy", "latents.pt"])
def test_files(tmp_path: Path, generator: Generator, name: str) -> None:
    latents = torch.randn(6, NUM_WS, W_DIM, dtype=torch.float64)
    if name.endswith("npy"):
        np.save(tmp_path / name, latents.numpy())
    else:
        torch.save(latents, tmp_path / name)
    found = make_pool(LatentsConfig("file", str(tmp_path / name), held_out=2), generator)
    assert found.dtype == torch.float32 and torch.equal(found, latents.float())


def test_latents_of_limner_invert(tmp_path: Path, generator: Generator) -> None:
    """One file of [L,D] a picture: alone, or a folder of them in the order of names; the bytes' order is no matter."""
    latents = torch.randn(3, NUM_WS, W_DIM)
    for name, one in zip("cab", latents, strict=True):
        np.save(tmp_path / f"{name}.npy", one.numpy().astype(">f4"))
    (tmp_path / "notes.txt").touch()
    found = make_pool(LatentsConfig("file", str(tmp_path), held_out=1), generator)
    assert torch.equal(found, latents[[1, 2, 0]])
    alone = make_pool(LatentsConfig("file", str(tmp_path / "c.npy"), held_out=0), generator)
    assert torch.equal(alone, latents[:1])
    assert all(torch.equal(part, alone) for part in split_pool(alone, 0))
    with pytest.raises(InputError, match="held_out"):
        make_pool(LatentsConfig("file", str(tmp_path / "c.npy"), held_out=1), generator)


def test_a_shape_that_the_file_has_no_numbers_for_takes_no_memory(tmp_path: Path) -> None:
    for shape in ((10**12, NUM_WS, W_DIM), (2**62, NUM_WS, W_DIM), (3, NUM_WS, W_DIM)):
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        (tmp_path / "lying.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
                                            + header.encode() + b"\0" * 64)  # fmt: skip
        with pytest.raises(InputError, match=r"latents\.path"):
            read_latents(tmp_path / "lying.npy", NUM_WS, W_DIM)


class Hostile:
    """What a pickle that runs code looks like."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, (f"touch {self.canary}",)


def test_files_that_are_no_latents_are_refused(tmp_path: Path) -> None:
    good, canary = torch.randn(6, NUM_WS, W_DIM), tmp_path / "canary"
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><html>quota exceeded</html>")
    (tmp_path / "hostile.pt").write_bytes(pickle.dumps(Hostile(canary)))
    torch.save({"latents": Hostile(canary)}, tmp_path / "nested.pt")
    torch.save({"latents": good}, tmp_path / "dict.pt")
    torch.save(good[:, :-1], tmp_path / "rows.pt")
    torch.save(good.long(), tmp_path / "whole.pt")
    torch.save(good * float("nan"), tmp_path / "nan.pt")
    torch.save(good[:1], tmp_path / "few.pt")
    torch.save(good, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:200])
    np.save(tmp_path / "objects.npy", np.array([Hostile(canary)], object), allow_pickle=True)
    np.save(tmp_path / "flat.npy", np.zeros(5, np.float32))
    (tmp_path / "empty.npy").touch()
    (tmp_path / "latents.txt").touch()
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == 13
    for name in [*names, "missing.pt"]:
        with pytest.raises(InputError) as caught:
            read_latents(tmp_path / name, NUM_WS, W_DIM)
        assert caught.value.field == "latents.path" and "\n" not in str(caught.value), name
    assert not canary.exists()


def test_a_folder_of_pictures(mapper_checkpoints: Path, tmp_path: Path, generator: Generator) -> None:
    rng = np.random.default_rng(0)
    for i, mode in enumerate(("RGB", "L", "RGBA")):
        Image.fromarray(rng.integers(0, 256, (20, 30, 4), dtype=np.uint8), "RGBA").convert(mode).save(
            tmp_path / f"{i}.png"
        )
    (tmp_path / "notes.txt").touch()
    config = LatentsConfig("folder", str(tmp_path), str(mapper_checkpoints / "encoder"), held_out=1)
    pool = make_pool(config, generator)
    assert pool.shape == (3, NUM_WS, W_DIM)
    encoder: Any = load_model(mapper_checkpoints / "encoder")
    image = torch.from_numpy(read_picture(tmp_path / "1.png", SIZE).image_u8).permute(2, 0, 1)[None] / 127.5 - 1
    assert torch.allclose(encoder(image.float())[0], pool[1], atol=1e-4)
    (tmp_path / "3.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"3\.png"):
        make_pool(config, generator)
    with pytest.raises(InputError, match="no folder"):
        make_pool(LatentsConfig("folder", str(tmp_path / "no"), str(mapper_checkpoints / "encoder")), generator)
    with pytest.raises(InputError, match="held_out"):
        make_pool(LatentsConfig("folder", str(tmp_path), str(mapper_checkpoints / "encoder")), generator)


def test_pictures_are_read_as_the_runtime_reads_them(mapper_checkpoints: Path, generator: Generator, tmp_path: Path
                                                    ) -> None:  # fmt: skip
    """A 16-bit picture, whose levels Pillow's own conversion would clip."""
    levels = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    for name in "ab":
        Image.fromarray(levels).save(tmp_path / f"{name}.png")
    config = LatentsConfig("folder", str(tmp_path), str(mapper_checkpoints / "encoder"), held_out=1)
    encoder: Any = load_model(mapper_checkpoints / "encoder")
    eight = torch.from_numpy(np.rint(levels / 257)).float()
    image = F.interpolate(eight[None, None] / 127.5 - 1, (SIZE, SIZE), mode="bilinear", antialias=True)
    expected = encoder(image.expand(1, 3, SIZE, SIZE))[0]
    assert torch.allclose(make_pool(config, generator)[0], expected, atol=5e-2)
    assert np.ptp(read_picture(tmp_path / "a.png", SIZE).image_u8) > 200


def test_avatars_are_encoded(mapper_checkpoints: Path, generator: Generator) -> None:
    config = LatentsConfig("avatars", encoder=str(mapper_checkpoints / "encoder"), count=5, held_out=2)
    pool = make_pool(config, generator)
    assert pool.shape == (5, NUM_WS, W_DIM) and len(torch.unique(pool, dim=0)) == 5


def test_encoders_of_other_generators_are_refused(mapper_checkpoints: Path, generator: Generator) -> None:
    config = LatentsConfig("avatars", encoder=str(mapper_checkpoints / "identity"), count=5, held_out=2)
    with pytest.raises(InputError, match=r"latents\.encoder"):
        make_pool(config, generator)
    from dataclasses import replace

    from support.tiny import GENERATOR

    other = Generator(replace(GENERATOR, w_dim=20))
    with pytest.raises(InputError, match="which gives latents"):
        make_pool(LatentsConfig("avatars", encoder=str(mapper_checkpoints / "encoder"), count=5, held_out=2), other)


@pytest.mark.parametrize(
    "changes",
    [{"held_out": -1}, {"held_out": 5000}, {"truncation": 1.5}, {"source": "file"}, {"source": "folder", "path": "x"},
     {"source": "avatars"}],
)  # fmt: skip
def test_configs_without_latents_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"held_out|truncation|path|encoder"):
        LatentsConfig(**changes)
