"""Avatars: determinism, splits, attributes, pairs and the coupling of z."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from limner.training.avatars.attributes import (
    AVATAAARS,
    code_size,
    option_code,
    sample_in_split,
    split_of,
    with_attribute,
)
from limner.training.avatars.cache import CachePlace, find_place
from limner.training.avatars.dataset import AvatarsConfig, AvatarsDataset, build_all, image_float
from limner.training.avatars.render import render
from limner.training.families.stylegan2.mapping import Coupling
from limner.training.families.stylegan2.warmup import CodeEmbedding


def test_avatar_is_a_function_of_seed_and_index() -> None:
    one, two = (sample_in_split(AVATAAARS, "test", 7, seed=3) for _ in range(2))
    assert one == two and one != sample_in_split(AVATAAARS, "test", 8, seed=3)
    assert np.array_equal(render(AVATAAARS, one, 64), render(AVATAAARS, two, 64))


def test_splits_share_no_identity() -> None:
    seen = {s: {sample_in_split(AVATAAARS, s, i).identity(AVATAAARS) for i in range(300)} for s in ("train", "test")}
    assert not seen["train"] & seen["test"]
    assert all(split_of(identity) == "test" for identity in seen["test"])


def test_pair_changes_one_attribute() -> None:
    rng = np.random.default_rng(0)
    for i in range(30):
        avatar = sample_in_split(AVATAAARS, "train", i)
        before = avatar.attributes(AVATAAARS)
        for name, value in (("eyewear", "sunglasses"), ("expression", "sad"), ("background", "blue")):
            after = with_attribute(AVATAAARS, avatar, name, value, rng).attributes(AVATAAARS)
            assert after[name] == value
            assert {k: v for k, v in after.items() if k != name} == {k: v for k, v in before.items() if k != name}


def test_pictures_are_rendered_once_and_served(tmp_path: Path) -> None:
    config = AvatarsConfig(size=32, train=12, validation=4, test=4)
    build_all(config, tmp_path)
    (train,) = tmp_path.glob("avataaars-32-*/train.u8")
    stamp = train.stat().st_mtime_ns
    build_all(config, tmp_path)
    assert train.stat().st_mtime_ns == stamp
    batch = AvatarsDataset(config, "validation", tmp_path).batch(np.arange(4))
    expected = render(AVATAAARS, sample_in_split(AVATAAARS, "validation", 0), 32)
    assert np.array_equal(batch["image"][0].permute(1, 2, 0).numpy(), expected)
    image = image_float(batch["image"])
    assert image.min() >= -1 and image.max() <= 1


def test_code_is_one_hot_and_pose() -> None:
    avatar = sample_in_split(AVATAAARS, "train", 0)
    code = option_code(AVATAAARS, np.array([avatar.options]), np.array([avatar.pose]))
    assert code.shape == (1, code_size(AVATAAARS)) and code[0, :-4].sum() == len(AVATAAARS.options)
    embedding = CodeEmbedding(AVATAAARS, 8)
    same = embedding.encode(torch.tensor([avatar.options]), torch.tensor([avatar.pose], dtype=torch.float32))
    assert np.allclose(same.numpy(), code)


def test_coupling_follows_the_data() -> None:
    options, pose = Coupling(AVATAAARS, 64)(torch.randn(40_000, 64))
    names = [o.name for o in AVATAAARS.options]
    for name in ("facial_hair", "mouth", "background"):
        weights = np.array([c[2] for c in AVATAAARS.option(name).choices])
        share = np.bincount(options[:, names.index(name)].numpy(), minlength=len(weights)) / len(options)
        assert np.abs(share - weights / weights.sum()).max() < 0.015
    eyes = np.array(AVATAAARS.option("eyes").values)[options[:, names.index("eyes")].numpy()]
    mouth = np.array(AVATAAARS.option("mouth").values)[options[:, names.index("mouth")].numpy()]
    assert set(eyes[mouth == "screamOpen"]) == {"surprised"}
    assert pose.min() >= -1 and pose.max() <= 1


def cached(cache: Path, seed: int) -> CachePlace:
    place = find_place(cache, "train", {"style": "avataaars", "size": 32, "seed": seed})
    if not place.complete():
        place.pixels.write_bytes(b"pixels")
        np.savez(place.table, options=np.zeros(1))
        place.finish()
    return place


def test_each_settings_have_a_folder_of_their_own(tmp_path: Path) -> None:
    first, second = cached(tmp_path, 0), cached(tmp_path, 1)
    assert first.folder != second.folder
    assert first.complete() and second.complete()
    assert find_place(tmp_path, "train", first.settings) == first
    assert not list(tmp_path.rglob("*.part"))
    first.note.write_text("{")  # cut short
    assert not first.complete()


def test_the_layout_before_hashes_is_used(tmp_path: Path) -> None:
    old = CachePlace(tmp_path, "train", {"style": "avataaars", "size": 32, "seed": 0})
    for path in (old.pixels, old.table):
        path.write_bytes(b"")
    old.note.write_text(json.dumps(old.settings))
    assert cached(tmp_path, 0).folder == tmp_path
    assert cached(tmp_path, 1).folder != tmp_path  # other settings leave the old files alone
    assert old.complete()
