"""CLIP's byte-pair tokenizer on the `tokenizers` library: the same ids as transformers' CLIPTokenizer.

Text is cleaned as in CLIP's simple_tokenizer.py: ftfy mends mojibake, HTML entities are unescaped twice; then
NFC, white space to single spaces, lower case.
"""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.loading import Bundle
from limner.runtime.errors import BundleError, InputError
from limner.runtime.grammar import refuse_markup
from limner.runtime.schema import read_json

if TYPE_CHECKING:
    import tokenizers

START = "<|startoftext|>"
END = "<|endoftext|>"
# Source of the pattern: openai/CLIP simple_tokenizer.py.
PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
CONTEXT_LENGTH = 77
MAX_CHARACTERS = 100_000


class Tokenizer:
    """Turns texts into int64 ids [N, context_length]: start, the words, end, then padding."""

    def __init__(
        self,
        vocab: Path,  # vocab.json: token -> id
        merges: Path,  # merges.txt: a version line, then one merge a line
        context_length: int = CONTEXT_LENGTH,
        pad: int | None = None,  # None pads with the end token
        added: Path | None = None,  # added_tokens.json: token -> id and flags
    ) -> None:
        self._backend = _build(vocab, merges)
        if added is not None:
            _add_tokens(self._backend, added)
        self.start = _special(self._backend, START, vocab)
        self.eos = _special(self._backend, END, vocab)
        self.pad = self.eos if pad is None else pad
        self.context_length = context_length

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> "Tokenizer":
        """Build the tokenizer of a bundle; raise BundleError if its end token is not the bundle's."""
        files, clip = bundle.manifest.tokenizer, bundle.manifest.clip
        tokenizer = cls(
            bundle.file(files.vocab),
            bundle.file(files.merges),
            clip.context_length,
            clip.pad,
            bundle.file(files.added) if files.added else None,
        )
        if tokenizer.eos != clip.eos:
            raise BundleError(
                "clip.eos",
                clip.eos,
                f"{tokenizer.eos}, the id of {END} in {files.vocab}",
            )
        return tokenizer

    def encode(self, texts: str | Sequence[str], field: str = "prompt") -> NDArray[np.int64]:
        """Return ids int64 [N, context_length]; a single string is one row.

        Raises InputError naming `field` for a text that is empty, or has characters that the vocabulary does not
        know. What has no room is left out by whole words; `cut_off` says what that is.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        ids = np.full((len(texts), self.context_length), self.pad, dtype=np.int64)  # [N,77]
        for row, text in zip(ids, texts, strict=True):
            tokens = [self.start, *self.tokens(text, field), self.eos]
            row[: len(tokens)] = tokens
        return ids

    def tokens(self, text: str, field: str = "prompt") -> list[int]:
        """Return the ids of one text without start, end and padding; InputError as for `encode`."""
        return self.pieces(text, field)[1]

    def pieces(self, text: str, field: str = "prompt") -> tuple[str, list[int], list[tuple[int, int]]]:
        """Return the cleaned text, its ids without start, end and padding, and for each the characters of the
        cleaned text that it stands for, [first, last); InputError as for `encode`.

        A text of more tokens than there is room for is cut off after its last whole word that has room.
        """
        cleaned, ids, offsets = self._all_pieces(text, field)
        kept = self._room(cleaned, ids, offsets)
        end = offsets[kept - 1][1] if kept < len(ids) else len(cleaned)
        return cleaned[:end], ids[:kept], offsets[:kept]

    def cut_off(self, text: str, field: str = "prompt") -> str:
        """Return the words that have no room and are not read, or an empty string."""
        cleaned, ids, offsets = self._all_pieces(text, field)
        kept = self._room(cleaned, ids, offsets)
        return cleaned[offsets[kept - 1][1] :].strip() if kept < len(ids) else ""

    def _room(self, cleaned: str, ids: list[int], offsets: list[tuple[int, int]]) -> int:
        """How many tokens are read: as many whole words as have room; of a single word without room its beginning."""
        limit = self.context_length - 2
        if len(ids) <= limit:
            return len(ids)
        begin = max(cleaned.rfind(" ", 0, offsets[limit][0] + 1), 0)  # of the word that has no room
        whole = sum(first < begin for first, _ in offsets[:limit])
        return whole or limit

    def _all_pieces(self, text: str, field: str) -> tuple[str, list[int], list[tuple[int, int]]]:
        if not isinstance(text, str):
            raise InputError(field, f"a {type(text).__name__}", "a text")
        if len(text) > MAX_CHARACTERS:
            raise InputError(
                field,
                f"{len(text)} characters",
                f"at most {self.context_length - 2} tokens",
            )
        cleaned = clean(text)
        if not cleaned:
            raise InputError(field, "an empty text", "one word or more")
        refuse_markup(cleaned, field)
        for special in (START, END):
            if special in cleaned.lower():
                raise InputError(field, f"the special token {special}", "plain words")
        encoding = self._backend.encode(cleaned, add_special_tokens=False)
        if self.eos in encoding.ids:  # the end token also stands for what the vocabulary does not know
            first, last = encoding.offsets[encoding.ids.index(self.eos)]
            raise InputError(
                field,
                f"the unknown characters {cleaned[first:last]!r}",
                "the vocabulary's characters",
            )
        return cleaned, list(encoding.ids), list(encoding.offsets)


def clean(text: str) -> str:
    """Mend mojibake, unescape HTML entities twice, collapse white space and strip; case is left alone."""
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split())


def _build(vocab: Path, merges: Path) -> "tokenizers.Tokenizer":
    """The normaliser and pre-tokeniser of transformers' CLIPTokenizer, without its special-token handling."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    tokens = read_json(vocab, vocab.name, BundleError)
    if not isinstance(tokens, dict) or not all(type(index) is int for index in tokens.values()):
        raise BundleError(vocab.name, "another kind of JSON", "an object from token to id")
    try:
        model = models.BPE(
            vocab=tokens,
            merges=_read_merges(merges),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
            unk_token=END,
        )
    except Exception as reason:
        raise BundleError(
            merges.name,
            f"merges that do not fit the vocabulary ({reason})",
            "CLIP's format",
        ) from reason
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return backend


