"""Inversion: from a real picture to W+, by the encoder and, where asked, a refinement by gradients.

    loss(w) = pixel mean (G(w) - x)^2 + clip (1 - cos(CLIP(G(w)), CLIP(x)))
              + identity (1 - cos(ID(G(w)), ID(x))) + l2 sum (w - E(x))^2

The refinement runs on the bundle's graph "latent_gradient": its text input takes the picture's own CLIP
features, which live in the same space. What W+ does not hold of the picture `features` may find in a feature map,
behind that. The best point seen is taken, so that it is never worse than the
encoder's. The pull to the encoder's answer E(x) keeps w where edits still work.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limner.runtime.pictures.containers import NOTHING, Carried
from limner.runtime.pictures.images import to_u8
from limner.runtime.settings import InversionParameters
from limner.runtime.stylegan2.descent import LossWeights, Schedule, Stopping, Targets, descend
from limner.runtime.stylegan2.features import Features, fit_features
from limner.runtime.stylegan2.networks import Models
from limner.runtime.timing import Progress, Timer, without_previews

__all__ = ["Inversion", "compare_images", "invert", "likeness"]

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Inversion:
    """A picture's latents and what the generator makes of them.

    `scores`: pixel (mean square over [-1,1]), clip and identity (cosines of picture and reconstruction).
    """

    w_plus: FloatArray  # [1,L,D]
    picture: NDArray[np.uint8]  # [H,W,3], the generator's size
    reconstruction: NDArray[np.uint8]  # [H,W,3]
    rendered: FloatArray  # [1,3,H,W] in [-1,1], the reconstruction before rounding
    steps: int  # of the refinement, up to the best point
    scores: dict[str, float]
    timing: dict[str, float]  # stage -> ms, of the whole batch that it was inverted in
    features: Features | None = None  # what a feature map keeps beside w_plus; the reconstruction has it
    likeness: float | None = None  # of picture and the encoder's own answer, see `likeness`
    notes: tuple[str, ...] = ()  # what was done to the picture file, one phrase each
    carried: Carried = NOTHING  # what the file holds beside its pixels


def invert(
    models: Models,
    image: FloatArray,  # [N,3,H,W] in [-1,1], H = W = the generator's size
    parameters: InversionParameters,
    progress: Progress | None = None,
) -> list[Inversion]:
    """Invert N pictures at once; one result a row."""
    timer = Timer()
    with timer.stage("encoder"):
        w_plus = models.encode(image)  # [N,L,D]
    steps = [0] * len(image)
    first: dict[str, FloatArray] | None = None
    if parameters.refine_steps > 0:
        with timer.stage("scores"):
            first = compare_images(models, image, models.synthesis(w_plus))
        with timer.stage("refine"):
            w_plus, steps = _refine(models, image, w_plus, parameters, progress)
    features: list[Features] | None = None
    if parameters.feature_steps:
        if first is None:
            with timer.stage("scores"):
                first = compare_images(models, image, models.synthesis(w_plus))
        with timer.stage("features"):
            features, reconstruction = fit_features(models, image, w_plus, parameters, progress)
    else:
        with timer.stage("reconstruction"):
            reconstruction = models.synthesis(w_plus)
    with timer.stage("scores"):
        scores = compare_images(models, image, reconstruction)
    alike = likeness(scores if first is None else first)
    pictures, reconstructions = to_u8(image), to_u8(reconstruction)
    return [
        Inversion(
            w_plus=w_plus[row : row + 1],
            picture=pictures[row],
            reconstruction=reconstructions[row],
            rendered=reconstruction[row : row + 1],
            steps=steps[row],
            scores={name: float(values[row]) for name, values in scores.items()},
            timing=dict(timer.stages),
            features=None if features is None else features[row],
            likeness=None if alike is None else float(alike[row]),
        )
        for row in range(len(image))
    ]


def compare_images(models: Models, first: FloatArray, second: FloatArray) -> dict[str, FloatArray]:
    """Return pixel (mean square), clip and identity (cosines), each [N], for two batches [N,3,H,W].

    A score whose network the bundle lacks is left out.
    """
    scores: dict[str, FloatArray] = {"pixel": np.mean((first - second) ** 2, axis=(1, 2, 3), dtype=np.float32)}
    for name, graph, features in (
        ("clip", "clip_image", models.clip_image),
        ("identity", "identity", models.identity),
    ):
        if graph in models.sessions:
            scores[name] = np.sum(features(first) * features(second), axis=1)
    return scores


def likeness(scores: Mapping[str, FloatArray]) -> FloatArray | None:
    """Return how much of a picture the encoder and the generator keep, [N]: the mean of the clip and identity cosines.

    Pictures unlike those that the models were trained on have little. A refinement would raise both scores whatever
    the picture is, so it is not asked. None where a bundle has neither network.
    """
    cosines = [scores[name] for name in ("clip", "identity") if name in scores]
    if not cosines:
        return None
    mean: FloatArray = np.mean(cosines, axis=0, dtype=np.float32)
    return mean


def _refine(
    models: Models,
    image: FloatArray,
    start: FloatArray,
    parameters: InversionParameters,
    progress: Progress | None,
) -> tuple[FloatArray, list[int]]:
    targets = Targets(
        source=start,
        text_features=models.clip_image(image),
        identity_source=models.identity(image),
        target_image=image,
    )
    weights = LossWeights(
        clip=parameters.clip_weight,
        l2=parameters.l2_weight,
        identity=parameters.identity_weight,
        pixel=parameters.pixel_weight,
    )
    found = descend(
        models.latent_gradient,
        start,
        targets,
        weights,
        Schedule(parameters.refine_steps, parameters.learning_rate),
        stopping=Stopping(parameters.patience, best=True),
        progress=without_previews(progress),
    )
    return np.stack([one.latents for one in found]), [one.steps for one in found]
