"""What a person should know of an edit beside its picture: one sentence each, in `Edit.warnings`.

    words that the models never saw     where the bundle carries the vocabulary of its captions
    words that had no room              of a text of more tokens than the text encoder reads, by whole words
    what was done to the picture file   first frame, profile, depth, cut (`images`)
    a source unlike the model's         `likeness` below the bundle's limit
    an edit that changed nothing        no pixel by more than ROUNDING levels, or `pixel` below the bundle's limit

The limits of a bundle are measured on validation pictures and said in its card.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.loading import Bundle
from limner.runtime.bundle.vocabulary import unseen_words
from limner.runtime.recipe import Recipe
from limner.runtime.text.tokenizer import Tokenizer

__all__ = ["change_notices", "source_notices", "text_notices", "word_notices"]

ImageU8 = NDArray[np.uint8]
ROUNDING = 2  # levels
SHOWN = 8


def text_notices(bundle: Bundle, tokenizer: Tokenizer, recipe: Recipe, texts: Sequence[str] = ()) -> list[str]:
    """Return what is to be said of the texts of a recipe that ran; `texts` stand for those of its prompts, if given."""
    said = list(texts) or [prompt.text for prompt in recipe.prompts]
    more = [recipe.source.prompt, getattr(recipe.parameters, "negative_prompt", None)]
    more += [getattr(one.options, "neutral", None) for one in recipe.prompts]
    return word_notices(bundle, tokenizer, [*said, *(text for text in more if text)])


def word_notices(bundle: Bundle, tokenizer: Tokenizer, said: Sequence[str]) -> list[str]:
    """Return what is to be said of texts alone: words that had no room, words never seen."""
    notices = []
    for text in dict.fromkeys(said):
        cut = tokenizer.cut_off(text)
        if cut:
            room = tokenizer.context_length - 2
            notices.append(
                f"{_shown(text.split())} has more than {room} tokens; these words are not read: {_shown(cut.split())}"
            )
    known = bundle.vocabulary
    if known is not None:
        words = [word for text in said for word in unseen_words(text, known)]
        if words:
            notices.append(f"words that the models of {bundle.manifest.name!r} never saw: {_shown(words, ', ')}")
    return notices


def source_notices(bundle: Bundle, notes: Sequence[str], likeness: float | None) -> list[str]:
    """Return what is to be said of a picture: what the reader did to its file, whether the models know its kind."""
    limit = bundle.manifest.limits.unlike
    found = [f"source: {note}" for note in notes]
    if likeness is not None and limit is not None and likeness < limit:
        found.append(
            f"the models of {bundle.manifest.name!r} keep little of the source (likeness {likeness:.2f}, usual from "
            f"{limit:.2f}): it is unlike the pictures that they were trained on, and its edit will be poor"
        )
    return found


def change_notices(bundle: Bundle, before: ImageU8, after: ImageU8, pixel: float) -> list[str]:
    """Return what is to be said of an edit that changed nothing: `pixel` is its score, pictures are [H,W,3]."""
    limit = bundle.manifest.limits.unchanged
    largest = int(np.abs(before.astype(np.int16) - after.astype(np.int16)).max())
    if largest > ROUNDING and (limit is None or pixel >= limit):
        return []
    return [f"the edit changed nothing that can be seen (largest change {largest} of 255 levels, pixel {pixel:.2g})"]


def _shown(words: Sequence[str], between: str = " ") -> str:
    different = list(dict.fromkeys(words)) if between != " " else list(words)
    more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
    if between == " ":
        return repr(" ".join(different[:SHOWN])) + more
    return between.join(map(repr, different[:SHOWN])) + more
