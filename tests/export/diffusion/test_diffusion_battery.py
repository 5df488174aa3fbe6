"""The battery of diffusion edits: its words, its rows, how it goes on where it stopped, and its tables."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limner.export.battery import EDITS
from limner.export.diffusion.battery.methods import LOCAL, METHODS, SEGA, battery_recipe, parse_names, parse_settings
from limner.export.diffusion.battery.report import figures, markdown, summary
from limner.export.diffusion.battery.rows import ROWS, Row, Rows, open_rows
from limner.export.diffusion.battery.runs import Battery, has_room
from limner.export.diffusion.battery.tuning import Trials, parse_axes, presets
from limner.export.diffusion.battery.words import blend_word, concepts, describe
from limner.runtime.bundle.loading import Bundle
from limner.runtime.editor import Editor
from limner.runtime.errors import InputError
from limner.runtime.recipe import PromptEdit
from limner.runtime.schema import to_dict

WORDS = {
    "hair": "short",
    "hair_color": "red",
    "facial_hair": "beard",
    "eyewear": "glasses",
    "expression": "smiling",
    "skin": "pale",
    "clothes": "hoodie",
    "clothes_color": "blue",
    "background": "green",
}
BY_NAME = {edit.name: edit for edit in EDITS}
SETTINGS = {"steps": 2, "sampler": "ddim"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {},
            "a smiling person with pale skin, short red hair, a beard and glasses, wearing a blue hoodie, "
            "green background",
        ),
        (
            {"expression": "angry", "facial_hair": "none", "clothes": "overalls"},
            "an angry person with pale skin, short red hair, no beard and glasses, wearing blue overalls, "
            "green background",
        ),
        (
            {"expression": "neutral", "facial_hair": "none", "eyewear": "none", "hair": "bald", "hair_color": "hidden"},
            "a neutral person with pale skin, no hair, no beard and no glasses, wearing a blue hoodie, "
            "green background",
        ),
        (
            {"hair": "bob", "eyewear": "none"},
            "a smiling person with pale skin, a red bob, a beard and no glasses, wearing a blue hoodie, "
            "green background",
        ),
    ],
)
def test_descriptions(change: dict[str, str], sentence: str) -> None:
    assert describe(WORDS | change) == sentence


def test_what_an_edit_adds_is_not_denied_before() -> None:
    bare = WORDS | {"facial_hair": "none", "eyewear": "none", "expression": "neutral"}
    rest = ", wearing a blue hoodie, green background"
    assert describe(bare, "facial_hair") == f"a neutral person with pale skin, short red hair and no glasses{rest}"
    assert describe(bare, "eyewear") == f"a neutral person with pale skin, short red hair and no beard{rest}"
    assert describe(bare, "expression") == f"a person with pale skin, short red hair, no beard and no glasses{rest}"
    assert describe(WORDS, "eyewear") == describe(WORDS)
    for method, said in ((SEGA, False), ("prompt-to-prompt", True)):
        assert ("no beard" in battery_recipe(method, BY_NAME["beard"], bare, 3, {}).source.prompt) == said


def test_concepts_of_something_new_and_of_something_in_its_place() -> None:
    assert concepts(BY_NAME["beard"], WORDS | {"facial_hair": "none"}) == (PromptEdit("a beard"),)
    away = PromptEdit("glasses", options={"away": True})
    assert concepts(BY_NAME["sunglasses"], WORDS) == (PromptEdit("sunglasses"), away)
    own = replace(BY_NAME["sunglasses"], scale=3.0, threshold=0.8)
    there = PromptEdit("sunglasses", strength=3.0, options={"threshold": 0.8})
    gone = replace(away, strength=3.0, options={"threshold": 0.8, "away": True})
    assert concepts(own, WORDS, own=True) == (there, gone)
    assert concepts(own, WORDS) == (PromptEdit("sunglasses"), away)


@pytest.mark.parametrize("hair", ["short", "bob", "bun", "hat", "curly"])
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)
def test_every_edit_has_words_in_both_descriptions(edit: Any, hair: str) -> None:
    for rest in ({"facial_hair": "none", "eyewear": "none", "expression": "neutral"}, {"eyewear": "sunglasses"}):
        before = WORDS | {"hair": hair, "hair_color": "hidden" if hair == "hat" else "black"} | rest
        if not has_room(edit, before):
            continue
        source, target = describe(before), describe(before | {edit.attribute: edit.value})
        assert source != target
        left, right = blend_word(edit, before).split(":")
        assert left in source.split(" ") or f"{left}," in source.split(" ")
        assert right in target.split(" ") or f"{right}," in target.split(" ")
        for method in METHODS:
            wanted = describe(before, edit.attribute) if method == SEGA else source
            assert battery_recipe(method, edit, before, 3, SETTINGS).source.prompt == wanted


def test_settings_and_names() -> None:
    assert parse_settings(["sega.steps=30", "prompt-to-prompt.sampler=ddim", "sega.inversion.skip=0.2"]) == {
        "sega": {"steps": 30, "inversion.skip": 0.2},
        "prompt-to-prompt": {"sampler": "ddim"},
    }
    for given in ("steps=30", "sagas.steps=30", "sega.steps"):
        with pytest.raises(InputError, match="set"):
            parse_settings([given])
    assert parse_names("methods", "", METHODS) == METHODS
    assert parse_names("methods", "sega, prompt-to-prompt", METHODS) == ("sega", "prompt-to-prompt")
    with pytest.raises(InputError, match="did you mean 'sega'"):
        parse_names("methods", "saga", METHODS)
    real = battery_recipe(SEGA, BY_NAME["beard"], WORDS | {"facial_hair": "none"}, None, {"inversion.skip": 0.2})
    assert real.source.kind == "image" and to_dict(real.inversion) == {"skip": 0.2}


# --- runs -------------------------------------------------------------------------------------------------


class ReadyJudge:
    """Answers that were written before: one list a call."""

    def __init__(self, answers: Sequence[list[dict[str, str]]]) -> None:
        self.answers = list(answers)

    def __call__(self, image: np.ndarray) -> list[dict[str, str]]:
        answer = self.answers.pop(0)
        assert len(answer) == len(image) and np.abs(image).max() <= 1.0
        return answer


def battery(editor: Any, rows: Rows, answers: Sequence[list[dict[str, str]]], **more: Any) -> Battery:
    edits = (BY_NAME["beard"], BY_NAME["red clothes"])
    settings = dict.fromkeys(METHODS, SETTINGS)
    return Battery(editor, ReadyJudge(answers), "validation", rows, edits, settings, **more)  # type: ignore[arg-type]


def test_generated_pictures_are_judged_and_a_stopped_run_goes_on(sd1_bundle: Bundle, tmp_path: Path) -> None:
    kept = {"bundle": sd1_bundle.digest, "split": "validation", "methods": {LOCAL: SETTINGS, SEGA: SETTINGS}}
    editor = Editor(sd1_bundle, threads=1)
    plain = WORDS | {"facial_hair": "none"}
    edited = [plain | {"facial_hair": "beard"}, plain | {"clothes_color": "red", "skin": "dark", "hair": "bob"}]
    first = [plain, plain, *edited]
    second = [plain | {"facial_hair": "beard"}] * 4  # the source has a beard already: that one does not count
    third = [plain, plain]  # one more picture for the beard, which is not seen
    rows = open_rows(tmp_path / "out", kept)
    run = battery(editor, rows, [first, first, second, second, third, third], sheets=(tmp_path / "out", 1))
    leave_room(run)
    run.edit_pictures("generated", [LOCAL, SEGA], 2)
    assert not run.judge.answers  # type: ignore[attr-defined]
    for method in (LOCAL, SEGA):
        beard, clothes = rows.of("generated", method, "beard"), rows.of("generated", method, "red clothes")
        assert [(row.success, row.seen, row.kept) for row in beard] == [(True, True, 1.0), (False, False, 1.0)]
        assert [(row.success, row.seen, row.kept) for row in clothes] == [(False, True, 0.75), (False, False, 1.0)]
        assert clothes[0].changed == ("hair", "skin")
        assert all((row.outside is not None) == (method == LOCAL and row.masked < 1) for row in beard if row.masked)
    assert len(list((tmp_path / "out").glob("generated-*-0.png"))) == 2
    with (tmp_path / "out" / ROWS).open("a") as stream:
        stream.write('{"part": "gener')  # killed while it wrote
    again = open_rows(tmp_path / "out", kept)
    assert again.found == rows.found
    battery(None, again, []).edit_pictures("generated", [LOCAL, SEGA], 2)
    with pytest.raises(InputError, match="other settings"):
        open_rows(tmp_path / "out", kept | {"methods": {SEGA: {"steps": 3}}})
    assert open_rows(tmp_path / "out", kept | {"methods": {"prompt-to-prompt": {}}}).found == rows.found


def leave_room(run: Battery) -> None:
    """Leave out the avatars where one of the edits has nothing to do; the answers rely on it."""
    words = [run.words(index) for index in range(40)]
    good = [w for w in words if all(has_room(edit, w) for edit in run.edits)]
    object.__setattr__(run, "words", lambda index: good[index])


def test_real_pictures_and_prompts(sd1_bundle: Bundle) -> None:
    rows, editor = Rows(), Editor(sd1_bundle, threads=1)
    run = battery(editor, rows, [])
    leave_room(run)
    words = run.words(0)
    after = [words, words, words | {"facial_hair": "beard"}, words | {"clothes_color": "red"}]
    run.judge.answers[:] = [after] * 3  # type: ignore[attr-defined]
    run.edit_pictures("real", METHODS, 1)
    for method in METHODS:
        found = summary(rows, "real", method)
        assert found["share"] == 1.0 and found["psnr"] > 3.0
    wrong = [run.words(0) | {"background": "none"}, run.words(1)]
    run.judge.answers[:] = [wrong]  # type: ignore[attr-defined]
    run.prompts(2)
    run.prompts(2)  # nothing is left to do
    background = rows.of("prompts", "", "background")
    assert [row.success for row in background] == [False, True]


# --- tables -----------------------------------------------------------------------------------------------


def test_tables_with_intervals() -> None:
    rows = Rows()
    rows.add(Row("generated", "sega", "beard", i, success=i < 9, seen=True, kept=0.875) for i in range(10))
    rows.add([Row("generated", "sega", "beard", 10, success=True, counts=False)])
    rows.add(Row("generated", LOCAL, "beard", i, success=True, outside=1.5, masked=0.25) for i in range(4))
    rows.add(Row("prompts", "", "hair", i, success=i > 0) for i in range(4))
    found = figures(rows)
    sega = found["generated"]["sega"]
    assert (sega["count"], sega["success"], sega["kept"], sega["weakest"]) == (10, 9, 0.875, "beard 90 %")
    assert sega["interval"] == pytest.approx([0.5958, 0.9821], abs=1e-3)  # Wilson 1927, computed by hand
    assert found["generated"][LOCAL]["outside"] == 1.5
    assert found["prompts"]["all"]["share"] == 0.75 and "real" not in found
    text = markdown(rows, {"bundle": "abcdefghijklmnop", "split": "test", "methods": {}})
    assert "| hair | 75 % (30-95) of 4 |" in text
    assert "| beard | 100 % (51-100) | 90 % (60-98) |" in text
    assert "| change outside the mask, of 255 | 1.50 | - |" in text
    json.dumps(found)


# --- tuning -----------------------------------------------------------------------------------------------


def test_axes_are_walked_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def call(self: Trials, settings: dict[str, Any]) -> dict[str, Any]:
        tried.append(settings)
        score = -abs(settings.get("scale", 5) - 7) - abs(settings.get("threshold", 0.9) - 0.7)
        return {"settings": settings, "success": round(score), "kept": score}

    monkeypatch.setattr(Trials, "__call__", call)
    best = Trials.__new__(Trials).walk({"steps": 4}, {"scale": (4, 7, 10), "threshold": (0.7, 0.8)})
    assert best["settings"] == {"steps": 4, "scale": 7, "threshold": 0.7}
    assert [one.get("threshold") for one in tried] == [None] * 4 + [0.7, 0.8]


def test_winners_as_presets() -> None:
    settings = {"scale": 7, "inversion.skip": 0.2}
    wanted = {"sega.pictures": {"scale": 7}, "sega.inversion": {"skip": 0.2}}
    assert presets(SEGA, "real", settings) == {"defaults": wanted}
    assert presets(LOCAL, "generated", {"steps": 9}) == {"defaults": {"prompt-to-prompt": {"steps": 9}}}
    assert parse_axes(["scale=4,7.5", "sampler=ddim"]) == {"scale": [4, 7.5], "sampler": ["ddim"]}
    for bad in ("scale", "scale=", "scale=4,,5"):
        with pytest.raises(InputError, match="axis"):
            parse_axes([bad])
