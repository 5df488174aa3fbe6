"""The guidance of LEDITS++ (Brack et al. 2023): a plain sum of concepts, each inside its own mask.

    phi_c = s_c g_c (e_c - e_0)                             the concept's direction; g_c is its weight
    M1    = smoothed attention of the concept's words >= its quantile          where the concept is
    M2    = sum over channels of |phi_c| >= its quantile                       where it would change much
    eps   = e + sum over the active concepts of phi_c M1 M2                    M1 alone above timestep 800

Quantiles are over the pixels of one picture; places drawn by hand go on top of a concept's mask. As in diffusers'
LEditsPPPipelineStableDiffusion.
"""

from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from limner.runtime.guidance.concepts import Concept, channel_quantile, quantile
from limner.runtime.methods.sega import MaskKind

__all__ = ["active", "attention_mask", "enlarged", "masked_guidance", "noise_mask", "smooth"]

FloatArray = NDArray[np.float32]
T = TypeVar("T", bound=np.generic)
NOISE_MASK_FROM = 800  # above this timestep the estimates are too noisy to mask with


def active(concept: Concept, index: int) -> bool:
    """Whether the concept is added at step `index` of the edit."""
    return concept.scale * concept.gain != 0.0 and index >= concept.warmup and not concept.cooled(index)


def masked_guidance(
    concept: Concept,
    uncond: FloatArray,  # e_0 [1,C,h,w]
    estimate: FloatArray,  # e_c [1,C,h,w]
    attention: FloatArray | None,  # [h_a,w_a], the attention of the concept's words summed; None for "noise"
    timestep: float,
    kind: MaskKind,
) -> tuple[FloatArray, FloatArray]:
    """Return what one concept adds, [1,C,h,w], and its mask, [1,1,h,w] of 0 and 1."""
    phi = (estimate - uncond) * np.float32(concept.scale * concept.gain)
    masks: list[FloatArray] = []
    if kind != "noise" and attention is not None:
        height, width = phi.shape[-2:]
        masks.append(attention_mask(attention, concept.threshold, (height, width))[None, None])
    if kind == "noise" or (kind == "intersect" and timestep <= NOISE_MASK_FROM):
        masks.append(noise_mask(phi, concept.threshold))
    mask = masks[0]
    for other in masks[1:]:
        mask = mask * other
    if concept.drawn is not None:
        mask = concept.drawn.on(mask).astype(np.float32)
    return phi * mask, mask


def attention_mask(attention: FloatArray, threshold: float, size: Sequence[int]) -> FloatArray:
    """Attention [h_a,w_a] -> 0 or 1 [h,w], smoothed and cut at its quantile."""
    smoothed = smooth(attention)
    limit = quantile(smoothed.reshape(-1), threshold)
    small = (smoothed >= limit).astype(np.float32)
    return enlarged(small, size)


def enlarged(mask: NDArray[T], size: Sequence[int]) -> NDArray[T]:
    """A mask [h,w] at another size (height, width), nearest, as torch's interpolate."""
    rows, columns = (np.arange(side) * part // side for side, part in zip(size, mask.shape, strict=True))
    found: NDArray[T] = mask[rows][:, columns]
    return found


def noise_mask(phi: FloatArray, threshold: float) -> FloatArray:
    """phi [N,C,h,w] -> 0 or 1 [N,1,h,w], where the channels' absolute sum reaches its quantile."""
    size = np.abs(phi).sum(axis=1, keepdims=True, dtype=np.float32)
    mask: FloatArray = (size >= channel_quantile(size, threshold)).astype(np.float32)
    return mask


def smooth(attention: FloatArray) -> FloatArray:
    """3 x 3 Gaussian of the published width, exp(-((d / (2 * 0.5))^2)), mirrored at the border: [h,w] -> [h,w]."""
    side = np.exp(-(np.arange(-1.0, 2.0) ** 2))
    kernel = side / side.sum()
    height, width = attention.shape
    mode: Literal["reflect", "edge"] = "reflect" if min(height, width) > 1 else "edge"
    padded = np.pad(attention.astype(np.float32), 1, mode=mode)
    weights = kernel.astype(np.float32)
    rows: FloatArray = np.sum([weights[k] * padded[k : k + height] for k in range(3)], axis=0)  # [h,w+2]
    result: FloatArray = np.sum([weights[k] * rows[:, k : k + width] for k in range(3)], axis=0)  # [h,w]
    return result
