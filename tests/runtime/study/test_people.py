"""What people are asked: balanced dealing, answers that are kept, pages over HTTP and in a file, simulated raters."""

import base64
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from support.made_study import ARMS, made_study

from limner.runtime.errors import InputError
from limner.runtime.study.people.consent import consent_of, read_consent
from limner.runtime.study.people.dealing import RUINED, UNTOUCHED, Page, cells_of, deal, latin_rows, votes
from limner.runtime.study.people.page import collect, static_page
from limner.runtime.study.people.pictures import Pictures, ruined
from limner.runtime.study.people.questions import ANSWERS, check_answer, right
from limner.runtime.study.people.serving import Desk, make_pages_app
from limner.runtime.study.people.simulated import Planted, simulate
from limner.runtime.study.people.store import ANSWERS_FILE, SIMULATED_FILE, Full, Store
from limner.runtime.study.plans.making import Study
from limner.runtime.study.samples import load_samples

FIRST = {"acceptable": {"made": True, "kept": False}, "quality": {"rating": 4}, "pair": {"better": "left"}}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return made_study(tmp_path)


def pictures_of(study: Study) -> Pictures:
    return Pictures(study, load_samples(study.plan.samples))


def answer_all(store: Store, panel_id: str | None = None) -> Any:
    rater = store.begin(panel_id)
    for position, page in enumerate(store.pages(rater.number)):
        store.answer(rater, position, FIRST[page.question], 2.0)
    return store.rater(rater.token)


# --- dealing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
def test_williams_squares_are_balanced(count: int) -> None:
    rows = latin_rows(count)
    assert all(sorted(row) == list(range(count)) for row in rows)
    for place in range(count):
        assert len(set(Counter(row[place] for row in rows).values())) == 1
    follows = Counter(pair for row in rows for pair in pairwise(row))
    assert len(follows) == count * (count - 1) and len(set(follows.values())) <= 1


def test_every_edit_gets_as_many_votes_and_arms_are_even(study: Study) -> None:
    cells = cells_of(study)
    pages = [deal(study, rater, cells) for rater in range(study.plan.raters)]
    for question, whole in (("acceptable", 36), ("quality", 36), ("pair", 36)):
        shown = Counter((page.edit, page.sample, tuple(sorted(page.shown))) for mine in pages for page in mine
                        if page.question == question and page.kind == "edit")  # fmt: skip
        assert len(shown) == whole and max(shown.values()) - min(shown.values()) <= 1
    assert votes(study, "acceptable", cells) == 12 * 9 / 36
    for mine in pages:
        edits = [page for page in mine if page.question == "quality" and page.kind == "edit"]
        assert len({page.sample for page in edits}) == 9  # nobody sees a source twice before all were seen
        assert set(Counter(page.shown for page in edits).values()) == {3}
    first = Counter(page.shown[0] for mine in pages for page in mine if page.question == "pair" and page.kind == "edit")
    assert max(first.values()) - min(first.values()) <= 8  # left as often as right, nearly
    firsts = Counter(next(page.shown for page in mine if page.question == "quality" and page.kind == "edit")
                     for mine in pages)  # fmt: skip
    assert set(firsts.values()) == {4}  # the first arm turns from rater to rater


def test_a_rater_s_pages_repeat_checks_and_controls(study: Study) -> None:
    mine = deal(study, 5)
    assert mine == deal(study, 5) and mine != deal(study, 6)
    asked = Counter((page.question, page.kind) for page in mine if page.kind not in ("check", "repeat"))
    assert asked == {("acceptable", "edit"): 9, ("quality", "edit"): 9, ("pair", "edit"): 6, ("quality", "control"): 2}
    for kind, count in (("check", 1), ("repeat", 2)):
        of_it = Counter(page.question for page in mine if page.kind == kind)
        assert of_it == dict.fromkeys(ANSWERS, count)
    for position, page in enumerate(mine):
        if page.repeats is not None:
            before = mine[page.repeats]
            assert replace(page, kind="edit", repeats=None) == before and position > page.repeats + 3
    starts = [deal(study, rater)[0].question for rater in range(6)]
    assert starts == ["acceptable", "quality", "pair"] * 2
    with pytest.raises(InputError, match="from 0 to 11"):
        deal(study, 12)


