"""The statistics of a study: against R and other libraries, by hand, and on simulated studies whose truth is known."""

import csv
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from support.made_study import ARMS, made_study

from limner.runtime.errors import InputError
from limner.runtime.study.analysis.agreement import alpha
from limner.runtime.study.analysis.answers import answers_of
from limner.runtime.study.analysis.intervals import difference_of, mean_of
from limner.runtime.study.analysis.ordinal import fit_ordinal, fit_ratings
from limner.runtime.study.analysis.planned import cochran, compare, compare_study, holm
from limner.runtime.study.analysis.preference import fit_pairs, wins
from limner.runtime.study.analysis.screening import screen
from limner.runtime.study.analysis.votes import Votes, majorities
from limner.runtime.study.people.dealing import Page
from limner.runtime.study.people.simulated import Planted, simulate
from limner.runtime.study.people.store import Given, Store
from limner.runtime.study.plans.plan import Screen
from limner.runtime.study.scores import wilson

TABLES = Path(__file__).parents[2] / "support" / "statistics"
R = json.loads((TABLES / "by_r.json").read_text())


def columns(name: str) -> np.ndarray:
    rows = list(csv.reader((TABLES / name).open()))[1:]
    return np.array([[int(cell) for cell in row] for row in rows])


def votes(
    value: Any, arm: Any, rater: Any, sample: Any, other: Any = None, arms: tuple[str, ...] = tuple("abcd"),
    edit: str = "cap",
) -> Votes:  # fmt: skip
    count = len(value)
    none = np.full(count, -1)
    ints = [np.array(list(one), np.int64) for one in (arm, none if other is None else other, rater, sample)]
    return Votes(arms, np.array(value, float), ints[0], ints[1], ints[2], ints[3], (edit,) * count)


# --- against R --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "ways"), [("none", ()), ("two", (2, 4)), ("three", (2, 3, 4))])
def test_the_ordinal_model_is_clmm_s(name: str, ways: tuple[int, ...]) -> None:
    table = columns("ratings.csv")
    groups = {str(way): table[:, way] for way in ways}
    fit = fit_ordinal(table[:, 0].astype(float), table[:, 1], groups)
    assert fit.cuts == pytest.approx(R[f"{name} cuts"], rel=2e-4, abs=2e-4)
    assert fit.effects[1:] == pytest.approx(R[f"{name} effects"], rel=2e-4, abs=2e-4)
    assert np.sqrt(np.diag(fit.covariance))[1:] == pytest.approx(R[f"{name} errors"], rel=2e-3)
    assert fit.log_likelihood == pytest.approx(R[f"{name} log likelihood"][0], abs=1e-4)
    if ways:
        by_name = dict(zip(("4", "2", "3"), R[f"{name} spreads"], strict=False))  # picture, rater, sample
        assert fit.spreads == pytest.approx({key: by_name[key] for key in fit.spreads}, abs=1e-3)


def test_strengths_are_bradleyterry2_s() -> None:
    table = columns("pairs.csv")
    fit = fit_pairs(votes(table[:, 0], table[:, 1], table[:, 3], table[:, 4], table[:, 2]))
    assert [*(fit.strengths - fit.strengths[0])[1:], fit.left] == pytest.approx(R["pairs"], abs=1e-6)
    assert float(fit.strengths.sum()) == pytest.approx(0, abs=1e-12)
    alone = fit_pairs(votes(table[:, 0], table[:, 1], range(len(table)), range(len(table)), table[:, 2]))
    errors = [math.sqrt(alone.covariance[k, k] + alone.covariance[0, 0] - 2 * alone.covariance[0, k]) for k in
              (1, 2, 3)]  # fmt: skip
    assert errors == pytest.approx(R["pairs errors"][:3], rel=0.1)  # the sandwich beside the curvature


def test_tests_are_base_r_s() -> None:
    outcomes = columns("outcomes.csv").astype(bool)
    assert cochran(outcomes) == pytest.approx(R["cochran"][0], rel=1e-6)
    assert cochran(outcomes) == pytest.approx(stats.friedmanchisquare(*outcomes.T.astype(int)).pvalue)
    p, low, high = compare(outcomes[:, 0], outcomes[:, 3], np.arange(len(outcomes)))
    assert p == pytest.approx(R["mcnemar"][0], rel=1e-6)
    assert low < outcomes[:, 0].mean() - outcomes[:, 3].mean() < high
    assert holm([0.01, 0.04, 0.03, 0.005, 0.6]) == pytest.approx(R["holm"]) and holm([]) == []
    same = np.ones((5, 3), bool)
    assert cochran(same) == 1.0


