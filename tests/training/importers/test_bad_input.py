"""Files that are whole but do not fit: one sentence with what does not fit, exit code 2, nothing written."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import published
from support.importing import Import

from limner.runtime.errors import InputError

WIDER = published.GeneratorSizes({4: 16, 8: 10, 16: 8, 32: 6})
SMALLER = published.GeneratorSizes({4: 12, 8: 10, 16: 8})


@pytest.fixture
def refused(bring: Import, tmp_path: Path) -> Callable[..., str]:
    """A function that imports a file and checks that it is refused and that nothing was written."""

    def check(path: Path, family: str = "", **options: Any) -> str:
        before = set(tmp_path.rglob("*"))
        with pytest.raises(InputError) as caught:
            bring(path, family, **options)
        assert set(tmp_path.rglob("*")) == before
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return check


def altered(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The file with its content changed."""
    content = torch.load(path, weights_only=False)
    change(content)
    torch.save(content, path)
    return path


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_finite(value: float, tmp_path: Path, refused: Callable[..., str]) -> None:
    published.write_rosinality(tmp_path / "g.pt")

    def spoil(content: dict[str, Any]) -> None:
        content["g_ema"]["convs.2.conv.weight"].view(-1)[-1] = value

    assert "NaN or infinity in 1: convs.2.conv.weight" in refused(altered(tmp_path / "g.pt", spoil))
    published.write_identity(tmp_path / "i.pth")
    spoilt = altered(tmp_path / "i.pth", lambda state: state["output_layer.4.running_var"].fill_(value))
    assert "output_layer.4.running_var" in refused(spoilt)


def test_missing_unknown_and_misshapen_keys(tmp_path: Path, refused: Callable[..., str]) -> None:
    published.write_rosinality(tmp_path / "g.pt")

    def spoil(content: dict[str, Any]) -> None:
        state = content["g_ema"]
        for key in [key for key in state if "activate.bias" in key or "noise.weight" in key]:
            del state[key]
        state["extra.weight"] = torch.ones(1)
        state["to_rgb1.bias"] = torch.ones(1, 4, 1, 1)

    sentence = refused(altered(tmp_path / "g.pt", spoil))
    assert "14 missing: conv1.noise.weight, conv1.activate.bias," in sentence and "..." in sentence
    assert "1 unexpected: extra.weight" in sentence and "to_rgb1.bias (1, 4, 1, 1) for (1, 3, 1, 1)" in sentence
    assert sentence.count("activate.bias") == 5  # ten of the fourteen


def test_wrong_family(tmp_path: Path, refused: Callable[..., str]) -> None:
    published.write_identity(tmp_path / "i.pth")
    assert "which is a IR-SE50 .pth" in refused(tmp_path / "i.pth", "encoder")
    assert "did you mean 'encoder'" in refused(tmp_path / "i.pth", "encodr")
    torch.save({"epoch": 3, "model": {"fc.weight": torch.ones(2)}}, tmp_path / "other.pt")
    assert "no weights of a known family" in refused(tmp_path / "other.pt")
    assert "does not open" in refused(tmp_path / "not-there.pt")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder")


def nvidia_relatives() -> dict[str, Callable[[Any], None]]:
    def conditional(g: Any) -> None:
        g.mapping.embed = torch.nn.Linear(2, 2).requires_grad_(False)
        g.mapping.embed = published.Persistent("FullyConnectedLayer")
        g.mapping.embed.weight = torch.nn.Parameter(torch.ones(2, 2))

    def residual(g: Any) -> None:
        g.synthesis.b8.skip = published.Persistent("Conv2dLayer")
        g.synthesis.b8.skip.weight = torch.nn.Parameter(torch.ones(2, 2, 1, 1))

    def filtered(g: Any) -> None:
        g.synthesis.b8.conv0.resample_filter = torch.ones(4, 4) / 16

    def third(g: Any) -> None:
        g.synthesis.L0_36_512 = published.Persistent("SynthesisLayer")
        g.synthesis.L0_36_512.weight = torch.nn.Parameter(torch.ones(2, 2, 3, 3))

    def speeds(g: Any) -> None:
        g.mapping.fc1.bias_gain = 1.0

    return {"conditioned on classes": conditional, "'resnet'": residual, "another filter": filtered,
            "StyleGAN3": third, "one lr_multiplier": speeds}  # fmt: skip


