"""Refinement in a feature map: what W+ does not hold of a picture is kept as an offset to the generator's features.

    fit    D = argmin mean (G(w; D) - x)^2                 by L-BFGS from 0, w and weights fixed
    edit   G(w'; m D),  m = max(0, 1 - change / fade)

G(w; D) is the generator with D added to its feature map G_k(w). So F = G_k(w) + D, and F' = F + G_k(w') - G_k(w) of
Yao et al. 2022 ("Feature-Style Encoder for Style-Based GAN Inversion", section 3) is G_k(w') + D. Beyond the paper, D
fades where the edit itself changes the picture, for there it was fitted to what is no longer: `change` is
|G(w') - G(w)|, its mean over colours averaged to the map's size, then the largest of 3 x 3 neighbours. With fade 0
nothing fades, as published.

Graphs "synthesis_features" and "feature_gradient". The error is quadratic in pieces, so that L-BFGS takes about half of
the steps that Adam does: 20 bring the shipped generator from 35 to 41 dB.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from limner.runtime.bundle.loading import Bundle
from limner.runtime.settings import InversionParameters, said
from limner.runtime.stylegan2.lbfgs import LBFGS
from limner.runtime.stylegan2.networks import Models
from limner.runtime.timing import Progress, without_previews

__all__ = ["GRAPHS", "Features", "KeepingModels", "fading", "fit_features", "with_feature_steps"]

FloatArray = NDArray[np.float32]
GRAPHS = ("affine", "synthesis_features", "feature_gradient")
STEPS = 20  # that follow a refinement of W+, where nothing else is said
FIRST, LONGEST = 0.01, 1.0  # steps, in parts of the feature map's root mean square


@dataclass(frozen=True, eq=False)
class Features:
    """What one picture's inversion found beside w."""

    offset: FloatArray  # [1,C,r,r]
    plain: FloatArray  # [1,3,H,W], the picture of w alone
    fade: float  # change of a pixel, in [-1,1], from which on nothing of the offset is left; 0: all stays

    def drawn(self, models: Models, style_channels: FloatArray, plain: FloatArray) -> FloatArray:
        """The picture [N,3,H,W] of styles [N,S] with the offset, given their picture without it."""
        offset = np.repeat(self.offset, len(plain), axis=0)
        if self.fade > 0.0:
            offset = offset * fading(plain - self.plain, self.fade, offset.shape[-1])
        return models.synthesis_features(style_channels, offset.astype(np.float32))[0]


class KeepingModels(Models):
    """The same networks, whose pictures keep the features of one source."""

    def __init__(self, models: Models, features: Features) -> None:
        vars(self).update(vars(models))  # the same sessions and remembered texts
        self._plain, self.features = models, features

    @property
    def plain(self) -> Models:
        """The networks without the offset."""
        return self._plain

    def synthesis(self, w_plus: FloatArray) -> FloatArray:
        """w_plus [N,L,D] -> image [N,3,H,W]."""
        return self.features.drawn(self._plain, self.affine(w_plus), super().synthesis(w_plus))

    def synthesis_from_styles(self, style_channels: FloatArray) -> FloatArray:
        """style_channels [N,S] -> image [N,3,H,W]."""
        return self.features.drawn(self._plain, style_channels, super().synthesis_from_styles(style_channels))


def fading(change: FloatArray, fade: float, side: int) -> FloatArray:
    """Return m [N,1,r,r] in [0,1] for the change [N,3,H,W] of a picture; H and W are multiples of r = side."""
    n, _, height, width = change.shape
    cells = np.abs(change).mean(axis=1).reshape(n, side, height // side, side, width // side).mean(axis=(2, 4))
    padded = np.pad(cells, ((0, 0), (1, 1), (1, 1)))
    largest = sliding_window_view(padded, (3, 3), axis=(1, 2)).max(axis=(3, 4))
    found: FloatArray = np.clip(1.0 - largest / fade, 0.0, 1.0)[:, None].astype(np.float32)
    return found


def with_feature_steps(
    bundle: Bundle, whole: InversionParameters, given: InversionParameters | None = None
) -> InversionParameters:
    """Return the settings `whole` with the number of steps filled in: as `given` says; else, where the bundle has the
    graphs, the presets', or 20 behind a refinement in W+.
    """
    if given is not None and given.feature_steps is not None and "feature_steps" in said(given):
        return whole
    has_graphs = all(name in bundle.manifest.graphs for name in GRAPHS)
    usual = STEPS if whole.refine_steps > 0 else 0
    steps = usual if whole.feature_steps is None else whole.feature_steps
    return replace(whole, feature_steps=steps if has_graphs else 0)


def fit_features(
    models: Models,
    image: FloatArray,  # [N,3,H,W] in [-1,1]
    w_plus: FloatArray,  # [N,L,D]
    parameters: InversionParameters,
    progress: Progress | None = None,
) -> tuple[list[Features], FloatArray]:
    """Fit N pictures at once, each row as if it were alone; return also their pictures with the offset [N,3,H,W].

    The best point seen is taken; 0 is the first of them.
    """
    steps, styles = parameters.feature_steps or 0, models.affine(w_plus)
    offset = np.zeros((len(image), *models.feature_shape), np.float32)
    plain, features = models.synthesis_features(styles, offset)
    size = np.sqrt(np.mean(np.square(features), axis=(1, 2, 3), keepdims=True))  # [N,1,1,1]
    search, steady = LBFGS(FIRST * size, LONGEST * size), without_previews(progress)
    best, least, drawn = offset, _error(plain, image), plain
    for step in range(steps):
        loss, gradient = models.feature_gradient(offset, styles, image)
        best, least = _better(offset, loss[:, None, None, None], best, least)
        offset = search.step(offset, gradient)
        if steady is not None:
            steady(step + 1, steps, {"loss_pixel": float(loss.mean())})
    if steps:
        drawn, _ = models.synthesis_features(styles, offset)
        best, _ = _better(offset, _error(drawn, image), best, least)
        drawn, _ = (drawn, None) if best is offset else models.synthesis_features(styles, best)
    rows = [Features(best[k : k + 1], plain[k : k + 1], parameters.feature_fade) for k in range(len(image))]
    return rows, drawn


def _error(drawn: FloatArray, image: FloatArray) -> FloatArray:
    """[N,1,1,1]: the mean square."""
    found: FloatArray = np.mean((drawn - image) ** 2, axis=(1, 2, 3), keepdims=True, dtype=np.float32)
    return found


def _better(offset: FloatArray, loss: FloatArray, best: FloatArray, least: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The better of two points in each row, and its loss; `offset` itself where it is better in all."""
    better = loss <= least
    return offset if better.all() else np.where(better, offset, best), np.minimum(loss, least)
