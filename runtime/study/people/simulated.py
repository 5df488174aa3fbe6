"""Raters that are made up, with known effects: to rehearse an analysis before anybody is asked, and to test it.

Their answers go to a file of their own (`answers-simulated.sqlite`), and whatever is made of them says so.

Latent quality of a picture for a rater: effect of the arm + effect of the rater + of the sample + of the picture, all
but the first normal; logistic noise on every answer. Ratings cut it at CUTS; "made" and "kept" are yes above -YES each;
of two pictures the one with more is better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from limner.runtime.errors import InputError, nearest
from limner.runtime.study.people.dealing import RUINED, UNTOUCHED, Page
from limner.runtime.study.people.store import Store

__all__ = ["Planted", "simulate"]

CUTS = (-2.0, -0.7, 0.7, 2.0)
YES = 1.5
RUIN, FINE = -6.0, 2.0  # of ruined and of untouched pictures


@dataclass(frozen=True)
class Planted:
    """What is true of raters and arms, on the logistic scale."""

    effects: Mapping[str, float] = field(default_factory=dict)  # arm -> effect; 0 where none is named
    rater_spread: float = 0.7  # standard deviations
    sample_spread: float = 0.7
    picture_spread: float = 0.5
    careless: float = 0.0  # share of raters who answer at random
    left: float = 0.0  # how much more the left picture of a pair seems
    seed: int = 0


def simulate(store: Store, planted: Planted, raters: int | None = None) -> None:
    """Answer as so many raters, all of the plan if not said. InputError for arms that are not there, and for a store
    of people's answers.
    """
    if store.kind != "simulated":
        raise InputError("answers", f"{store.path.name!r}, which is people's", "a file of simulated answers")
    names = [arm.name for arm in store.study.arms]
    for name in planted.effects:
        if name not in names:
            raise InputError("effect", repr(name), ", ".join(names), nearest(name, names))
    rng = np.random.default_rng(planted.seed)
    count = store.study.plan.raters if raters is None else raters
    careless = rng.random(count) < planted.careless
    samples: dict[int, float] = {}
    shown: dict[tuple[str, str, int], float] = {}
    for number in range(count):
        lean = planted.rater_spread * rng.standard_normal()
        answers = [
            (_answer(page, _seen(page, planted, lean, samples, shown, rng), bool(careless[number]), planted, rng),
             float(rng.lognormal(0.2 if careless[number] else 1.2, 0.3)))
            for page in store.pages(number)
        ]  # fmt: skip
        store.take(number, None, answers, f"simulated rater {number}", way="simulated")


def _seen(
    page: Page, planted: Planted, lean: float, samples: dict[int, float], shown: dict[tuple[str, str, int], float],
    rng: np.random.Generator,
) -> list[float]:  # fmt: skip
    """Latent quality of each picture of a page, without the noise of the answer."""
    found = []
    for name in page.shown:
        if name in (UNTOUCHED, RUINED):
            found.append(lean + (FINE if name == UNTOUCHED else RUIN))
            continue
        sample = samples.setdefault(page.sample, planted.sample_spread * rng.standard_normal())
        own = shown.setdefault((name, page.edit, page.sample), planted.picture_spread * rng.standard_normal())
        found.append(planted.effects.get(name, 0.0) + lean + sample + own)
    return found


def _answer(
    page: Page, latent: Sequence[float], careless: bool, planted: Planted, rng: np.random.Generator
) -> dict[str, Any]:
    noise = rng.logistic(size=2)
    if page.question == "quality":
        value = rng.normal(0, 2) if careless else latent[0] + noise[0]
        return {"rating": int(np.searchsorted(CUTS, value)) + 1}
    if page.question == "acceptable":
        made = latent[0] if page.shown != (UNTOUCHED,) else RUIN  # nothing was changed there
        yes = rng.random(2) < 0.5 if careless else (made + YES + noise[0] > 0, latent[0] + YES + noise[1] > 0)
        return {"made": bool(yes[0]), "kept": bool(yes[1])}
    left = rng.random() < 0.5 if careless else latent[0] - latent[1] + planted.left + noise[0] > 0
    return {"better": "left" if left else "right"}
