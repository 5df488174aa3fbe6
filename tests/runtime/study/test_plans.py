"""Studies as data: plans and what is wrong with them, freezing, making in processes, and how large a study must be."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from limner.runtime.bundle.shipped import checkpoints_folder
from limner.runtime.errors import InputError
from limner.runtime.study.analysis.planned import compare, holm
from limner.runtime.study.plans.making import open_study, read_study
from limner.runtime.study.plans.plan import arms_of, read_plan, shipped_plans
from limner.runtime.study.plans.size import choice_power, mcnemar_power, needed, rating_power

PLAN: dict[str, Any] = {
    "name": "small",
    "samples": "samples",
    "edits": ["beard"],
    "count": 2,
    "arms": [
        {"method": "global-directions", "grid": {"alpha": [3.0, 6.0]}, "settings": {"inversion.feature_steps": 0}},
        {"method": "latent-mapper"},
    ],
    "comparisons": [{"arms": ["latent-mapper", "global-directions alpha=6.0"], "outcome": "success"}],
}
THREE = ["global-directions alpha=3.0", "global-directions alpha=6.0", "latent-mapper"]
ASKING: dict[str, Any] = {"questions": ["pair"], "raters": 3}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(PLAN | changes))
    return path


# --- plans ------------------------------------------------------------------------------------------------


def test_arms_of_a_grid(tmp_path: Path) -> None:
    arms = arms_of(read_plan(written(tmp_path)))
    assert [arm.name for arm in arms] == ["global-directions alpha=3.0", "global-directions alpha=6.0", "latent-mapper"]
    assert arms[1].settings == {"inversion.feature_steps": 0, "alpha": 6.0}
    assert arms[1].folder == "global-directions_alpha=6.0"


def test_the_plans_that_ship() -> None:
    assert set(shipped_plans()) == {"seed", "second-chance"}
    seed = read_plan(Path("seed"))
    assert (seed.count, len(arms_of(seed)), seed.edits) == (50, 5, ("beard", "glasses", "bald"))
    assert all(arm.settings.get("steps", 50) == 50 for arm in arms_of(seed))
    second = read_plan(Path("second-chance"))
    assert second.count == 100 and not second.edits and len(arms_of(second)) == 14


@pytest.mark.parametrize("name", ["seed", "second-chance"])
def test_settings_of_the_plans_that_ship_are_taken(
    name: str, limner: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen as they are, with one sample an edit."""
    monkeypatch.chdir(tmp_path)
    assert limner("train", "samples", "--count", 12, "--out", "samples").code == 0
    plan = replace(read_plan(Path(name)), samples="samples", count=1)
    study = open_study(tmp_path / "study", plan, checkpoints_folder() / "avatars" / "judge")
    assert read_study(study.folder).digest == study.digest
    assert set(study.plan.questions) >= set(study.plan.people.pages)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": [{"method": "saga"}]}, r"plan\.arms\.0\.method: got 'saga'.*did you mean 'sega'"),
        ({"arms": []}, r"plan\.arms: got none"),
        ({"arms": [{"method": "sega", "grid": {"scale": []}}]}, r"plan\.arms\.0\.grid\.scale: got no value"),
        ({"arms": [{"method": "sega", "grid": {"scale": [1]}, "settings": {"scale": 2}}]}, "either of them"),
        ({"arms": [{"method": "sega"}, {"method": "sega"}]}, "'sega' twice"),
        ({"arms": [{"method": "sega", "grid": {"seed": list(range(201))}}]}, "201 arms"),
        ({"arms": [{"method": "sega", "settings": {"step": 3}}]}, r"plan\.arms\.0: parameters\.step.*mean 'steps'"),
        ({"arms": [{"method": "latent-mapper", "grid": {"strength": [1.0, 2.2]}}]}, "2.2 in the arm 'latent-mapper st"),
        ({"arms": [{"method": "sega", "settings": {"inversion.feature_steps": 3}}]}, r"inversion\.feature_steps"),
        ({"count": 0}, r"plan\.count: got 0"),
        ({"count": True}, r"plan\.count"),
        ({"part": "prompts"}, r"plan\.part"),
        ({"raters": 3}, "raters with questions"),
        ({"questions": ["acceptable"]}, "raters with questions"),
        ({"questions": ["nice"], "raters": 3}, r"plan\.questions"),
        ({"sample": "x"}, "sample"),
        ({"version": 2}, r"plan\.version"),
        ({"name": " "}, r"plan\.name"),
        ({"comparisons": [{"arms": ["latent-mapper"], "outcome": "success"}]}, "two different arms"),
        ({"comparisons": [{"arms": ["latent-mapper", "latent-maper"], "outcome": "success"}]}, "mean 'latent-mapper'"),
        ({"comparisons": [PLAN["comparisons"][0] | {"outcome": "rating"}]}, "with the question 'quality'"),
        ({"comparisons": [PLAN["comparisons"][0] | {"edit": "bread"}]}, "did you mean 'beard'"),
        ({"comparisons": [PLAN["comparisons"][0] | {"outcome": "acceptable"}]}, "with the question 'acceptable'"),
        ({**ASKING, "comparisons": [{"arms": THREE, "outcome": "pair"}]}, "3 arms with the outcome 'pair'"),
        ({**ASKING, "comparisons": [{"arms": ["latent-mapper"] * 2, "outcome": "pair"}]}, "two different arms"),
        ({**ASKING, "people": {"pages": {"quality": 3}}}, r"plan\.people\.pages: got 'quality'.*allowed: pair"),
        ({**ASKING, "people": {"pages": {"pair": 0}}}, r"people\.pages\.pair"),
        ({**ASKING, "people": {"repeats": -1}}, r"people\.repeats"),
        ({**ASKING, "people": {"screen": {"checks": 1.5}}}, r"screen\.checks"),
        ({**ASKING, "people": {"screen": {"seconds": float("nan")}}}, r"screen\.seconds"),
        ({**ASKING, "people": {"screens": {}}}, "did you mean 'screen'"),
        ({**ASKING, "questions": ["pair", "pair"]}, "'pair' twice"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_plan(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_plan(written(tmp_path, **changes))


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2", "", "name: \x00", "{" * 5000, "name: &a x\nsamples: *a"])
def test_what_is_no_plan(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(InputError, match="plan"):
        read_plan(tmp_path / "plan.yaml")
    with pytest.raises(InputError, match="did you mean 'seed'"):
        read_plan(Path("sead"))


# --- making -----------------------------------------------------------------------------------------------


def test_a_study_from_plan_to_table(
    limner: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes; stopped and gone on with; then nothing may be another."""
    monkeypatch.chdir(tmp_path)
    assert limner("train", "samples", "--count", 4, "--out", "samples").code == 0
    make = ("study", "make", written(tmp_path), "--out", "study")
    done = limner(*make, "--processes", 2)
    assert done.code == 0, done.err
    assert "| edit | global-directions alpha=3.0 | global-directions alpha=6.0 | latent-mapper |" in done.out
    assert "| scored | 2 | 2 | 2 |" in done.out and "6 of 6 edits" in done.err
    study = tmp_path / "study"
    rows = study / "arms" / "latent-mapper" / "rows.jsonl"
    kept = rows.read_text()
    pictures = sorted(path.relative_to(study) for path in study.rglob("*.png"))
    assert len(pictures) == 3 * (2 + 2)  # of each arm its edits, and the pictures without one

    again = limner(*make)
    assert again.code == 0 and again.out == done.out

    report = limner("study", "analyse", "study", "--out", "report.md")
    assert report.code == 0 and (tmp_path / "report.md").read_text() == report.out, report.err
    assert "| latent-mapper - global-directions alpha=6.0 | all | success | McNemar | 2 |" in report.out
    assert "Beside the true edit" not in report.out  # samples without --truth
    (tested,) = json.loads(limner("study", "analyse", "study", "--json").out)["compared"]
    assert tested["count"] == 2 and tested["p"] == tested["p_holm"]

    (study / "made.json").unlink()  # as if it had been stopped in the last arm
    rows.write_text(kept.splitlines(keepends=True)[0])
    resumed = limner(*make, "--processes", 1)
    assert resumed.code == 0 and resumed.out == done.out and rows.read_text() == kept

    other = limner("study", "make", written(tmp_path, count=3), "--out", "study")
    assert other.code == 2 and "another count" in other.err and "a frozen plan stays" in other.err
    written(tmp_path)
    mixed = written(tmp_path, edits=["beard", "sad"], count=1, comparisons=[])  # the mappers have no "sad"
    both = limner("study", "make", mixed, "--out", "mixed", "--processes", 1)
    assert both.code == 0 and re.search(r"\| sad \| \d+ %.* \| \d+ %.* \| - \|", both.out), both.err + both.out
    assert limner("study", "analyse", "mixed").code == 0
    written(tmp_path)
    path = study / pictures[0]
    bytes_of = path.read_bytes()
    path.write_bytes(bytes_of + b"x")
    assert "other pictures" in limner("study", "analyse", "study").err
    changed = limner(*make)
    assert changed.code == 2 and "other pictures of 'global-directions alpha=3.0'" in changed.err
    path.write_bytes(bytes_of)
    rows.write_text(kept.replace('"after":["', '"after":["x', 1))
    assert "other rows of 'latent-mapper'" in limner(*make).err
    rows.write_text(kept)
    plan = json.loads((study / "plan.json").read_text())
    plan["plan"]["count"] = 1
    (study / "plan.json").write_text(json.dumps(plan))
    assert "changed after it was frozen" in limner(*make).err
    for changes, said in (
        ({"count": 50}, "at most"),
        ({"edits": ["bread"]}, "did you mean 'beard'"),
        ({"samples": "nowhere"}, "samples"),
        ({"arms": [{"method": "sega", "settings": {"step": 3}}], "comparisons": []}, "plan.arms.0: parameters.step"),
        ({"arms": [{"method": "latent-mapper"}], "edits": ["sad"], "comparisons": []}, "no such edit"),
    ):
        failed = limner("study", "make", written(tmp_path, **changes), "--out", "new")
        assert failed.code == 2 and said in failed.err, (changes, failed.err)
        assert not (tmp_path / "new").exists()
    assert "which has other files" in limner("study", "make", written(tmp_path), "--out", "samples").err


# --- comparisons ------------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0] and holm([]) == []


def test_mcnemar_by_hand() -> None:
    """Eight pictures for the first arm alone, one for the second: 2 (1 + 9) / 2^9."""
    first = np.array([True] * 8 + [False] + [True] * 20 + [False] * 5)
    second = np.array([False] * 8 + [True] + [True] * 20 + [False] * 5)
    p, low, high = compare(first, second, np.arange(34))
    assert p == pytest.approx(2 * 10 / 512) and low < 7 / 34 < high
    p, low, high = compare(first, first, np.arange(34))
    assert (p, low, high) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("effect", [0.0, 0.12])
def test_intervals_cover_what_was_planted(effect: float) -> None:
    """500 studies of 100 samples with 3 edits each, samples harder or easier for both arms."""
    rng, covered, found = np.random.default_rng(7), 0, 0
    for run in range(500):
        first, second, samples = planted(rng, effect)
        p, low, high = compare(first, second, samples, run)
        covered += low <= effect <= high
        found += p <= 0.05
    assert 0.93 <= covered / 500 <= 0.97, covered
    assert effect == 0 or found / 500 > 0.8, found


def planted(rng: np.random.Generator, effect: float) -> tuple[Any, Any, Any]:
    """Outcomes of two arms, and the samples that they are of."""
    samples = np.repeat(np.arange(100), 3)
    ease = np.clip(rng.normal(0.7, 0.12, 100), 0.2, 0.86)[samples]
    return rng.random(300) < ease + effect, rng.random(300) < ease, samples


def test_nothing_is_found_where_nothing_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 % or fewer of 10,000 such studies: few enough draws of the bootstrap, whose interval is not looked at."""
    monkeypatch.setattr("limner.runtime.study.analysis.planned.DRAWS", 1)
    rng = np.random.default_rng(8)
    found = sum(compare(*planted(rng, 0.0))[0] <= 0.05 for _ in range(10_000))
    assert found / 10_000 <= 0.05, found


# --- sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second", "together"), [(0.9, 0.75, 0.0), (0.85, 0.7, 0.4), (0.6, 0.5, 0.2)])
def test_power_of_mcnemar_against_simulated_tests(first: float, second: float, together: float) -> None:
    """By scipy's exact binomial test on 3,000 simulated studies of 80 pictures."""
    rng = np.random.default_rng(0)
    both = first * second + together * np.sqrt(first * (1 - first) * second * (1 - second))
    tables = rng.multinomial(80, [both, first - both, second - both, 1 - first - second + both], 3000)
    found = [stats.binomtest(int(ten), int(ten + one)).pvalue <= 0.05 if ten + one else False
             for _, ten, one, _ in tables]  # fmt: skip
    assert mcnemar_power(80, first, second, together) == pytest.approx(np.mean(found), abs=0.03)


def test_power_is_alpha_where_nothing_differs() -> None:
    """Exact tests find a little less than 5 % then, t tests about that."""
    assert 0.0 < mcnemar_power(100, 0.8, 0.8, 0.2) <= 0.05
    assert choice_power(60, 3, 0.5) == pytest.approx(0.05, abs=0.02)
    assert rating_power(40, 3, 0.0) == pytest.approx(0.05, abs=0.02)
    assert mcnemar_power(50, 0.8, 0.8, 1.0) == 0.0


def test_more_pictures_and_votes_show_more() -> None:
    assert mcnemar_power(50, 0.85, 0.7) < mcnemar_power(150, 0.85, 0.7)
    assert choice_power(40, 1, 0.62) < choice_power(40, 5, 0.62) < choice_power(120, 5, 0.62)
    assert choice_power(60, 5, 0.6, rho=0.6) < choice_power(60, 5, 0.6, rho=0.0)
    assert rating_power(20, 3, 0.3) < rating_power(20, 10, 0.3)


def test_the_smallest_number_that_stays() -> None:
    found = needed(lambda n: mcnemar_power(n, 0.85, 0.7, 0.3))
    assert all(mcnemar_power(found + more, 0.85, 0.7, 0.3) >= 0.8 for more in range(6))
    assert min(mcnemar_power(found - less, 0.85, 0.7, 0.3) for less in range(1, 7)) < 0.8
    with pytest.raises(InputError, match="too small to be seen"):
        needed(lambda n: 0.5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--test", "sucess"], "did you mean 'success'"),
        (["--test", "success", "--first", "1.5"], "first"),
        (["--test", "success", "--first", "0.8", "--second", "0.8"], "two that differ"),
        (["--test", "success", "--together", "0.99"], "together"),
        (["--test", "choice", "--share", "0.5"], "two that differ"),
        (["--test", "success", "--first", "0.5", "--second", "0.5001"], "too small to be seen"),
    ],
)
def test_sizes_that_cannot_be(limner: Callable[..., Any], words: list[str], said: str) -> None:
    failed = limner("study", "size", *words)
    assert failed.code == 2 and said in failed.err, failed.err


def test_sizes_of_the_command_line(limner: Callable[..., Any]) -> None:
    found = json.loads(limner("study", "size", "--test", "success", "--first", "0.9", "--second", "0.75", "--json").out)
    assert 50 < found["pictures"] < 120 and 0.8 <= found["power"] < 0.85
    shown = limner("study", "size", "--test", "choice", "--share", "0.65", "--votes", "5")
    assert shown.code == 0 and "votes (power" in shown.out