def test_wilson_is_statsmodels() -> None:
    from statsmodels.stats.proportion import proportion_confint

    for good, count in ((0, 7), (3, 7), (50, 50), (88, 100)):
        assert wilson(good, count) == pytest.approx(proportion_confint(good, count, method="wilson"), abs=1e-6)


def test_alpha_is_krippendorff_s_own_example() -> None:
    """Computing Krippendorff's alpha-reliability (2011), example C."""
    text = ("* * * * * 3 4 1 2 1 1 3 3 * 3", "1 * 2 1 3 3 4 3 * * * * * * *", "* * 2 1 3 4 4 * 2 1 1 3 3 * 4")
    rows = [(int(cell), 0, rater, unit) for rater, line in enumerate(text) for unit, cell in enumerate(line.split())
            if cell != "*"]  # fmt: skip
    given, arm, rater, unit = zip(*rows, strict=True)
    table = votes(given, arm, rater, unit, arms=("a",))
    assert alpha(table, "nominal") == pytest.approx(0.691, abs=1e-3)
    assert alpha(table, "ordinal") == pytest.approx(0.807, abs=1e-3)
    assert alpha(votes([1, 1], [0, 0], [0, 1], [0, 1]), "nominal") is None  # no picture has two raters
    assert alpha(votes([1, 1], [0, 0], [0, 1], [0, 0]), "nominal") is None  # all the same
    assert alpha(votes([], [], [], []), "nominal") is None


# --- what cannot be compared ------------------------------------------------------------------------------


def test_ratings_that_say_nothing() -> None:
    with pytest.raises(InputError, match="all 3"):
        fit_ratings(votes([3, 3, 3, 3], [0, 1, 0, 1], [0, 0, 1, 1], [0, 1, 2, 3]))
    with pytest.raises(InputError, match="two arms or more"):
        fit_ratings(votes([3, 2], [0, 0], [0, 1], [0, 1]))
    with pytest.raises(InputError, match="ratings of two arms"):
        fit_ratings(votes([], [], [], []))


def test_pairs_that_say_nothing() -> None:
    with pytest.raises(InputError, match="pairs"):
        fit_pairs(votes([], [], [], [], []))
    with pytest.raises(InputError, match="never compared with 'a'"):
        fit_pairs(votes([1, 0, 1, 0], [0, 0, 2, 2], [0, 1, 0, 1], [0, 1, 2, 3], [1, 1, 3, 3]))


def test_an_arm_that_always_wins_has_a_finite_strength() -> None:
    left = [0, 1] * 20
    fit = fit_pairs(votes([1, 0] * 20, left, list(range(40)), list(range(40)), [1, 0] * 20, arms=("a", "b")))
    assert fit.smoothed and 1.5 < fit.strengths[0] < 10
    assert fit.difference("a", "b").high - fit.difference("a", "b").low > 2
    assert wins(votes([1, 0], [0, 1], [0, 1], [0, 1], [1, 0], arms=("a", "b"))).tolist() == [[0, 2], [0, 0]]


def test_means_of_little() -> None:
    one = votes([4, 5, 3], [0, 0, 1], [0, 0, 1], [0, 1, 1])
    assert mean_of(one, 3) is None and difference_of(one, 0, 3) is None
    alone = mean_of(one, 1)
    assert alone is not None and alone.value == 3 and alone.high == math.inf  # one answer has no interval
    exact = mean_of(votes([2] * 9, [0] * 9, [0, 1, 2] * 3, [0, 0, 0, 1, 1, 1, 2, 2, 2]), 0)
    assert exact is not None and (exact.value, exact.low, exact.high) == (2, 2, 2)


def test_most_votes() -> None:
    found = majorities(votes([1, 1, 0, 1, 0, 0], [0, 0, 0, 1, 1, 2], range(6), [5] * 6))
    assert found == {(0, "cap", 5): True, (1, "cap", 5): False, (2, "cap", 5): False}  # half is not most


# --- screening --------------------------------------------------------------------------------------------


def given_of(rater: str, pages: list[tuple[Page, dict[str, Any], float]]) -> list[Given]:
    return [Given(rater, 0, None, k, page, value, seconds, 0.0) for k, (page, value, seconds) in enumerate(pages)]


