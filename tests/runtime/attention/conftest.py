"""The tokenizer that ships with Limner, and a function that reads prompts with it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from limner.runtime.attention.words import Prompt, read_prompt
from limner.runtime.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer(repository: Path) -> Tokenizer:
    folder = repository / "checkpoints/avatars/clip"
    return Tokenizer(folder / "vocab.json", folder / "merges.txt")


@pytest.fixture(scope="session")
def prompt(tokenizer: Tokenizer) -> Callable[[str], Prompt]:
    return lambda text: read_prompt(tokenizer, text)