def test_pairs_are_those_of_the_plan(tmp_path: Path) -> None:
    study = made_study(tmp_path, comparisons=[{"arms": [ARMS[2], ARMS[0]], "outcome": "pair"}])
    shown = {frozenset(page.shown) for page in deal(study, 0) if page.question == "pair" and page.kind == "edit"}
    assert shown == {frozenset((ARMS[0], ARMS[2]))}


# --- answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "value"),
    [
        ("quality", {"rating": 0}),
        ("quality", {"rating": True}),
        ("quality", {"rating": 2.0}),
        ("quality", {}),
        ("quality", [3]),
        ("acceptable", {"made": True}),
        ("acceptable", {"made": 1, "kept": 0}),
        ("pair", {"better": "both"}),
        ("pair", {"better": "left", "more": 1}),
        ("pair", None),
    ],
)
def test_answers_that_no_question_has(question: Any, value: Any) -> None:
    with pytest.raises(InputError, match="value"):
        check_answer(question, value)


def test_known_answers() -> None:
    page = Page("acceptable", "check", "cap", 0, (UNTOUCHED,))
    assert right(page, {"made": False, "kept": True}) and not right(page, {"made": True, "kept": True})
    page = Page("quality", "check", "cap", 0, (RUINED,))
    assert right(page, {"rating": 2}) and not right(page, {"rating": 3})
    page = Page("pair", "check", "cap", 0, (RUINED, UNTOUCHED))
    assert right(page, {"better": "right"}) and not right(page, {"better": "left"})


def test_an_answer_is_kept_once(study: Study) -> None:
    store = Store(study)
    rater = store.begin()
    value = FIRST[store.pages(rater.number)[0].question]
    assert store.answer(rater, 0, value, 1.5) == 1
    assert store.answer(rater, 0, value, 9.0) == 1  # the same again: a click twice, an answer that was lost on the way
    other = {"made": False, "kept": False}
    with pytest.raises(InputError, match="has its answer already"):
        store.answer(rater, 0, other, 1.0)
    with pytest.raises(InputError, match="1, the page that is next"):
        store.answer(rater, 2, value, 1.0)
    for position in (-1, 10_000):
        with pytest.raises(InputError, match="a page from 0"):
            store.answer(rater, position, value, 1.0)
    for seconds in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="seconds"):
            store.answer(rater, 1, value, seconds)
    (kept,) = Store(study).given()
    assert (kept.value, kept.seconds, kept.position, kept.rater) == (value, 1.5, 0, rater.code)


