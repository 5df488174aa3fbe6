"""CLIP's tokenizer in a folder, as libraries wrote it at any time: two files, or tokenizer.json; with added tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limner.export.diffusion.configs import TOKENIZER, check_config
from limner.runtime.errors import InputError
from limner.runtime.schema import read_json

END = "<|endoftext|>"
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
MAX_WORDS = 1 << 20  # larger is no length but a library's word for none


@dataclass(frozen=True)
class TokenizerFiles:
    """What the bundle's tokenizer is made of."""

    vocab: dict[str, int]
    merges: tuple[str, ...]  # "a b", in order
    added: dict[str, dict[str, Any]] = field(default_factory=dict)  # token -> id and how it is found in a text
    pad: int = 0
    length: int | None = None  # tokens of a text; None where the folder does not say

    @property
    def eos(self) -> int:
        return self.vocab[END]

    def write(self, folder: Path) -> None:
        """vocab.json, merges.txt and, where there are any, added_tokens.json."""
        folder.mkdir(exist_ok=True)
        (folder / "vocab.json").write_text(json.dumps(self.vocab, ensure_ascii=False), encoding="utf-8")
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *self.merges, ""]), encoding="utf-8")
        if self.added:
            (folder / "added_tokens.json").write_text(json.dumps(self.added, ensure_ascii=False), encoding="utf-8")


def read_tokenizer(folder: Path) -> TokenizerFiles:
    """The tokenizer of a folder. InputError for one that is not CLIP's, and for ids that leave gaps."""
    name = folder.name
    config = _json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    tokens = {key: config[key] for key in ("bos_token", "eos_token", "unk_token") if key in config}
    check_config(name, config | {key: _content(value) for key, value in tokens.items()}, TOKENIZER)
    whole = _json(folder / "tokenizer.json") if (folder / "tokenizer.json").is_file() else None
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        vocab, merges = _json(folder / "vocab.json"), _merges(folder / "merges.txt")
    elif whole is not None:
        vocab, merges = _from_whole(whole, name)
    else:
        raise InputError("model", f"no {name}/vocab.json with merges.txt, and no {name}/tokenizer.json in "
                         f"{str(folder.parent)!r}", "one of the two")  # fmt: skip
    if not isinstance(vocab, dict) or not all(type(index) is int for index in vocab.values()) or END not in vocab:
        raise InputError(f"{name}/vocab.json", f"no token {END}", "CLIP's vocabulary")
    added = _added(folder, config, whole, vocab)
    known = vocab | {token: entry["id"] for token, entry in added.items()}
    return TokenizerFiles(vocab, tuple(merges), added, _pad(folder, config, known), _length(config))


def _from_whole(whole: dict[str, Any], name: str) -> tuple[Any, list[str]]:
    model = whole.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or model.get("end_of_word_suffix") != "</w>":
        raise InputError(f"{name}/tokenizer.json", "a tokenizer of another kind", "CLIP's byte pairs, ending in </w>")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges", [])]
    return model.get("vocab"), merges


def _merges(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as reason:
        raise InputError(
            f"{path.parent.name}/{path.name}", f"a file that does not read ({reason})", "UTF-8"
        ) from reason
    return [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")]


def _added(folder: Path, config: dict[str, Any], whole: dict[str, Any] | None, vocab: dict[str, int]
           ) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Tokens beyond the vocabulary with their ids and flags; ids must follow it without a gap."""
    found: dict[str, dict[str, Any]] = {}
    for entry in (whole or {}).get("added_tokens", []):
        found[entry["content"]] = {"id": entry["id"], **{flag: bool(entry.get(flag, False)) for flag in FLAGS}}
    for index, entry in (config.get("added_tokens_decoder") or {}).items():
        flags = {flag: bool(entry.get(flag, False)) for flag in FLAGS}
        found.setdefault(entry["content"], {"id": int(index), **flags})
    if (folder / "added_tokens.json").is_file():
        for token, index in _json(folder / "added_tokens.json").items():
            entry = index if isinstance(index, dict) else {"id": index, **dict.fromkeys(FLAGS[:3], False),
                                                           "normalized": True}  # fmt: skip
            found.setdefault(token, entry)
    beyond = {token: entry for token, entry in found.items() if token not in vocab}
    ids = sorted(entry["id"] for entry in beyond.values())
    first = max(vocab.values()) + 1
    if ids != list(range(first, first + len(ids))):
        raise InputError(f"{folder.name}: added tokens", f"the ids {ids[:10]}", f"{first} and on, without a gap")
    return dict(sorted(beyond.items(), key=lambda pair: int(pair[1]["id"])))


def _pad(folder: Path, config: dict[str, Any], known: dict[str, int]) -> int:
    """The id that texts are filled up with: "!" in Stable Diffusion 2.x, the end token elsewhere."""
    path = folder / "special_tokens_map.json"
    # Where both say it, transformers takes the older file's word.
    for values, name in ((_json(path) if path.is_file() else {}, path.name), (config, "tokenizer_config.json")):
        token = _content(values.get("pad_token"))
        if token is not None:
            if token not in known:
                raise InputError(f"{folder.name}/{name}:pad_token", repr(token), "a token of the vocabulary")
            return known[token]
    return known[END]


def _length(config: dict[str, Any]) -> int | None:
    length = config.get("model_max_length")
    return int(length) if isinstance(length, (int, float)) and 0 < length < MAX_WORDS else None


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _json(path: Path) -> Any:
    return read_json(path, f"{path.parent.name}/{path.name}")
