"""The tokenizer gives the ids of transformers' CLIPTokenizer, on a vocabulary trained here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from limner.runtime.bundle.loading import load_bundle
from limner.runtime.errors import BundleError, InputError
from limner.runtime.text.templates import CLIP_TEMPLATES, STYLECLIP_TEMPLATES, fill_templates
from limner.runtime.text.tokenizer import Tokenizer, clean

CORPUS = [
    "a portrait of a person with red hair and round glasses",
    "a smiling woman with long blonde hair, wearing a blue hoodie",
    "he's a bald man; he doesn't wear sunglasses and isn't surprised",
    "photo of someone's face with a beard 1990 -- it's what they've got, I'm sure we'll see",
] * 3

TEXTS = [
    "a portrait of a bald person",
    "A PORTRAIT Of A Bald Person",
    "  a\tportrait \n of   a person  ",
    "she's got 1234 freckles, hasn't she?!",
    "they've we'll I'm you'd 're",
    "café naïve ÅNGSTRÖM 日本語 🙂",
    "cafe\u0301",
    "red-haired/blonde... (really)",
    "x" * 40,
    "a photo of the {}.",
    "İstanbul ẞ",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """vocab.json and merges.txt in CLIP's layout: bytes, bytes with </w>, merges, the two special tokens."""
    folder = tmp_path_factory.mktemp("tokenizer")
    trained = Backend(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=420, end_of_word_suffix="</w>", show_progress=False)
    words = [word for line in CORPUS for word in line.split()]
    trained.train_from_iterator(words, trainer)
    merges = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(merge) for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "vocab.json", folder / "merges.txt"


@pytest.fixture(scope="module")
def tokenizer(files: tuple[Path, Path]) -> Tokenizer:
    return Tokenizer(*files)


def test_against_transformers(files: tuple[Path, Path], tokenizer: Tokenizer) -> None:
    from transformers import CLIPTokenizer

    vocab, merges = files
    pairs: list[Any] = [tuple(line.split()) for line in merges.read_text(encoding="utf-8").splitlines()[1:]]
    reference = CLIPTokenizer(vocab=json.loads(vocab.read_text(encoding="utf-8")), merges=pairs)
    expected = reference(TEXTS, padding="max_length", max_length=77, return_tensors="np")["input_ids"]
    ids = tokenizer.encode(TEXTS)
    assert ids.dtype == np.int64
    assert ids.shape == (len(TEXTS), 77)
    np.testing.assert_array_equal(ids, expected)


def test_merges_are_used(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.tokens("hair")) == 1
    assert len(tokenizer.tokens("zqzq")) > 1


def test_row_is_start_words_end_padding(tokenizer: Tokenizer) -> None:
    words = tokenizer.tokens("red hair")
    row = tokenizer.encode("red hair")[0].tolist()
    assert row[: len(words) + 2] == [tokenizer.start, *words, tokenizer.eos]
    assert set(row[len(words) + 2 :]) == {tokenizer.eos}


def test_another_padding(files: tuple[Path, Path]) -> None:
    row = Tokenizer(*files, context_length=10, pad=0).encode("hair")[0]
    assert row.shape == (10,)
    assert set(row[3:].tolist()) == {0}


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  a \t b\n", "a b"),
        ("donâ€™t", "don't"),
        ("&amp;lt;b&amp;gt;", "<b>"),
        ("ﬁne", "fine"),
        ("\u200e", "\u200e"),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\u3000", "&nbsp;"])
def test_empty_text(tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(InputError, match=r"prompts.0.: got an empty text"):
        tokenizer.encode(text, "prompts[0]")


def test_too_long_a_text_is_cut_off_by_whole_words(tokenizer: Tokenizer) -> None:
    last = "squirrelling"
    assert len(tokenizer.tokens(last)) > 2
    fits = "hair " * 74
    assert tokenizer.tokens(fits + last) == tokenizer.tokens(fits)  # its first token would have had room
    assert tokenizer.pieces(fits + last)[0] == fits.strip()
    assert tokenizer.cut_off(fits + last + " one, two") == last + " one, two"
    assert len(tokenizer.tokens("hair " * 75)) == 75 and tokenizer.cut_off("hair " * 75) == ""
    assert tokenizer.cut_off("hair " * 77) == "hair hair"
    one_word = "x" * 400
    assert len(tokenizer.tokens(one_word)) == 75 and tokenizer.cut_off(one_word).startswith("x")
    with pytest.raises(InputError, match="1000000 characters"):
        tokenizer.encode("a" * 1_000_000)


def test_special_tokens_and_other_types(tokenizer: Tokenizer) -> None:
    for text in ("a <|endoftext|> b", "<|STARTOFTEXT|>"):
        with pytest.raises(InputError, match="the special token"):
            tokenizer.encode(text)
    with pytest.raises(InputError, match="got a int"):
        tokenizer.encode([3])  # type: ignore[list-item]


def test_bundle_with_letters_only(bundle_folder: Path) -> None:
    bundle = load_bundle(bundle_folder)
    tokenizer = Tokenizer.from_bundle(bundle)
    assert tokenizer.encode("ab").tolist() == [[0, 2, 29, 1, 1, 1, 1, 1]]
    with pytest.raises(InputError, match="the unknown characters 'é'"):
        tokenizer.encode("abé")
    assert tokenizer.tokens("abcdef gh") == tokenizer.tokens("abcdef") and tokenizer.cut_off("abcdef gh") == "gh"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("vocab.json", "[]", "vocab.json"),
        ("vocab.json", '{"a": "b"}', "from token to id"),
        ("vocab.json", '{"a": 1}', "do not fit"),
        ("vocab.json", "{", "not JSON"),
        ("merges.txt", "#version: 0.2\na b c\n", "in line 2"),
        ("merges.txt", "#version: 0.2\na zzz\n", "do not fit"),
    ],
)
def test_broken_files(files: tuple[Path, Path], tmp_path: Path, name: str, text: str, words: str) -> None:
    for file in files:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_text(text)
    with pytest.raises(BundleError, match=words):
        Tokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt")


def test_vocabulary_without_special_tokens(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(BundleError, match=r"vocab.json: got no token"):
        Tokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt")
    with pytest.raises(BundleError, match=r"missing.json"):
        Tokenizer(tmp_path / "missing.json", tmp_path / "merges.txt")
    with pytest.raises(BundleError, match=r"missing.txt"):
        Tokenizer(tmp_path / "vocab.json", tmp_path / "missing.txt")


def test_templates() -> None:
    assert len(STYLECLIP_TEMPLATES) == len(set(STYLECLIP_TEMPLATES)) == 79
    assert len(CLIP_TEMPLATES) == len(set(CLIP_TEMPLATES)) == 80
    assert set(CLIP_TEMPLATES) - set(STYLECLIP_TEMPLATES) == {"a photo of many {}."}
    assert all(template.count("{}") == 1 for template in CLIP_TEMPLATES)
    assert fill_templates(" {0} face ")[0] == "a bad photo of a {0} face."
    with pytest.raises(InputError, match="empty"):
        fill_templates("  ")