def test_places_are_given_once_and_those_of_who_left_again(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(study)
    assert [store.begin().number for _ in range(12)] == list(range(12))
    assert not store.is_open()
    with pytest.raises(Full, match="all 12 places"):
        store.begin()
    monkeypatch.setattr("limner.runtime.study.people.store.IDLE_S", -1.0)
    assert store.is_open() and store.begin().number == 0


def test_a_panel_s_id_is_one_rater(study: Study) -> None:
    store = Store(study)
    first = answer_all(store, "5f3c")
    assert first.ended and store.begin("5f3c") == first and store.of_panel("5f3c") == first
    for wrong in ("", "x" * 101, "a\nb"):
        with pytest.raises(InputError, match="PROLIFIC_PID"):
            store.begin(wrong)


def test_answers_of_another_study_or_kind(study: Study, tmp_path: Path) -> None:
    Store(study)
    other = replace(study, plan=replace(study.plan, name="other"))
    with pytest.raises(InputError, match="answers of study"):
        Store(other)
    (study.folder / ANSWERS_FILE).rename(study.folder / SIMULATED_FILE)
    with pytest.raises(InputError, match="of kind 'people'"):
        Store(study, "simulated")
    (study.folder / ANSWERS_FILE).write_bytes(b"no database" * 100)
    with pytest.raises(InputError, match=r"answers\.sqlite"):
        Store(study)


# --- pictures ---------------------------------------------------------------------------------------------


def test_no_picture_says_who_made_it(study: Study) -> None:
    pictures = pictures_of(study)
    for page in deal(study, 0):
        seen = json.dumps(pictures.seen(page))
        assert not any(arm in seen for arm in ARMS) and UNTOUCHED not in seen and RUINED not in seen
        for name in pictures.names(page):
            data = pictures.png(page, name)
            assert Image.open(io.BytesIO(data)).info == {} and b"secret" not in data
    with pytest.raises(InputError, match="picture"):
        pictures.png(page, "../plan")


def test_what_is_ruined_is_other_tiles_of_the_same_picture() -> None:
    picture = np.random.RandomState(0).randint(0, 256, (128, 128, 3)).astype(np.uint8)
    found = ruined(picture)
    assert found.shape == picture.shape and np.array_equal(found, ruined(picture))
    assert np.array_equal(np.sort(found.reshape(-1)), np.sort(picture.reshape(-1)))
    assert np.mean(np.any(found != picture, axis=-1)) > 0.9


def test_a_generated_part_shows_each_arm_s_own_source(tmp_path: Path) -> None:
    study = made_study(tmp_path, part="generated")
    pictures = pictures_of(study)
    page = next(page for page in deal(study, 0) if page.question == "pair" and page.kind == "edit")
    assert pictures.png(page, "before-left") != pictures.png(page, "before-right")


# --- over HTTP --------------------------------------------------------------------------------------------


def client_of(study: Study, **options: Any) -> TestClient:
    return TestClient(make_pages_app(Desk(Store(study), pictures_of(study), **options)), raise_server_exceptions=False)


def test_a_rater_s_way(study: Study) -> None:
    client = client_of(study, own=("A word of ours.",), contact="us@example.org")
    start = client.get("/?PROLIFIC_PID=77")
    assert start.status_code == 200 and "default-src 'none'" in start.headers["content-security-policy"]
    for name in ("page.js", "page.css"):
        assert client.get(f"/{name}").status_code == 200
    assert not re.search(r"https?://(?!www\.w3)", start.text + client.get("/page.js").text)
    state = client.get("/state?PROLIFIC_PID=77").json()
    assert not state["agreed"] and not state["pages"] and "A word of ours." in state["about"]["paragraphs"]
    assert client.post("/answers", json={"position": 0, "value": {}, "seconds": 1}).status_code == 403
    assert client.get("/pictures/0/before.png").status_code == 404
    assert client.post("/begin?PROLIFIC_PID=77", json={"agree": False}).status_code == 422
    state = client.post("/begin?PROLIFIC_PID=77", json={"agree": True}).json()
    for position, page in enumerate(state["pages"]):
        for name in page["pictures"]:
            answer = client.get(f"/pictures/{position}/{name}.png")
            assert answer.headers["content-type"] == "image/png" and answer.content[:4] == b"\x89PNG"
        said = {"position": position, "value": FIRST[page["question"]], "seconds": 1.25}
        state = client.post("/answers", json=said).json()
        assert state["next"] == position + 1
        if position == 7:  # another browser, the same panel id: it goes on
            client = client_of(study)
            assert client.get("/state?PROLIFIC_PID=77").json()["next"] == 8
    (rater,) = Store(study).raters()
    assert rater.ended and state["ended"] == rater.code and rater.panel_id == "77"
    again = client.post("/begin?PROLIFIC_PID=77", json={"agree": True}).json()
    assert again["ended"] == rater.code and len(Store(study).raters()) == 1


def test_one_code_for_all(study: Study) -> None:
    client = client_of(study, code="PANEL1")
    answer_all(Store(study), "9")
    assert client.get("/state?PROLIFIC_PID=9").json()["ended"] == "PANEL1"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", "application/json"),
        (b"[1]", "application/json"),
        (b'{"position": 0}', "application/json"),
        (b'{"position": "0", "value": {}, "seconds": 1}', "application/json"),
        (b'{"position": true, "value": {}, "seconds": 1}', "application/json"),
        (b'{"position": 0, "value": {}, "seconds": NaN}', "application/json"),
        (b'{"position": 0, "value": {"rating": 9}, "seconds": 1}', "application/json"),
        (b"x" * 5000, "application/json"),
        (b"[" * 4000, "application/json"),
        (b'{"position": 0, "value": {}, "seconds": 1}', "text/plain"),
        (b"\xff\xfe", "application/json"),
    ],
)
def test_bodies_that_are_no_answer(study: Study, body: bytes, kind: str) -> None:
    client = client_of(study)
    client.post("/begin", json={"agree": True})
    answer = client.post("/answers", content=body, headers={"content-type": kind})
    assert answer.status_code == 422 and answer.json()["message"], answer.text
    assert not Store(study).given()