def test_raters_are_left_out_by_the_plan_s_rules() -> None:
    edit = Page("quality", "edit", "cap", 0, ("a",))
    check = Page("quality", "check", "cap", 0, ("ruined",))
    good = [(edit, {"rating": 4}, 2.0), (replace(edit, sample=1), {"rating": 2}, 2.0), (check, {"rating": 1}, 2.0),
            (replace(edit, kind="repeat", repeats=0), {"rating": 5}, 2.0)]  # fmt: skip
    cases = {
        "good": (good, ""),
        "blind": ([*good[:2], (check, {"rating": 5}, 2.0), good[3]], "0 % of the known answers"),
        "other": ([*good[:3], (good[3][0], {"rating": 1}, 2.0)], "0 % of repeated pages alike"),
        "fast": ([(page, value, 0.1) for page, value, _ in good], "0.1 s a page"),
        "same": ([(page, {"rating": 2}, 2.0) for page, _, _ in good], "100 % the same answer"),
        "left": (good[:2], "did not reach the end"),
    }
    given = [one for name, (pages, _) in cases.items() for one in given_of(name, pages)]
    found = {one.rater: one.why for one in screen(given, Screen(), lambda number: 4)}
    assert found == {name: why for name, (_, why) in cases.items()}
    assert all(one.kept for one in screen(given[:-2], Screen(0, 0, 0, 1), lambda number: 4))


# --- simulated studies ------------------------------------------------------------------------------------


def planted(folder: Path, effects: tuple[float, ...], seed: int, **changes: Any) -> Any:
    people = {"pages": {"acceptable": 18, "quality": 18, "pair": 18}, "repeats": 1, "checks": 3, "controls": 2}
    pairs = [{"arms": [ARMS[0], ARMS[2]], "outcome": outcome} for outcome in ("acceptable", "rating", "pair")]
    asked = [*pairs, {"arms": [ARMS[0], ARMS[1]], "outcome": "pair"}, {"arms": list(ARMS), "outcome": "acceptable"}]
    study = made_study(folder, count=30, raters=30, people=people, comparisons=asked, **changes)
    store = Store(study, "simulated")
    simulate(store, Planted(dict(zip(ARMS, effects, strict=True)), careless=0.1, seed=seed))
    return study, store


def test_planted_effects_are_found(tmp_path: Path) -> None:
    study, store = planted(tmp_path, (1.5, 0.5, -1.0), 1)
    answers = answers_of(store)
    kept = [one for one in answers.screened if one.kept]
    assert 22 <= len(kept) < 30  # careless raters are left out, by known answers
    ratings = answers.ratings.difference(ARMS[0], ARMS[2])
    assert ratings.low < 2.5 < ratings.high and ratings.p < 1e-4
    pairs = fit_pairs(answers.votes("pair")).difference(ARMS[0], ARMS[2])
    assert pairs.low < 2.5 < pairs.high and pairs.p < 1e-3
    shares = difference_of(answers.votes("acceptable"), 0, 2)
    assert shares is not None and shares.low > 0.1
    tested = {(one.arms, one.outcome): one for one in compare_study(study, answers)}
    for outcome in ("acceptable", "rating", "pair"):
        one = tested[(ARMS[0], ARMS[2]), outcome]
        assert one.p_holm is not None and one.p_holm < 0.01 and one.difference is not None and one.difference[1] > 0
    whole = tested[ARMS, "acceptable"]
    assert whole.test == "Cochran's Q" and whole.p is not None and whole.p < 0.01 and len(whole.values) == 3
    waiting = compare_study(study)
    assert all(one.p is None and one.waits == "people's answers" for one in waiting)


