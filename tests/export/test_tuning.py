"""The table of settings, what is refused before anything runs, and the summary of a battery."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.tiny import tiny_networks

from limner.export.battery import EDITS, METHODS, Score
from limner.export.stylegan2.writer import mapped_basis
from limner.export.tuning import GRID, choose_edits, parse_row, summary
from limner.runtime.errors import InputError
from limner.runtime.schema import from_dict


def test_rows_are_read_as_numbers_and_words() -> None:
    assert parse_row("space=s, learning_rate=0.3,steps=20,moments=row") == {
        "space": "s", "learning_rate": 0.3, "steps": 20, "moments": "row"}  # fmt: skip
    for text in ("space", "=3", "steps=", "a=1,,b=2"):
        with pytest.raises(InputError, match="key=value"):
            parse_row(text)


def test_the_table_fits_the_methods() -> None:
    for method, rows in GRID.items():
        for row in rows:
            from_dict(METHODS[method][0], row, "parameters")
    with pytest.raises(InputError):
        from_dict(METHODS["latent-optimization"][0], {"space": "z"}, "parameters")


def test_unknown_edits_are_named() -> None:
    assert [edit.name for edit in choose_edits(["red hair", "beard"])] == ["red hair", "beard"]
    assert choose_edits(None) == list(EDITS)
    with pytest.raises(InputError, match="beard"):
        choose_edits(["baerd"])


def test_summary() -> None:
    found = summary([Score("beard", 4, 3, 4, 0.9, 0.8), Score("sad", 12, 3, 6, 0.7, 0.9)])
    assert found["success"] == 6 / 16
    assert found["seen"] == 10 / 16
    assert found["weakest"] == "sad 3/12"
    assert found["kept"] == pytest.approx((4 * 0.9 + 12 * 0.7) / 16)


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
