"""The networks that judge a picture, whatever model made it: CLIP (picture and text) and identity, kept warm."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.loading import Bundle
from limner.runtime.graphs.sessions import Sessions
from limner.runtime.storage.remembered import Remembered
from limner.runtime.text.tokenizer import Tokenizer

__all__ = ["Critics", "unit"]

FloatArray = NDArray[np.float32]
T = TypeVar("T")
CACHE_ENTRIES = 512


def unit(vectors: FloatArray) -> FloatArray:
    """Return the vectors [..., C] divided by their lengths; a zero vector stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1)).astype(np.float32)


class Critics:
    """CLIP and the identity network of one bundle, where it has them; float32, images [N,3,H,W] in [-1,1]."""

    def __init__(self, bundle: Bundle, sessions: Sessions) -> None:
        self.bundle = bundle
        self.sessions = sessions
        self._tokenizer: Tokenizer | None = None
        self._cache: Remembered[Any] = Remembered(CACHE_ENTRIES)

    @property
    def tokenizer(self) -> Tokenizer:
        """The bundle's, made at first use."""
        if self._tokenizer is None:
            self._tokenizer = Tokenizer.from_bundle(self.bundle)
        return self._tokenizer

    def identity(self, image: FloatArray) -> FloatArray:
        """image [N,3,H,W] -> unit identity features [N,I]."""
        return self._one("identity", "identity_features", image=image)

    def clip_image(self, image: FloatArray) -> FloatArray:
        """image [N,3,H,W] -> unit CLIP features [N,C]."""
        return self._one("clip_image", "image_features", image=image)

    def clip_text(self, texts: Sequence[str], field: str = "prompts.text") -> FloatArray:
        """N texts -> unit CLIP features [N,C]; InputError naming `field` for what is no text.

        Features are read at a text's end, which sees nothing that comes after it. So where the graph allows, what all
        texts are filled up with is left out: a usual text has 10 to 15 tokens, and the graph takes 77.
        """
        ids = self.tokenizer.encode(list(texts), field)
        if isinstance(self.bundle.graph("clip_text").inputs[0].shape[1], str):
            ids = ids[:, : int(np.argmax(ids == self.tokenizer.eos, axis=1).max()) + 1]
        return self._one("clip_text", "text_features", input_ids=ids)

    def text_features(self, text: str) -> FloatArray:
        """One text -> unit CLIP features [C]; remembered."""
        return self.cached(("text", text), lambda: self.clip_text([text])[0])

    def scores(self, before: FloatArray | None, after: FloatArray, texts: Sequence[str]) -> dict[str, float]:
        """Cosines of pictures [1,3,H,W] and texts before and after an edit, identity, and pixel change.

        Without `before`, the one score that needs the result alone.
        """
        pictures = after if before is None else np.concatenate([before, after])  # [1 or 2,3,H,W]
        found = {} if before is None else {"pixel": float(np.mean((pictures[1] - pictures[0]) ** 2))}
        if before is not None and "identity" in self.sessions:
            first, second = self.identity(pictures)
            found["identity"] = float(first @ second)
        if "clip_image" in self.sessions and "clip_text" in self.sessions:
            features = np.stack([self.text_features(text) for text in texts])  # [P,C]
            cosines = (self.clip_image(pictures) @ features.T).mean(axis=1)
            names = ("clip_after",) if before is None else ("clip_before", "clip_after")
            found |= {name: float(cosine) for name, cosine in zip(names, cosines, strict=True)}
        return found

    def cached(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make()` gave for `key` before, or call it; arrays become read-only."""

        def read_only() -> T:
            value = make()
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
            return value

        found: T = self._cache.make(key, read_only)
        return found

    def _one(self, graph: str, output: str, **inputs: NDArray[Any]) -> FloatArray:
        result: FloatArray = self.sessions.run(graph, only=[output], **inputs)[output]
        return result
