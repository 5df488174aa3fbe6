"""The graphs of a StyleGAN2 bundle as functions of arrays: the one file that knows their input and output names."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.loading import Bundle
from limner.runtime.critics import Critics
from limner.runtime.graphs.sessions import Sessions

__all__ = ["Models"]

FloatArray = NDArray[np.float32]


class Models(Critics):
    """The networks of one bundle on one provider, kept warm; float32, images [N,3,H,W] in [-1,1]."""

    def __init__(
        self, bundle: Bundle, provider: str = "cpu", threads: int | None = None, sessions: Sessions | None = None
    ) -> None:
        super().__init__(bundle, Sessions(bundle, provider, threads) if sessions is None else sessions)

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

    @property
    def plain(self) -> "Models":
        """The networks as they are, where a source's features are kept (`features.KeepingModels`)."""
        return self

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """[C,r,r] of the feature map that "synthesis_features" adds to."""
        inputs = {tensor.name: tensor for tensor in self.bundle.graph("synthesis_features").inputs}
        return tuple(int(size) for size in inputs["feature_offset"].shape[1:])

    def synthesis_features(
        self, style_channels: FloatArray, feature_offset: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """style_channels [N,S], feature_offset [N,C,r,r] -> image [N,3,H,W], the feature map with the offset."""
        given = {"style_channels": style_channels, "feature_offset": feature_offset}
        found = self.sessions.run("synthesis_features", only=None, **given)
        return found["image"], found["features"]

    def feature_gradient(
        self, feature_offset: FloatArray, style_channels: FloatArray, target_image: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return loss_pixel [N], mean (image - target)^2, and its gradient [N,C,r,r] by the offset."""
        found = self.sessions.run(
            "feature_gradient",
            only=["loss_pixel", "gradient"],
            feature_offset=feature_offset,
            style_channels=style_channels,
            target_image=target_image,
            loss_weights=np.ones(1, np.float32),
        )
        return found["loss_pixel"], found["gradient"]

    def latent_gradient(
        self,
        *,
        latents: FloatArray,  # [N,L,D] where the gradient is taken
        source: FloatArray,  # [N,L,D] what the L2 term pulls towards
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
            w_plus=latents,
            w_plus_source=source,
            text_features=text_features,
            identity_source=identity_source,
            target_image=target_image,
            loss_weights=loss_weights,
        )

    def style_gradient(
        self,
        *,
        latents: FloatArray,  # style channels [N,S], as is the source; the rest as in `latent_gradient`
        source: FloatArray,
        only: Sequence[str] | None = None,
        **targets: FloatArray,
    ) -> dict[str, FloatArray]:
        """`latent_gradient` in S: a descent names its latents alike in every space."""
        both = {"style_channels": latents, "style_channels_source": source}
        return self.sessions.run("style_gradient", only=only, **both, **targets)