def test_a_full_study_says_so(tmp_path: Path) -> None:
    study = made_study(tmp_path, raters=1)
    client = client_of(study)
    answer_all(Store(study))
    assert "taken" in client.get("/state").json()["about"]["closed"]
    assert client.post("/begin", json={"agree": True}).status_code == 409


# --- as a file --------------------------------------------------------------------------------------------


def saved(study: Study, number: int, **changes: Any) -> dict[str, Any]:
    answers = [{"position": k, "value": FIRST[page.question], "seconds": 2.0} for k, page in
               enumerate(deal(study, number))]  # fmt: skip
    return {"study": study.digest, "rater": number, "panel_id": None, "answers": answers} | changes


def test_a_page_without_a_server(study: Study, tmp_path: Path) -> None:
    text = static_page(pictures_of(study), 3, contact="<b>&</script>")
    assert text.count("</script>") == 2 and not any(arm in text for arm in ARMS)
    assert not re.search(r"(?:src|href)=\"https?:", text)
    inside = json.loads(re.search(r'<script id="study"[^>]*>(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert inside["study"] == study.digest and len(inside["pages"]) == len(deal(study, 3))
    for one, page in zip(inside["pictures"], inside["pages"], strict=True):
        assert list(one) == page["pictures"]
        assert base64.b64decode(one[page["pictures"][0]].partition(",")[2])[:4] == b"\x89PNG"


def test_collect_takes_a_file_once(study: Study, tmp_path: Path) -> None:
    store, path = Store(study), tmp_path / "answers.json"
    path.write_text(json.dumps(saved(study, 3, panel_id="p")))
    rater = collect(store, path)
    assert rater.ended and rater.way == "file" and len(store.given()) == len(deal(study, 3))
    with pytest.raises(InputError, match="answered there"):
        collect(store, path)
    for changes, said in (
        ({"study": "b" * 64}, "of the study 'bbbb"),
        ({"rater": 12}, "from 0 to 11"),
        ({"rater": -1}, "from 0 to 11"),
        ({"answers": []}, "with 0 answers"),
        ({"rater": 4, "panel_id": "p"}, "answered there"),
        ({"panel_id": 3}, "panel_id"),
    ):
        path.write_text(json.dumps(saved(study, 4) | changes))
        with pytest.raises(InputError, match=said):
            collect(store, path)
    broken = saved(study, 4)
    broken["answers"][-1]["value"] = {"rating": 11}
    path.write_text(json.dumps(broken))
    with pytest.raises(InputError, match="value"):
        collect(store, path)
    assert len(store.raters()) == 1  # whole or not at all


# --- simulated --------------------------------------------------------------------------------------------


def test_simulated_raters_stay_by_themselves(study: Study, limner: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="which is people's"):
        simulate(Store(study), Planted())
    shown = limner("study", "simulate", study.folder, "--effect", f"{ARMS[0]}:1.5")
    assert shown.code == 0 and "nobody was asked" in shown.err
    assert not Store(study).given()
    again = limner("study", "simulate", study.folder)
    assert again.code == 2 and "which has raters" in again.err
    for effect, said in (("best:1", "best"), (ARMS[0], "ARM:NUMBER"), (f"{ARMS[0]}:nan", "ARM:NUMBER")):
        (study.folder / SIMULATED_FILE).unlink(missing_ok=True)
        assert said in limner("study", "simulate", study.folder, "--effect", effect).err
    assert limner("study", "simulate", study.folder, "--seed", 1).code == 0
    table = tmp_path / "answers.csv"
    assert limner("study", "answers", study.folder, "--simulated", "--out", table).code == 0
    rows = list(csv.DictReader(table.open()))
    assert {row["raters"] for row in rows} == {"simulated"} and len(rows) == sum(
        len(deal(study, k)) for k in range(study.plan.raters))  # fmt: skip
    assert limner("study", "analyse", study.folder).out.count("simulated") == 0
    (study.folder / ANSWERS_FILE).unlink()  # nobody was asked: people's answers are not there, whoever was made up
    missing = limner("study", "answers", study.folder, "--out", table)
    assert missing.code == 2 and "a study that was answered" in missing.err


def test_csv_runs_no_formula(study: Study, limner: Callable[..., Any], tmp_path: Path) -> None:
    answer_all(Store(study), "=1+1")
    assert limner("study", "answers", study.folder, "--out", tmp_path / "a.csv").code == 0
    assert {row["panel_id"] for row in csv.DictReader((tmp_path / "a.csv").open())} == {"'=1+1"}


# --- the commands -----------------------------------------------------------------------------------------


def test_page_and_collect_by_the_command_line(study: Study, limner: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert limner("study", "page", study.folder, "--rater", 2, "--out", out).code == 0 and out.is_file()
    assert limner("study", "page", study.folder, "--rater", 12, "--out", out).code == 2
    (tmp_path / "a.json").write_text(json.dumps(saved(study, 2)))
    assert limner("study", "collect", study.folder, tmp_path / "a.json").code == 0
    twice = limner("study", "collect", study.folder, tmp_path / "a.json")
    assert twice.code == 2 and "Traceback" not in twice.err
    (tmp_path / "consent.txt").write_bytes(b"\xff\xff")
    bad = limner("study", "page", study.folder, "--rater", 1, "--out", out, "--consent", tmp_path / "consent.txt")
    assert bad.code == 2 and "UTF-8" in bad.err


def test_a_plan_that_asks_nothing(tmp_path: Path, limner: Callable[..., Any]) -> None:
    study = made_study(tmp_path, questions=[], raters=0, people={})
    for words in (("simulate",), ("page", "--rater", 0, "--out", tmp_path / "x.html")):
        done = limner("study", words[0], study.folder, *words[1:])
        assert done.code == 2 and "a plan that asks people something" in done.err


def test_pictures_that_changed_are_not_asked_about(study: Study, limner: Callable[..., Any], tmp_path: Path) -> None:
    victim = next((study.folder / "arms").rglob("*.png"))
    victim.write_bytes(victim.read_bytes() + b"x")
    done = limner("study", "page", study.folder, "--rater", 0, "--out", tmp_path / "x.html")
    assert done.code == 2 and "other pictures" in done.err


def test_consent_says_how_long_and_who(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("First\nline.\n\n\nSecond.\n")
    about = consent_of(study.plan, 34, read_consent(path), "us").paragraphs
    assert "34 pages" in about[0] and about[1:3] == ("First line.", "Second.") and about[-1] == "Questions: us"
    assert "about 2 minutes" in about[0]
