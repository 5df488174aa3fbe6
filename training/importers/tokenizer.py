"""CLIP's byte-pair tokenizer: vocab.json and merges.txt, or OpenAI's bpe_simple_vocab_16e6.txt.gz, which makes both.

openai/CLIP, clip/simple_tokenizer.py: tokens are the 256 bytes, the same at the end of a word, one for each merge,
and the two marks at the end.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

from limner.runtime.errors import InputError
from limner.runtime.schema import read_json

MARKS = ("<|startoftext|>", "<|endoftext|>")
MAX_TEXT = 64 << 20  # bytes; OpenAI's file has 3 MB
ALLOWED = "a folder with vocab.json and merges.txt, or OpenAI's bpe_simple_vocab_16e6.txt.gz"


def read_tokenizer(source: Path, tokens: int) -> dict[str, bytes]:
    """vocab.json and merges.txt as bytes, for a model of that many tokens. Raises InputError if they do not fit."""
    files = _from_folder(source) if source.is_dir() else _from_merges(source, tokens)
    vocabulary = json.loads(files["vocab.json"])
    if len(vocabulary) != tokens or sorted(vocabulary.values()) != list(range(tokens)):
        raise InputError("tokenizer", f"{source.name!r} of {len(vocabulary)} tokens", f"the model's {tokens} tokens")
    return files


def _from_folder(folder: Path) -> dict[str, bytes]:
    found = {}
    for name in ("vocab.json", "merges.txt"):
        path = folder / name
        if not path.is_file() or path.stat().st_size > MAX_TEXT:
            raise InputError("tokenizer", f"no {name} in {str(folder)!r}", ALLOWED, "give it by --tokenizer")
        found[name] = path.read_bytes()
    vocabulary = read_json(folder / "vocab.json", "vocab.json")
    if not isinstance(vocabulary, dict) or not all(type(value) is int for value in vocabulary.values()):
        raise InputError("tokenizer", f"{str(folder / 'vocab.json')!r} of another form", "words and their numbers")
    return found


def _from_merges(path: Path, tokens: int) -> dict[str, bytes]:
    try:
        raw = path.read_bytes()
    except OSError as reason:
        raise InputError("tokenizer", f"{str(path)!r}, which does not open ({reason.strerror})", ALLOWED) from reason
    try:
        lines = _unzipped(raw).decode("utf-8").split("\n")
    except (zlib.error, UnicodeDecodeError) as reason:
        raise InputError("tokenizer", f"{path.name!r}, which does not read ({reason})", ALLOWED) from reason
    symbols = byte_symbols()
    count = tokens - 2 * len(symbols) - len(MARKS)
    merges = lines[1 : 1 + max(count, 0)]
    if len(merges) < max(count, 0) or not all(len(line.split()) == 2 for line in merges):
        raise InputError("tokenizer", f"{path.name!r} with other merges than the {count} that the model has", ALLOWED)
    words = [*symbols, *(symbol + "</w>" for symbol in symbols), *("".join(line.split()) for line in merges), *MARKS]
    vocabulary = {word: number for number, word in enumerate(words)}
    return {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False).encode(),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]).encode(),
    }


def _unzipped(raw: bytes) -> bytes:
    """The text of a gzip file up to a limit, or the bytes themselves."""
    if raw[:2] != b"\x1f\x8b":
        return raw
    inflate = zlib.decompressobj(wbits=31)
    text = inflate.decompress(raw, MAX_TEXT)
    if inflate.unconsumed_tail:
        raise zlib.error(f"more than {MAX_TEXT} bytes")
    return text


def byte_symbols() -> list[str]:
    """The printable stand-in of each byte, in OpenAI's order: printable ones first (bytes_to_unicode)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + place) for place in range(len(others))]
