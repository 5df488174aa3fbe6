"""CLIP's byte-pair tokenizer: learnt from captions, written and read in the published file format.

``vocab.json`` maps tokens to ids: 256 bytes, the same with ``</w>``, merges in order, start, end.
``merges.txt`` is a version line and one merge a line.
"""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from limner.runtime.bundle.vocabulary import spelled_words
from limner.training.avatars.attributes import STYLES, sample_in_split
from limner.training.avatars.captions import caption

START, END = "<|startoftext|>", "<|endoftext|>"
CONTEXT_LENGTH = 77
# Source of the pattern: openai/CLIP simple_tokenizer.py.
PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def byte_alphabet() -> list[str]:
    """The printable character of each byte 0 to 255 (GPT-2's table, Radford et al. 2019), in CLIP's order."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in kept]
    return [chr(b) for b in kept] + [chr(256 + i) for i in range(len(others))]


def learn_merges(words: Counter[str], count: int) -> list[tuple[str, str]]:
    """The `count` most frequent merges, in order; ties go to the pair that sorts first (Sennrich et al. 2016)."""
    split = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = {word: _merge(parts, best) for word, parts in split.items()}
    return merges


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def caption_words(style: str, captions: int, seed: int = 0) -> Counter[str]:
    """How often each word stands in captions of avatars of the train split, in the byte alphabet."""
    from tokenizers import pre_tokenizers

    rng = np.random.default_rng([seed, 7])
    split, spec = _pre_tokenizer(), STYLES[style]
    words: Counter[str] = Counter()
    assert isinstance(split, pre_tokenizers.PreTokenizer)
    for i in range(captions):
        text = caption(sample_in_split(spec, "train", i, seed).attributes(spec), rng).text
        words.update(piece for piece, _ in split.pre_tokenize_str(text))
    return words


def caption_vocabulary(style: str, captions: int, seed: int = 0) -> set[str]:
    """The words of captions of the train split, as `limner.runtime.bundle.vocabulary` spells them."""
    rng, spec = np.random.default_rng([seed, 7]), STYLES[style]
    texts = (caption(sample_in_split(spec, "train", i, seed).attributes(spec), rng).text for i in range(captions))
    return {word for text in texts for word in spelled_words(text)}


def write_tokenizer(folder: Path, merges: Sequence[tuple[str, str]]) -> int:
    """Write vocab.json and merges.txt. Returns the size of the vocabulary."""
    alphabet = byte_alphabet()
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(pair) for pair in merges), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False)
    (folder / "vocab.json").write_text(text, encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(tokens)


def _pre_tokenizer() -> Any:
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])


class CaptionTokenizer:
    """Text to ids int64 [N, length], start and end included, padded with the end token."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.vocab: dict[str, int] = json.loads((self.folder / "vocab.json").read_text(encoding="utf-8"))
        self.start, self.end = self.vocab[START], self.vocab[END]

    @cached_property
    def _backend(self) -> Any:
        from tokenizers import Regex, Tokenizer, models, normalizers

        lines = (self.folder / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
        merges = [(a, b) for a, b in (line.split(" ") for line in lines if line)]
        model = models.BPE(vocab=self.vocab, merges=merges, continuing_subword_prefix="", end_of_word_suffix="</w>",
                           fuse_unk=False, unk_token=END)  # fmt: skip
        backend = Tokenizer(model)
        backend.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        backend.pre_tokenizer = _pre_tokenizer()
        return backend

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_backend"}

    def encode(self, texts: Iterable[str], length: int | None = None) -> torch.Tensor:
        """ids int64 [N, length]; `length` None trims to the longest of the texts. Longer texts are cut."""
        import ftfy

        cleaned = [html.unescape(html.unescape(ftfy.fix_text(text))).strip() for text in texts]
        found = self._backend.encode_batch(cleaned, add_special_tokens=False)
        rows = [[self.start, *encoding.ids[: CONTEXT_LENGTH - 2], self.end] for encoding in found]
        ids = torch.full((len(rows), length or max(map(len, rows))), self.end, dtype=torch.int64)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        return ids
