"""Does the identity network tell people apart, and only people? Verification on identities it never saw."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from limner.training.avatars.attributes import STYLES
from limner.training.avatars.dataset import image_float
from limner.training.avatars.identities import IdentitiesDataset, near_identity
from limner.training.avatars.render import render
from limner.training.families.identity.module import area_under_curve, pair_scores
from limner.training.models.irse import IdentityNet


@torch.no_grad()
def embed(network: IdentityNet, images: np.ndarray, size: int = 200) -> torch.Tensor:
    """Unit embeddings [N,C] of image_u8 [N,H,W,3]."""
    network = network.eval()
    parts = [torch.tensor(images[i : i + size]).permute(0, 3, 1, 2) for i in range(0, len(images), size)]
    return torch.cat([network(image_float(part)) for part in parts])


def best_threshold(same: torch.Tensor, different: torch.Tensor) -> float:
    """The cosine at which the mean of both error rates is smallest."""
    candidates = torch.linspace(-1, 1, 401)
    errors = [(same < t).double().mean() + (different >= t).double().mean() for t in candidates]
    return float(candidates[int(torch.stack(errors).argmin())])


def balanced_accuracy(same: torch.Tensor, different: torch.Tensor, threshold: float) -> float:
    """Percent right, same and different pairs counting equally."""
    right = (same >= threshold).double().mean() + (different < threshold).double().mean()
    return round(50 * float(right), 2)


def evaluate(network: IdentityNet, validation: IdentitiesDataset, test: IdentitiesDataset) -> dict[str, Any]:
    """Verification of unseen identities; the threshold comes from validation identities.

    `near` impostors differ from a picture's identity in one option only.
    """
    threshold = best_threshold(*pair_scores(embed(network, validation.images), torch.from_numpy(validation.identity)))
    features = embed(network, test.images)
    same, different = pair_scores(features, torch.from_numpy(test.identity))
    near = (embed(network, _near(test)) * features).sum(1)
    return {
        "test identities": test.config.identities,
        "pictures of each": test.config.pictures,
        "area under the curve, same against different": round(area_under_curve(same, different), 5),
        "area under the curve, same against near": round(area_under_curve(same, near), 5),
        "threshold (from validation identities)": round(threshold, 3),
        "verification accuracy, %": balanced_accuracy(same, different, threshold),
        "verification accuracy against near, %": balanced_accuracy(same, near, threshold),
        "mean cosine": {name: round(float(scores.mean()), 3)
                        for name, scores in (("same", same), ("near", near), ("different", different))},
    }  # fmt: skip


def _near(test: IdentitiesDataset) -> np.ndarray:
    """One near impostor per picture, rendered: image_u8 [N,H,W,3]."""
    from limner.training.avatars.attributes import Avatar

    rng, style, config = np.random.default_rng([test.config.seed, 23]), STYLES[test.config.style], test.config
    rows = [Avatar(tuple(int(v) for v in options)) for options in test.options]
    return np.stack([render(style, near_identity(style, row, rng, config.pose), config.size) for row in rows])