def test_a_report_of_simulated_raters_says_so(tmp_path: Path, limner: Callable[..., Any]) -> None:
    study, _ = planted(tmp_path, (1.5, 0.5, -1.0), 2)
    (tmp_path / "times.md").write_text("| method | seconds |\n|---|---|\n| <b>fast</b> | 1 |\n")
    out, html = tmp_path / "report.md", tmp_path / "report.html"
    done = limner("study", "analyse", study.folder, "--simulated", "--out", out, "--html", html, "--pictures", 4,
                  "--times", tmp_path / "times.md")  # fmt: skip
    assert done.code == 0, done.err
    text, page = out.read_text(), html.read_text()
    assert done.out == text and "The raters of this report are simulated" in text
    assert '<p class="simulated">' in page and "default-src 'none'" in page and "<b>fast</b>" not in page
    for title in ("Planned comparisons", "Success by method and edit", "Raters", "Acceptable, by people",
                  "Ratings, by people", "Pairs, by people", "Seconds a picture", "What this cannot say"):  # fmt: skip
        assert f"## {title}" in text and f"<h2>{title}</h2>" in page
    assert page.count("<svg") == 4 and page.count("<img") == 3 * 4
    links = set(re.findall(r'<a href="#([^"]*--cap)"', page))
    assert len(links) == 3 and all(f'id="{one}"' in page for one in links)
    assert f"(report.html#{sorted(links)[0]})" in text
    limner("study", "analyse", study.folder, "--simulated", "--html", html, "--pictures", 4)
    again = html.read_text()
    limner("study", "analyse", study.folder, "--simulated", "--html", html, "--pictures", 4)
    assert html.read_text() == again  # to the byte
    people = limner("study", "analyse", study.folder, "--json")
    assert json.loads(people.out)["raters"] is None  # simulated answers are asked for by name


# Measured on 500: 96.0 % (means), 94.4 (the model), 93.6 (strengths); found where nothing is: 2.4, 4.4, 3.6 %
def covered(
    seed: int, effects: tuple[float, float], raters: int = 30, samples: int = 30
) -> dict[str, tuple[Any, float]]:
    """One simulated study without screening: estimates of the two arms' difference, each with the truth."""
    rng = np.random.default_rng([7, seed])
    rater, sample = 0.7 * rng.standard_normal(raters), 0.7 * rng.standard_normal(samples)
    own = 0.5 * rng.standard_normal((2, samples))
    who = np.repeat(np.arange(raters), 20)
    what = np.concatenate([(k * 20 + np.arange(20)) % samples for k in range(raters)])
    arm = (np.arange(len(who)) + who + what // 7) % 2
    latent = np.array(effects)[arm] + rater[who] + sample[what] + own[arm, what] + rng.logistic(size=len(who))
    value = np.searchsorted((-2.0, -0.7, 0.7, 2.0), latent) + 1
    ratings = votes(value, arm, who, what, arms=("a", "b"))
    left = np.array(effects)[arm] + own[arm, what]
    right = np.array(effects)[1 - arm] + own[1 - arm, what]
    better = left - right + rng.logistic(size=len(who)) > 0
    pairs = fit_pairs(votes(better, arm, who, what, 1 - arm, arms=("a", "b"))).difference("a", "b")
    truth = effects[0] - effects[1]
    return {"mean": (difference_of(ratings, 0, 1, seed), _mean_truth(effects)),
            "model": (fit_ratings(ratings).difference("a", "b"), truth), "pairs": (pairs, truth)}  # fmt: skip


def _mean_truth(effects: tuple[float, float]) -> float:
    """The difference of mean ratings, by the distribution of the latent."""
    rng = np.random.default_rng(0)
    spread = math.sqrt(0.7**2 + 0.7**2 + 0.5**2)
    latent = spread * rng.standard_normal(400_000) + rng.logistic(size=400_000)
    means = [np.mean(np.searchsorted((-2.0, -0.7, 0.7, 2.0), latent + one)) for one in effects]
    return float(means[0] - means[1])


def shares(effects: tuple[float, float], studies: int) -> tuple[dict[str, float], dict[str, float]]:
    """How often intervals cover the truth, and how often a difference is found (p < 0.05)."""
    found = [covered(seed, effects) for seed in range(studies)]
    cover = {name: float(np.mean([one[name][0].low <= one[name][1] <= one[name][0].high for one in found])) for name in
             found[0]}  # fmt: skip
    return cover, {name: float(np.mean([one[name][0].p < 0.05 for one in found])) for name in found[0]}


def test_intervals_cover_in_a_few_studies() -> None:
    cover, found = shares((0.8, 0.0), 5)
    assert min(cover.values()) >= 3 / 5 and min(found.values()) >= 3 / 5


@pytest.mark.slow
def test_intervals_cover_the_truth_and_nothing_is_found_where_nothing_is() -> None:
    cover, found = shares((0.8, 0.0), 500)
    assert all(0.93 <= share <= 0.97 for share in cover.values()), cover
    assert min(found.values()) > 0.8
    _, none = shares((0.0, 0.0), 500)
    assert all(share <= 0.07 for share in none.values()), none  # 5 %, and two standard errors of 500
