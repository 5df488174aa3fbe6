"""The axes of the mapped space, against numpy."""

import numpy as np
import torch
from support.tiny import tiny_networks

from limner.export.stylegan2.writer import mapped_basis


def test_mapped_basis_against_numpy() -> None:
    """The covariance of P by numpy in float64 on the same samples; axes rise from the last to the first."""
    generator = tiny_networks().generator
    with torch.no_grad():
        basis = mapped_basis(generator, samples=700, seed=5).astype(np.float64)
        z = torch.randn(700, generator.config.z_dim, generator=torch.Generator().manual_seed(5))
        w = generator.mapping(z).double().numpy()
    covariance = np.cov(np.where(w >= 0, w, 5 * w), rowvar=False, ddof=0)
    np.testing.assert_allclose(basis.T @ basis, covariance, atol=1e-4 * np.abs(covariance).max())
    lengths = np.linalg.norm(basis, axis=1)
    assert (np.diff(lengths) <= 1e-6).all()
