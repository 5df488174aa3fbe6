"""CLIP: towers against transformers' own forward, tokenizer against transformers', losses, a fit of one step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from limner.runtime.errors import InputError
from limner.training.avatars.attributes import AVATAAARS, sample_in_split
from limner.training.avatars.captions import caption
from limner.training.avatars.tokens import CaptionTokenizer, caption_words, learn_merges, write_tokenizer
from limner.training.families.clip.module import Captioner, contrastive_loss, fits, zero_shot
from limner.training.models.clip import MEAN, STD, ClipImageTower, ClipPixels, ClipTextTower, build_clip, clip_config
from limner.training.running import resolve

FP32 = 2e-5  # fp32 sums in another order

TINY_CLIP = ["data.size=32", "data.train=24", "data.validation=8", "data.test=8", "tokenizer.captions=100",
             "tokenizer.vocabulary=600", "model.vision_width=32", "model.vision_layers=1", "model.vision_heads=2",
             "model.text_width=32", "model.text_layers=1", "model.text_heads=2", "model.embedding=16",
             "trainer.batch_size=4", "trainer.precision=32-true", "trainer.max_steps=2",
             "trainer.validation_limit=4"]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CaptionTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    size = write_tokenizer(folder, learn_merges(caption_words("avataaars", 200), 200))
    assert size == 512 + 200 + 2
    return CaptionTokenizer(folder)


@pytest.fixture(scope="module")
def model(tokenizer: CaptionTokenizer) -> Any:
    torch.manual_seed(0)
    found: Any = build_clip(clip_config(len(tokenizer.vocab), 32, 8, 32, 2, 2, 24, 2, 2, 16))
    return found.eval()


def test_tokenizer_equals_transformers(tokenizer: CaptionTokenizer) -> None:
    from transformers import CLIPTokenizer

    other = CLIPTokenizer(str(tokenizer.folder / "vocab.json"), str(tokenizer.folder / "merges.txt"))
    rng = np.random.default_rng(0)
    texts = [caption(sample_in_split(AVATAAARS, "train", i).attributes(AVATAAARS), rng).text for i in range(40)]
    texts += ["A Café, naïve; it's 42 🙂", "don't \n blink", "日本語"]
    expected = other(texts, padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
    assert torch.equal(tokenizer.encode(texts, 77), expected)


def test_vocabulary_covers_all_bytes_and_ends_with_the_specials(tokenizer: CaptionTokenizer) -> None:
    vocab = json.loads((tokenizer.folder / "vocab.json").read_text())
    assert sorted(vocab.values()) == list(range(len(vocab)))
    assert vocab["<|startoftext|>"] == len(vocab) - 2 and vocab["<|endoftext|>"] == len(vocab) - 1
    assert all(len(key.removesuffix("</w>")) == 1 for key, i in vocab.items() if i < 512)
    assert (tokenizer.folder / "merges.txt").read_text().startswith("#version")
    row = tokenizer.encode(["\x00 ÿ 漢"])[0]
    assert (row[1:-1] != tokenizer.end).all()


def test_trimmed_ids_are_the_head_of_padded_ids(tokenizer: CaptionTokenizer) -> None:
    short, long = tokenizer.encode(["a bald person"]), tokenizer.encode(["a bald person"], 77)
    assert torch.equal(long[:, : short.shape[1]], short) and (long[:, short.shape[1] :] == tokenizer.end).all()


def test_text_tower_equals_transformers(model: Any, tokenizer: CaptionTokenizer) -> None:
    ids = tokenizer.encode(["a person with a beard", "a bald smiling face, on blue"], 77)
    expected = model.get_text_features(ids).pooler_output
    tower = ClipTextTower(model)
    assert (tower(ids) - expected / expected.norm(dim=-1, keepdim=True)).abs().max() < FP32
    assert (tower(ids) - tower(ids[:, :20])).abs().max() < FP32  # padding behind the end token changes nothing


def test_image_tower_equals_transformers(model: Any) -> None:
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    expected = model.get_image_features(((image + 1) / 2 - mean) / std).pooler_output
    assert (ClipImageTower(model, 32)(image) - expected / expected.norm(dim=-1, keepdim=True)).abs().max() < FP32


def test_pixels_of_a_larger_picture() -> None:
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    shrunk = torch.nn.functional.interpolate(image, (32, 32), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    assert (ClipPixels(64, 32)(image) - ((shrunk + 1) / 2 - mean) / std).abs().max() < 1e-4
    published = ClipPixels(64, 32, "published")(image)
    assert (published - torch.nn.functional.avg_pool2d(image, 2)).abs().max() < 1e-6
    with pytest.raises(InputError, match="preprocess"):
        ClipPixels(64, 32, "other")  # type: ignore[arg-type]


def test_openais_wrong_end_token_is_read_as_they_do() -> None:
    config = clip_config(50, 32, 8, 32, 1, 2, 24, 1, 2, 16)
    config["text_config"]["eos_token_id"] = 2
    model: Any = build_clip(config)
    model.eval()
    ids = torch.tensor([[48, 5, 6, 49, 0, 0], [48, 7, 49, 0, 0, 0]])
    expected = model.get_text_features(ids).pooler_output
    assert (ClipTextTower(model)(ids) - expected / expected.norm(dim=-1, keepdim=True)).abs().max() < FP32


def test_build_refuses_a_config_without_parts() -> None:
    with pytest.raises(InputError, match=r"clip\.text_config"):
        build_clip({"vision_config": {}})


def test_fits_is_agreement_on_what_is_mentioned() -> None:
    attributes = torch.tensor([[0, 1], [0, 2]])
    mentions = torch.tensor([[0, -1], [-1, 2], [1, 1], [-1, -1]])
    assert fits(attributes, mentions).tolist() == [[True, False, False, True], [True, True, False, True]]


def test_contrastive_loss_against_a_loop() -> None:
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    positive = torch.zeros(4, 6, dtype=torch.bool)
    positive[[0, 0, 1, 2], [0, 1, 1, 5]] = True  # picture 3 and captions 2 to 4 fit nothing
    rows = [-(logits[i].log_softmax(0)[positive[i]].mean()) for i in (0, 1, 2)]
    columns = [-(logits[:, j].log_softmax(0)[positive[:, j]].mean()) for j in (0, 1, 5)]
    expected = (torch.stack(rows).mean() + torch.stack(columns).mean()) / 2
    assert torch.allclose(contrastive_loss(logits, positive), expected)


def test_one_to_one_fits_are_the_published_loss() -> None:
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    target = torch.arange(5)
    expected = (torch.nn.functional.cross_entropy(logits, target)
                + torch.nn.functional.cross_entropy(logits.t(), target)) / 2  # fmt: skip
    assert torch.allclose(contrastive_loss(logits, torch.eye(5, dtype=torch.bool)), expected)


def test_captioner_mentions_what_its_captions_say(tokenizer: CaptionTokenizer) -> None:
    captioner = Captioner(AVATAAARS, tokenizer, 0.5)
    avatars = [sample_in_split(AVATAAARS, "train", i) for i in range(8)]
    attributes = torch.tensor([a.attribute_indices(AVATAAARS) for a in avatars])
    batch = captioner({"attributes": attributes}, np.random.default_rng(0))
    table = fits(attributes, batch["mentions"])
    assert len(batch["mentions"]) == len(batch["input_ids"]) == 8 + 4 + len(captioner.probes)
    assert table[:, :8].diagonal().all()  # each picture fits its own caption
    assert ((batch["mentions"][-len(captioner.probes) :] >= 0).sum(1) == 1).all()


def test_zero_shot_leaves_out_hidden_hair_colour() -> None:
    count = sum(len([v for v in AVATAAARS.attribute_values(n) if v != "hidden"]) for n, _ in AVATAAARS.attributes)
    attributes = torch.zeros(2, len(AVATAAARS.attributes), dtype=torch.int64)
    attributes[1, 1] = len(AVATAAARS.attribute_values("hair_color")) - 1
    right = zero_shot(AVATAAARS, torch.zeros(2, count), attributes)
    assert len(right["hair_color"]) == 1 and len(right["hair"]) == 2


def test_fast_dev_run_and_checkpoint(tiny_cache: Path, tmp_path: Path) -> None:
    from limner.training.families.clip import run as family
    from limner.training.loop.runner import fit
    from limner.training.models.store import load_model

    run = resolve("clip", overrides=TINY_CLIP)
    module, data = family.build(run, tiny_cache)
    fit(module, data, run.trainer, tmp_path / "run", run, fast_dev_run=True)
    figures = family.save(run, module, tmp_path / "clip", tiny_cache)
    assert set(figures["zero-shot accuracy, %"]) == {name for name, _ in AVATAAARS.attributes}
    saved: Any = load_model(tmp_path / "clip")
    assert saved.config.text_config.eos_token_id == 599
    names = {path.name for path in (tmp_path / "clip").iterdir()}
    files = {"config.json", "model.safetensors", "README.md", "figures.json", "vocab.json", "merges.txt", "words.txt"}
    assert names == files