@pytest.mark.parametrize("what", nvidia_relatives())
def test_relatives_of_nvidia(what: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    generator = published.nvidia_generator()
    nvidia_relatives()[what](generator)
    published.write_nvidia(tmp_path / "g.pkl", generator=generator)
    assert what in refused(tmp_path / "g.pkl")


def test_relatives_of_the_others(tmp_path: Path, refused: Callable[..., str]) -> None:
    published.write_e4e(tmp_path / "psp.pt", encoder_type="GradualStyleEncoder")
    assert "GradualStyleEncoder" in refused(tmp_path / "psp.pt")
    state = {"visual.conv1.weight": torch.ones(4, 3, 3, 3), "token_embedding.weight": torch.ones(9, 64),
             "visual.attnpool.positional_embedding": torch.ones(5, 4)}  # fmt: skip
    torch.save(state, tmp_path / "RN50.pt")
    assert "ResNet" in refused(tmp_path / "RN50.pt")
    published.write_rosinality(tmp_path / "g.pt")

    def other_filter(content: dict[str, Any]) -> None:
        content["g_ema"]["convs.0.conv.blur.kernel"].fill_(0.25)

    assert "another filter" in refused(altered(tmp_path / "g.pt", other_filter))


def test_models_of_another_generator(tmp_path: Path, bring: Import, refused: Callable[..., str]) -> None:
    published.write_rosinality(tmp_path / "g.pt")
    bring(tmp_path / "g.pt")
    published.write_mapper(tmp_path / "afro.pt", generator=SMALLER, stylegan_size=16)
    assert "6 layers of 16, where the set's has 8 of 16" in refused(tmp_path / "afro.pt")
    published.write_mapper(tmp_path / "afro.pt", decoder=published.rosinality_generator(seed=9))
    assert "a mapper for another generator" in refused(tmp_path / "afro.pt")
    published.write_mapper(tmp_path / "afro.pt", generator=WIDER, decoder=published.rosinality_generator(WIDER))
    assert "a mapper for another generator" in refused(tmp_path / "afro.pt")
    published.write_e4e(tmp_path / "e4e.pt", decoder=published.rosinality_generator(seed=9))
    assert "an encoder for another generator" in refused(tmp_path / "e4e.pt")
    published.write_mapper(tmp_path / "afro.pt", stylegan_size=1024)
    assert "1024" in refused(tmp_path / "afro.pt")
    published.write_mapper(tmp_path / "afro.pt")
    assert "name: got 'Not A Name'" in refused(tmp_path / "afro.pt", name="Not A Name")


def test_mapper_without_any_generator(tmp_path: Path, refused: Callable[..., str]) -> None:
    published.write_mapper(tmp_path / "afro.pt", decoder={})
    assert "import the generator first" in refused(tmp_path / "afro.pt")


def test_a_mapper_names_its_generator(tmp_path: Path, bring: Import) -> None:
    from limner.training.models.mapper import generator_digest

    state = published.write_rosinality(tmp_path / "g.pt")
    published.write_mapper(tmp_path / "Curly Hair.pt")
    alone = json.loads((Path(bring(tmp_path / "Curly Hair.pt").folder) / "config.json").read_text())["config"]
    bring(tmp_path / "g.pt")
    beside = json.loads((Path(bring(tmp_path / "Curly Hair.pt", replace_old=True).folder) / "config.json").read_text())[
        "config"
    ]
    assert alone == beside and alone["generator"] == generator_digest(state)
    assert (alone["prompt"], alone["pixel_norm"], alone["fine"]) == ("a person with an afro", "layers", True)
    assert (tmp_path / "set/edits/mappers/curly-hair/model.safetensors").is_file()


def test_directions_that_do_not_fit(tmp_path: Path, bring: Import, refused: Callable[..., str]) -> None:
    rows, mean, std = published.write_directions(tmp_path)
    assert "import the generator first" in refused(tmp_path / "fs3.npy")
    published.write_rosinality(tmp_path / "g.pt")
    bring(tmp_path / "g.pt")

    def check(array: Any, words: str) -> None:
        np.save(tmp_path / "fs3.npy", array)
        assert words in refused(tmp_path / "fs3.npy")

    check(rows[:-1], f"directions of {len(rows) - 1} channels")
    check(rows[:, :, None], "no weights of a known family")
    check(2 * rows, "not of length 1")
    check(np.where(np.arange(len(rows))[:, None] == 3, np.nan, rows), "NaN or infinity in 1 channels")
    np.save(tmp_path / "fs3.npy", rows)
    no_numbers = [mean, [values * np.nan for values in std]]
    cases = [([mean, std[:-1]], "layers of"), ([mean, [-values for values in std]], "negative"), (no_numbers, "NaN"),
             ({"mean": 1}, "no pair"), ([1, 2], "layers of")]  # fmt: skip
    for part, words in cases:
        (tmp_path / "S_mean_std").write_bytes(pickle.dumps(part))
        assert words in refused(tmp_path / "fs3.npy")
    (tmp_path / "S_mean_std").unlink()
    assert "--style-stats" in refused(tmp_path / "fs3.npy")


def test_statistics_as_an_array(tmp_path: Path, bring: Import) -> None:
    from safetensors.torch import load_file

    published.write_rosinality(tmp_path / "g.pt")
    bring(tmp_path / "g.pt")
    _, mean, std = published.write_directions(tmp_path)
    one = load_file(f"{bring(tmp_path / 'fs3.npy').folder}/relevance.safetensors")
    np.save(tmp_path / "stats.npy", np.stack([np.concatenate(mean), np.concatenate(std)]))
    folder = bring(tmp_path / "fs3.npy", style_stats=tmp_path / "stats.npy", replace_old=True).folder
    other = load_file(f"{folder}/relevance.safetensors")
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_directions_of_another_clip(tmp_path: Path, bring: Import, refused: Callable[..., str]) -> None:
    published.write_rosinality(tmp_path / "g.pt")
    bring(tmp_path / "g.pt")
    published.write_openai_clip(tmp_path / "ViT.pt")
    bring(tmp_path / "ViT.pt")
    published.write_directions(tmp_path, features=32)
    assert "directions of 32 features for a CLIP of 24" in refused(tmp_path / "fs3.npy")


def test_tokenizers(tmp_path: Path, bring: Import, refused: Callable[..., str]) -> None:
    published.write_openai_clip(tmp_path / "ViT.pt")
    published.write_bpe(tmp_path / "short.gz", 3)
    assert "other merges" in refused(tmp_path / "ViT.pt", tokenizer=tmp_path / "short.gz")
    (tmp_path / "bad.gz").write_bytes(b"\x1f\x8bnothing")
    assert "does not read" in refused(tmp_path / "ViT.pt", tokenizer=tmp_path / "bad.gz")
    published.write_vocabulary(tmp_path, 77)
    assert "77 tokens" in refused(tmp_path / "ViT.pt", tokenizer=tmp_path)
    published.write_bpe(tmp_path / "bpe.gz", 540)
    folder = Path(bring(tmp_path / "ViT.pt", tokenizer=tmp_path / "bpe.gz").folder)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    assert vocabulary["!"] == 0 and vocabulary["a</w>"] == 256 + vocabulary["a"]
    assert (vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]) == (538, 539)
    assert len((folder / "merges.txt").read_text().split("\n")) == 1 + 540 - 514 + 1


