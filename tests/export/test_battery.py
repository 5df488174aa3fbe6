"""The battery's latent optimization: an edit's own settings go before the ones given, and only where it has any."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from limner.export import battery
from limner.export.battery import BatteryEdit
from limner.runtime.methods.latent_optimization import LatentOptimizationParameters

GIVEN = LatentOptimizationParameters(steps=12, space="s", objective="direction", start=7.0, start_beta=0.28)


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[LatentOptimizationParameters]:
    """The parameters of every walk, none of which is made."""
    seen: list[LatentOptimizationParameters] = []

    def walk(models: Any, rows: Any, prompts: Any, parameters: LatentOptimizationParameters, timer: Any) -> list[Any]:
        seen.append(parameters)
        return [SimpleNamespace(latents=row) for row in rows]

    monkeypatch.setattr(battery, "walk", walk)
    monkeypatch.setattr(battery, "render_latents", lambda models, w_plus, parameters: w_plus)
    return seen


def test_own_settings_of_an_edit(walked: list[LatentOptimizationParameters]) -> None:
    models: Any = None  # not looked at
    method, w_plus = battery.latent_optimization(models, GIVEN), np.zeros((2, 4, 8), np.float32)
    method(BatteryEdit("beard", "facial_hair", "beard", "a person with a beard", alpha=3.0, scale=4.0), w_plus)
    own = BatteryEdit("sad", "expression", "sad", "a sad person", start=9.0, steps=20, direction_scale=4.0)
    method(own, w_plus)
    plain, other = walked
    assert plain == GIVEN
    assert (other.start, other.start_beta, other.steps, other.direction_scale) == (9.0, 0.28, 20, 4.0)
