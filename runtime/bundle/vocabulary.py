"""The words that a bundle's models were trained on: words.txt beside the tokenizer, one word a line, UTF-8.

A word is a run of letters, digits and their marks, in lower case; an apostrophe between two letters belongs to it, a
hyphen does not. Bundles of models that were trained on all sorts of texts have no such file.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

from limner.runtime.errors import BundleError
from limner.runtime.storage.files import read_plain

__all__ = ["FILE", "read_vocabulary", "spelled_words", "unseen_words", "vocabulary_text"]

FILE = "words.txt"
MAX_BYTES = 16_000_000
WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")


def spelled_words(text: str) -> list[str]:
    """Return the words of a text in their order, in lower case."""
    plain = unicodedata.normalize("NFC", text).replace("\u2019", "'").casefold()
    return WORD.findall(plain)


def unseen_words(text: str, known: Collection[str]) -> list[str]:
    """Return the words of a text that are not known, each once."""
    return [word for word in dict.fromkeys(spelled_words(text)) if word not in known]


def vocabulary_text(words: Iterable[str]) -> str:
    """Return what words.txt holds."""
    return "".join(f"{word}\n" for word in sorted(set(words)))


def read_vocabulary(path: Path) -> frozenset[str]:
    """Read words.txt; BundleError for a file that is none."""
    data = read_plain(path, path.name, MAX_BYTES, "UTF-8, one word a line", BundleError)
    try:
        return frozenset(data.decode("utf-8").split())
    except UnicodeDecodeError as reason:
        raise BundleError(path.name, f"a file that does not read ({reason})", "UTF-8, one word a line") from reason