def test_nothing_is_written_over(tmp_path: Path, bring: Import, refused: Callable[..., str]) -> None:
    published.write_rosinality(tmp_path / "g.pt")
    folder = Path(bring(tmp_path / "g.pt", licence="Terms of its own").folder)
    card = (folder / "README.md").read_text()
    assert "## Licence\n\nTerms of its own" in card and "sha256" in card and "g.pt" in card
    assert "--replace" in refused(tmp_path / "g.pt")
    published.write_rosinality(tmp_path / "g.pt", seed=5)
    assert bring(tmp_path / "g.pt", replace_old=True, dry_run=True)
    assert (folder / "README.md").read_text() == card
    bring(tmp_path / "g.pt", replace_old=True)
    assert (folder / "README.md").read_text() != card
    (folder / "config.json").unlink()
    assert "something else" in refused(tmp_path / "g.pt", replace_old=True)


def test_latent_avg(tmp_path: Path, bring: Import, refused: Callable[..., str]) -> None:
    """Training checkpoints have none: it is the mean of many samples."""
    from limner.training.models.store import load_model

    published.write_rosinality(tmp_path / "g.pt")
    report = bring(altered(tmp_path / "g.pt", lambda content: content.pop("latent_avg")))
    generator: Any = load_model(report.folder)
    z = torch.randn(10_000, 20, generator=torch.Generator().manual_seed(1))
    assert "mean w" in report.notes[0]
    spread = generator.mapping(z).std(0) / 100
    assert ((generator.latent_avg - generator.mapping(z).mean(0)).abs() < 8 * spread).all()
    path = altered(tmp_path / "g.pt", lambda content: content.update(latent_avg=torch.randn(2, 16)))
    assert "latent_avg differs" in refused(path)


def test_the_verb(tmp_path: Path, limner: Callable[..., Any]) -> None:
    published.write_rosinality(tmp_path / "g.pt", published.GeneratorSizes({4: 512, 8: 512}))
    ran = limner("models", "import", tmp_path / "g.pt", "--out", tmp_path / "set", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert (ran.code, found["family"]) == (0, "stylegan2")
    config = json.loads((tmp_path / "set/stylegan2/config.json").read_text())["config"]
    assert (config["channels"], config["channel_multiplier"], config["size"]) == ({}, 2, 8)
    (tmp_path / "page.pt").write_bytes(b"<html>")
    ran = limner("models", "import", tmp_path / "page.pt", "--out", tmp_path / "set")
    assert ran.code == 2 and ran.out == "" and ran.err.startswith("error: file: got 'page.pt', a web page")
    assert len(ran.err.splitlines()) == 1
    assert "Usage: limner models import" in limner("models", "import", "--help").out