def _add_tokens(backend: "tokenizers.Tokenizer", path: Path) -> None:
    """Tokens beyond the vocabulary, found in a text before it is split; ids follow the vocabulary's in order."""
    from tokenizers import AddedToken

    entries = read_json(path, path.name, BundleError)
    if not isinstance(entries, dict):
        raise BundleError(path.name, "another kind of JSON", "an object from token to id")
    for token, entry in entries.items():
        given = entry if isinstance(entry, dict) else {"id": entry}
        flags = {flag: given.get(flag, False) is True for flag in ("single_word", "lstrip", "rstrip", "normalized")}
        if not token or token != token.strip():
            raise BundleError(path.name, repr(token), "tokens without space around them")
        backend.add_tokens([AddedToken(token, **flags)])
        if backend.token_to_id(token) != given.get("id"):
            allowed = f"{backend.token_to_id(token)}, the one behind those before it"
            raise BundleError(path.name, f"{token!r} with the id {given.get('id')!r}", allowed)


def _read_merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as reason:
        raise BundleError(path.name, f"a file that does not read ({reason})", "a UTF-8 text file") from reason
    merges = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        parts = line.rstrip("\r").split(" ")
        if len(parts) != 2 or not all(parts):
            raise BundleError(
                path.name,
                f"{line[:40]!r} in line {number}",
                "two tokens with a space between them",
            )
        merges.append((parts[0], parts[1]))
    return merges


def _special(backend: "tokenizers.Tokenizer", token: str, vocab: Path) -> int:
    index = backend.token_to_id(token)
    if index is None:
        raise BundleError(vocab.name, f"no token {token}", f"a vocabulary with {START} and {END}")
    return index
