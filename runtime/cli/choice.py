"""Which method the words of a command line mean."""

from collections.abc import Sequence

from limner.runtime.errors import InputError
from limner.runtime.methods.registry import Texts, find_method, method_names, usual_method

__all__ = ["choose_method"]

TEXTS_OF: dict[Texts, str] = {"mapper": "mapper", "concept": "concept"}  # kinds of text with an option of their own


def choose_method(
    method: str | None,
    mappers: Sequence[str] | None,
    concepts: Sequence[str] | None = None,
    prompts: Sequence[str] | None = None,
) -> str:
    """Return the method that was asked for or that the words imply; InputError for words of another method.

    `prompts` are texts for any method; alone they mean the one that reads the text of a whole picture.
    """
    implied = method
    for texts, words in TEXTS_OF.items():
        given = {"mapper": mappers, "concept": concepts}[texts]
        if not given:
            continue
        if implied is not None and find_method(implied).texts != texts:
            shown, owners = f"{given[0]!r} with the method {implied!r}", ", ".join(_reading(texts))
            raise InputError(words, shown, f"--{words} with {owners} alone")
        implied = implied or usual_method(texts)
    return implied or usual_method("prompt" if prompts else "text")


def _reading(texts: Texts) -> list[str]:
    return [name for name in method_names() if find_method(name).texts == texts]
