"""The bundle's graphs as functions of arrays: the one file of the runtime that knows their input and output
names.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.loading import Bundle
from limner.runtime.graphs.sessions import Sessions
from limner.runtime.text.tokenizer import Tokenizer

__all__ = ["Models", "unit"]

FloatArray = NDArray[np.float32]
T = TypeVar("T")
CACHE_ENTRIES = 512


def unit(vectors: FloatArray) -> FloatArray:
    """Return the vectors [..., C] divided by their lengths; a zero vector stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1)).astype(np.float32)


class Models:
    """The networks of one bundle on one provider, kept warm; float32, images [N,3,H,W] in [-1,1]."""

    def __init__(self, bundle: Bundle, provider: str = "cpu", threads: int | None = None) -> None:
        self.bundle = bundle
        self.sessions = Sessions(bundle, provider, threads)
        self._tokenizer: Tokenizer | None = None
        self._cache: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def tokenizer(self) -> Tokenizer:
        """The bundle's, made at first use."""
        if self._tokenizer is None:
            self._tokenizer = Tokenizer.from_bundle(self.bundle)
        return self._tokenizer

    def mapping(self, z: FloatArray) -> FloatArray:
        """z [N,Z] -> w [N,D]."""
        return self._one("mapping", "w", z=z)

    def affine(self, w_plus: FloatArray) -> FloatArray:
        """w_plus [N,L,D] -> style_channels [N,S]."""
        return self._one("affine", "style_channels", w_plus=w_plus)

    def synthesis(self, w_plus: FloatArray) -> FloatArray:
        """w_plus [N,L,D] -> image [N,3,H,W], noise fixed."""
        return self._one("synthesis_w", "image", w_plus=w_plus)

    def synthesis_from_styles(self, style_channels: FloatArray) -> FloatArray:
        """style_channels [N,S] -> image [N,3,H,W], noise fixed."""
        return self._one("synthesis_s", "image", style_channels=style_channels)

    def encode(self, image: FloatArray) -> FloatArray:
        """image [N,3,H,W] -> w_plus [N,L,D]."""
        return self._one("encoder", "w_plus", image=image)

    def mapper(self, graph: str, space: str, latent: FloatArray) -> FloatArray:
        """A mapper's step for latents of its space: w_plus [N,L,D] or style_channels [N,S], of the same shape."""
        return self._one(graph, "step", **{space: latent})

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

    def latent_gradient(
        self,
        *,
        w_plus: FloatArray,  # [N,L,D] where the gradient is taken
        w_plus_source: FloatArray,  # [N,L,D] what the L2 term pulls towards
        text_features: FloatArray,  # [N,C] unit
        identity_source: FloatArray,  # [N,I] unit
        target_image: FloatArray,  # [N,3,H,W] of the pixel term
        loss_weights: FloatArray,  # [4]: clip, l2, identity, pixel
        only: Sequence[str] | None = None,
    ) -> dict[str, FloatArray]:
        """Return loss_clip, loss_l2, loss_identity, loss_pixel [N], gradient [N,L,D] and image [N,3,H,W]."""
        return self.sessions.run(
            "latent_gradient",
            only=only,
            w_plus=w_plus,
            w_plus_source=w_plus_source,
            text_features=text_features,
            identity_source=identity_source,
            target_image=target_image,
            loss_weights=loss_weights,
        )

    def style_gradient(
        self,
        *,
        w_plus: FloatArray,  # style channels [N,S], as are the sources; the rest as in `latent_gradient`
        w_plus_source: FloatArray,
        only: Sequence[str] | None = None,
        **targets: FloatArray,
    ) -> dict[str, FloatArray]:
        """`latent_gradient` in S: a descent names its latents alike in every space."""
        latents = {"style_channels": w_plus, "style_channels_source": w_plus_source}
        return self.sessions.run("style_gradient", only=only, **latents, **targets)

    def cached(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make()` gave for `key` before, or call it; arrays become read-only."""
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                found: T = self._cache[key]
                return found
        value = make()
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
        with self._lock:
            self._cache[key] = value
            while len(self._cache) > CACHE_ENTRIES:
                self._cache.popitem(last=False)
        return value

    def _one(self, graph: str, output: str, **inputs: NDArray[Any]) -> FloatArray:
        result: FloatArray = self.sessions.run(graph, only=[output], **inputs)[output]
        return result
