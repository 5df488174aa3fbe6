"""A study on toy bundles of both families: what is asked, how a run goes on, what is refused, and the figures."""

import json
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.study import EDITS, ReadyJudge, words_of, write_small_samples
from support.toy_bundle import build_toy_bundle
from support.toy_diffusion import build_toy_diffusion_bundle

from limner.runtime.bundle.loading import Bundle
from limner.runtime.editor import Editor
from limner.runtime.errors import InputError
from limner.runtime.provenance import read_recipe
from limner.runtime.schema import to_dict
from limner.runtime.study.battery import Battery
from limner.runtime.study.header import Header, make_header
from limner.runtime.study.people.dealing import deal
from limner.runtime.study.plans.making import read_study
from limner.runtime.study.recipes import recipe_of, require_study_method, study_methods
from limner.runtime.study.rescoring import rescore
from limner.runtime.study.rows import HEADER, ROWS, Row, Run, open_run, read_run
from limner.runtime.study.samples import SAMPLES, EditSpec, Samples, load_samples
from limner.runtime.study.scores import DRAWN, changed, kept, score, success, wilson
from limner.runtime.study.tables import figures, markdown, prompted, table
from limner.runtime.study.tuning import Trials, parse_axes, parse_start, presets

Judged = Callable[[int], dict[str, str]]
STEPS = {"steps": 2, "sampler": "ddim"}


def plain(asked: int) -> dict[str, str]:
    return words_of(0)


@pytest.fixture(scope="session")
def styles(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    return Editor(build_toy_bundle(tmp_path_factory.mktemp("study") / "bundle")[0], threads=1)


@pytest.fixture(scope="session")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    return Editor(build_toy_diffusion_bundle(tmp_path_factory.mktemp("study") / "bundle"), threads=1)


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory, diffusion: Editor) -> Samples:
    return write_small_samples(tmp_path_factory.mktemp("study") / "samples", diffusion.bundle.image_size)


def started(
    editor: Editor, samples: Samples, judge: ReadyJudge, methods: Mapping[str, Any], parts: tuple[str, ...] = ("real",),
    count: int = 2, folder: Path | None = None,
) -> Battery:  # fmt: skip
    header = make_header(samples, editor, judge, parts, methods, samples.edits(), count)  # type: ignore[arg-type]
    return Battery(editor, judge, samples, open_run(folder, header))  # type: ignore[arg-type]


# --- recipes ----------------------------------------------------------------------------------------------


def test_a_recipe_for_each_kind_of_text(styles: Editor, diffusion: Editor, samples: Samples) -> None:
    sample, (cap, glad) = next(iter(samples)), EDITS
    local = recipe_of(diffusion.bundle, "prompt-to-prompt-local", cap, sample, None, STEPS)
    assert (local.method, local.prompts[0].text, local.prompts[0].options.blend) == (
        "prompt-to-prompt", "a head cap", ("head:cap",))  # fmt: skip
    assert (local.source.prompt, local.source.seed, local.parameters.steps) == ("calm head", 100, 2)
    generated = recipe_of(diffusion.bundle, "sega", cap, sample, None, STEPS)
    assert [(one.text, one.strength, one.options.threshold) for one in generated.prompts] == [("a cap", 3.0, 0.8)]
    real = recipe_of(diffusion.bundle, "sega", glad, sample, "x.png", {**STEPS, "inversion.skip": 0.3})
    assert [(one.text, one.options.away, one.strength) for one in real.prompts] == [
        ("glad", False, None), ("calm", True, None)]  # fmt: skip
    assert (real.source.kind, real.source.prompt, real.inversion.skip) == ("image", "calm head", 0.3)
    own = {"scale": 2.0, "warmup": 1, "momentum_scale": 0.0, "inversion.guidance_scale": 1.5}
    asked = replace(cap, own={"sega": own})
    real, generated = (recipe_of(diffusion.bundle, "sega", asked, sample, one, STEPS) for one in ("x.png", None))
    assert (real.prompts[0].strength, real.prompts[0].options.warmup) == (2.0, 1)
    assert real.inversion.guidance_scale == 1.5  # all of an edit's own settings act, of a concept's too
    assert (generated.parameters.momentum_scale, generated.inversion.guidance_scale) == (0.0, None)
    with pytest.raises(InputError, match=r"inversion\.skap"):
        recipe_of(diffusion.bundle, "sega", replace(cap, own={"sega": {"inversion.skap": 0.1}}), sample, "x.png", STEPS)
    directed = recipe_of(styles.bundle, "global-directions", glad, sample, "x.png", {"alpha": 5.0, "beta": 0.2})
    assert (directed.parameters.alpha, directed.parameters.beta) == (
        5.0,
        0.2,
    )  # what is given goes before the edit's own
    assert (directed.prompts[0].text, directed.prompts[0].options.neutral) == ("a glad one", "a calm one")
    towards = recipe_of(styles.bundle, "latent-optimization", glad, sample, None, {"objective": "text"})
    assert towards.prompts[0].options.neutral is None and towards.source.seed == 100


def test_methods_of_a_family(styles: Editor) -> None:
    assert study_methods("diffusion") == ("prompt-to-prompt", "sega", "prompt-to-prompt-local")
    with pytest.raises(InputError, match="latent-mapper"):
        require_study_method("sega", "stylegan2")


# --- runs -------------------------------------------------------------------------------------------------


def test_real_pictures_of_both_families(styles: Editor, diffusion: Editor, samples: Samples, tmp_path: Path) -> None:
    for editor, methods in ((styles, ["global-directions", "latent-optimization"]), (diffusion, ["sega"])):
        given = {"sega": STEPS, "latent-optimization": {"steps": 1}}
        folder = tmp_path / editor.bundle.manifest.family
        run = started(
            editor, samples, ReadyJudge(plain), {name: given.get(name, {}) for name in methods}, folder=folder
        )
        run()
        for name in methods:
            rows = run.run.of("real", name, "glad")
            assert [row.index for row in rows] == [0, 1]  # sample 2 is glad already
            assert rows[1].before == ("none", "blue", "calm") and rows[1].psnr is not None
            for row in rows:
                assert row.picture is not None and row.plain is not None and (folder / row.plain).is_file()
                recipe = read_recipe(folder / row.picture)
                assert recipe.method == name and Path(str(recipe.source.path)).name == f"{row.index}.png"
        assert read_run(folder).rows == run.run.rows


def test_generated_pictures_and_a_run_that_was_killed(diffusion: Editor, samples: Samples, tmp_path: Path) -> None:
    """A source that has the attribute already is replaced; half a line is cut off; nothing is made twice."""

    def read(asked: int) -> dict[str, str]:
        return {"hat": "cap" if asked in (0, 1, 2, 3) else "none", "color": "red", "mood": "calm"}

    methods = {"prompt-to-prompt": STEPS}
    run = started(diffusion, samples, ReadyJudge(read), methods, ("generated",), folder=tmp_path / "run")
    run()
    rows = run.run.of("generated", "prompt-to-prompt", "cap")
    assert [row.index for row in rows] == [0, 1, 2]  # the judge saw a cap in the source of sample 0
    found = score(run.run, "generated", "prompt-to-prompt", "cap")
    assert (found.asked, found.scored, found.left_out, found.success, found.failed) == (2, 2, 1, 0, 0)
    with (tmp_path / "run" / ROWS).open("a") as stream:
        stream.write('{"run":"ab')
    judge = ReadyJudge(read)
    again = started(diffusion, samples, judge, methods, ("generated",), folder=tmp_path / "run")
    again()
    assert judge.asked == 0 and again.run.rows == run.run.rows


def test_prompts(diffusion: Editor, styles: Editor, samples: Samples) -> None:
    run = started(diffusion, samples, ReadyJudge(plain), {}, ("prompts",), count=3)
    run()
    assert prompted([run.run]) == {
        "all": {"right": 7, "count": 9}, "hat": {"right": 3, "count": 3}, "color": {"right": 2, "count": 3},
        "mood": {"right": 2, "count": 3},
    }  # fmt: skip
    with pytest.raises(InputError, match="descriptions"):
        started(styles, samples, ReadyJudge(plain), {}, ("prompts",))()


def test_what_fails_stands_in_the_table(styles: Editor, samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    """One edit that fails takes none along, and counts as no success."""
    whole = Editor.edit_batch

    def broken(self: Editor, recipes: Any, *rest: Any, **more: Any) -> Any:
        if any(recipe.prompts[0].text == "a cap" for recipe in recipes):
            raise InputError("prompts.text", "'a cap'", "no caps here")
        return whole(self, recipes, *rest, **more)

    monkeypatch.setattr(Editor, "edit_batch", broken)
    run = started(styles, samples, ReadyJudge(lambda asked: words_of(0) | {"mood": "glad"}), {"global-directions": {}})
    run()
    cap, glad = (score(run.run, "real", "global-directions", name) for name in ("cap", "glad"))
    assert (cap.scored, cap.failed, cap.success) == (0, 2, 0) and (glad.scored, glad.failed) == (2, 0)
    assert run.run.of("real", "global-directions", "cap")[0].error == "prompts.text: got 'a cap'; allowed: no caps here"
    text = table([run.run], "real")
    assert "| failed | 2 |" in text and "| **all** | **25 % (5-70)** |" in text


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"count": 3}, "count"), ({"judge": "b" * 64}, "judge"), ({"code": "c" * 64}, "code")],
)
def test_rows_of_another_header_are_refused(
    changed: dict[str, Any], named: str, styles: Editor, samples: Samples, tmp_path: Path
) -> None:
    run = started(styles, samples, ReadyJudge(plain), {"global-directions": {}}, folder=tmp_path / "run")
    run()
    other = replace(run.header, **changed)
    with pytest.raises(InputError, match=f"another {named}"):
        open_run(tmp_path / "run", other)
    (tmp_path / "run" / HEADER).write_text(json.dumps(to_dict(other)))
    with pytest.raises(InputError, match=rf"{ROWS}:1: got a row of the run"):
        read_run(tmp_path / "run")


def test_settings_that_no_recipe_takes_are_refused_before_the_first_edit(styles: Editor, samples: Samples) -> None:
    with pytest.raises(InputError, match="alpha"):
        started(styles, samples, ReadyJudge(plain), {"global-directions": {"alpha": 900}})
    with pytest.raises(InputError, match="unknown key"):
        started(styles, samples, ReadyJudge(plain), {"latent-optimization": {"alpha": 1}})


def test_a_judge_of_other_attributes_is_refused(styles: Editor, samples: Samples) -> None:
    judge = ReadyJudge(plain)
    judge.attributes = judge.attributes[:2]
    with pytest.raises(InputError, match="judge"):
        started(styles, samples, judge, {"global-directions": {}})


def test_the_header_holds_every_setting(styles: Editor, samples: Samples) -> None:
    header = started(styles, samples, ReadyJudge(plain), {"global-directions": {"alpha": 3.0}}).header
    told = header.methods["global-directions"]
    assert told["given"] == {"alpha": 3.0} and told["edits"] == ["cap", "glad"]
    parameters = told["settings"]["real"]["parameters"]
    assert parameters["alpha"] == 3.0 and parameters["beta"] is not None
    assert (header.edits_version, header.bundle["sha256"], header.samples["sha256"]) == (
        3, styles.bundle.digest, samples.digest)  # fmt: skip
    assert len(header.code) == 64 and len(header.digest) == 64


# --- rescoring --------------------------------------------------------------------------------------------


def test_pictures_are_read_again_by_another_judge(diffusion: Editor, samples: Samples, tmp_path: Path) -> None:
    methods, parts = {"sega": STEPS}, ("prompts", "generated", "real")
    run = started(diffusion, samples, ReadyJudge(plain), methods, parts, count=1, folder=tmp_path / "run")
    run()
    other: Any = ReadyJudge(lambda asked: {"hat": "cap", "color": "red", "mood": "calm"}, digest="b" * 64)
    found = rescore(tmp_path / "run", other, tmp_path / "new")
    assert found.header == replace(run.header, judge="b" * 64)
    assert read_run(tmp_path / "run").rows == run.run.rows
    real = found.of("real", "sega", "cap")[0]
    assert real.after[0] == "cap" and real.before == ("none", "red", "calm")  # what is known of a sample stays
    assert found.of("generated", "sega", "cap")[0].before[0] == "cap"
    with pytest.raises(InputError, match="another judge"):
        figures([found, read_run(tmp_path / "run")])
    same: Any = ReadyJudge(plain)
    assert rescore(tmp_path / "run", same).rows == run.run.rows  # in its place
    shutil.rmtree(tmp_path / "new" / "pictures")
    with pytest.raises(InputError, match="kept its pictures"):
        rescore(tmp_path / "new", same)


# --- figures ----------------------------------------------------------------------------------------------


def written(rows: list[tuple[int, str, str]], edit: str = "cap") -> Run:
    """A run of one edit, of rows (index, before, after) with values as letters."""
    names = {"n": "none", "c": "cap", "r": "red", "b": "blue", "h": "hidden", "m": "calm", "g": "glad"}
    header = Header({}, 1, EDITS, ("hat", "color", "mood"), ({"attribute": "color", "value": "hidden", "by": "hat"},),
                    ("real",), {"x": {"edits": [edit]}}, len(rows), {}, "", "cpu", "", None, None)  # fmt: skip
    run = Run(header)
    for index, before, after in rows:
        values = [tuple(names[letter] for letter in text) for text in (before, after)]
        run.add([Row(run.short, "real", "x", edit, index, before=values[0], after=values[1])])
    return run


def test_success_and_what_is_hidden() -> None:
    run = written([(0, "nrm", "crm"), (1, "nrm", "chm"), (2, "nrm", "cbm"), (3, "nrm", "nrm")])
    cap = EDITS[0]
    rows = run.of("real", "x", "cap")
    assert [success(run.header, cap, row.before, row.after) for row in rows] == [True, True, False, False]
    assert [kept(run.header, cap, row.before, row.after) for row in rows] == [1.0, 1.0, 0.5, 1.0]
    assert changed(run.header, cap, rows[2]) == ("color",) and changed(run.header, cap, rows[1]) == ()
    found = score(run, "real", "x", "cap")
    assert (found.success, found.seen, found.kept) == (2, 3, 0.875)
    assert found.strict == 2 and found.measured == 0


def test_what_success_forgives() -> None:
    """With nine attributes one may change: loosely a success, strictly none. Distances say what is like a drawing."""
    names = tuple(f"a{k}" for k in range(9))
    edit = EditSpec("new", "a0", "y", "text", "neutral")
    header = Header({}, 1, (edit,), names, (), ("real",), {"x": {"edits": ["new"]}}, 3, {}, "", "cpu", "", None, None)
    run, before = Run(header), ("n",) * 9
    after = [("y", *"nnnnnnnn"), ("y", *"nnnnnnny"), ("y", *"nnnnnnyy")]
    for index, (one, far) in enumerate(zip(after, (DRAWN, DRAWN + 0.01, 0.9), strict=True)):
        run.add([Row(run.short, "real", "x", "new", index, before=before, after=one, distance=far,
                     distance_before=DRAWN - 0.01)])  # fmt: skip
    found = score(run, "real", "x", "new")
    assert (found.success, found.strict, found.measured, found.drawn, found.drawn_before) == (2, 1, 3, 1, 3)
    text = markdown([run])
    assert "| the same, and nothing else changed | 33 % (6-79) |" in text
    assert "| like a drawing | 33 % (6-79) |" in text and "| the pictures before the edit | 100 % (44-100) |" in text
    assert "| edit | x: strict | like a drawing |" in text and "| new | 33 % (6-79) | 33 % (6-79) |" in text
    assert "like a drawing" not in markdown([written([(0, "nrm", "crm")])])


def test_chance_is_the_success_of_somebody_else() -> None:
    """By hand: of six ordered pairs of sources two show a glad one with the same hat and colour."""
    run = written([(0, "nrm", "nrg"), (1, "nrm", "nrm"), (2, "nrg", "nrg")], "glad")
    found = score(run, "real", "x", "glad")
    assert (found.scored, found.left_out) == (2, 1)
    assert found.chance_seen == 0.5
    assert found.chance == 0.5  # from 0: of 1 and 2 the second; from 1: likewise
    assert score(written([(0, "nrm", "crm")]), "real", "x", "cap").chance == 0.0


def test_wilson_by_hand() -> None:
    assert wilson(9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)  # Wilson 1927, computed by hand
    assert wilson(0, 0) == (0.0, 1.0)


def test_tables_say_asked_scored_failed_and_chance() -> None:
    run = written([(i, "nrm", "crm" if i < 9 else "nrm") for i in range(10)])
    lines = markdown([run]).splitlines()
    assert lines[4] == "| cap | 90 % (60-98) |" and lines[5] == "| **all** | **90 % (60-98)** |"
    said = (
        "success by chance | 0.0 %",
        "asked attribute seen by chance | 0.0 %",
        "asked | 10",
        "scored | 10",
        "failed | 0",
    )
    for line in said:
        assert f"| {line} |" in lines
    assert figures([run])["real"]["x"]["cap"]["success"] == 9
    assert table([run], "real", ["Ours"]).startswith("| edit | Ours |")


# --- samples ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda data: data["samples"][0].update(picture="../x.png"), "picture"),
        (lambda data: data["samples"][0].update(picture="/etc/passwd"), "picture"),
        (lambda data: data["samples"][0].update(sha256="ab"), "sha256"),
        (lambda data: data["samples"][0]["words"].pop("hat"), "words"),
        (lambda data: data["samples"][0]["edits"].update(beard={"target": "x"}), "edits"),
        (lambda data: data["samples"][1].update(index=0), "samples.samples"),
        (lambda data: data["edits"][0].update(attribute="nose"), "attribute"),
        (lambda data: data["edits"].append(data["edits"][0]), "samples.edits"),
        (lambda data: data.update(version=9), "version"),
        (lambda data: data["samples"][0].update(seed=-1), "seed"),
    ],
)
def test_bad_samples(change: Any, field: str, samples: Samples, tmp_path: Path) -> None:
    data = json.loads((samples.folder / SAMPLES).read_text())
    change(data)
    (tmp_path / SAMPLES).write_text(json.dumps(data))
    with pytest.raises(InputError) as caught:
        load_samples(tmp_path)
    assert field in caught.value.field


def test_a_picture_that_was_changed_is_refused(samples: Samples, tmp_path: Path) -> None:
    shutil.copytree(samples.folder, tmp_path / "copy")
    copy = load_samples(tmp_path / "copy")
    (tmp_path / "copy" / "pictures" / "0.png").write_bytes(b"x")
    with pytest.raises(InputError, match="another picture"):
        copy.picture(next(iter(copy)))
    with pytest.raises(InputError, match="did you mean 'glad'"):
        copy.edits(("gald",))


# --- tuning -----------------------------------------------------------------------------------------------


def test_axes_are_walked_and_trials_go_on(styles: Editor, samples: Samples, tmp_path: Path) -> None:
    """A judge that sees a cap from the third trial on: alpha 4 wins, and a second tuning asks nothing again."""
    judge: Any = ReadyJudge(lambda asked: words_of(0) | {"hat": "cap" if asked >= 8 else "none"})
    trials = Trials(styles, judge, samples, "global-directions", "real", samples.edits(("cap",)), 2, tmp_path)
    best = trials.walk({"beta": 0.1}, {"alpha": (1.0, 4.0)})
    assert best["settings"] == {"beta": 0.1, "alpha": 4.0} and best["success"] == 0.5  # blue hats turn red
    assert [one["success"] for one in trials.ranked] == [0.5, 0.0, 0.0]
    trials.write()
    assert json.loads((tmp_path / "presets.json").read_text()) == {
        "defaults": {"global-directions": {"beta": 0.1, "alpha": 4.0}}}  # fmt: skip
    idle: Any = ReadyJudge(plain)
    again = Trials(styles, idle, samples, "global-directions", "real", samples.edits(("cap",)), 2, tmp_path)
    assert again.walk({"beta": 0.1}, {"alpha": (1.0, 4.0)}) == best and idle.asked == 0
    with pytest.raises(InputError, match="alpha"):
        again.check({"beta": 0.1}, {"alpha": (1.0, 900.0)})


def test_winners_as_presets_and_what_is_read() -> None:
    settings = {"scale": 7, "inversion.skip": 0.2}
    wanted = {"sega.pictures": {"scale": 7}, "sega.inversion": {"skip": 0.2}}
    assert presets("sega", "real", settings) == {"defaults": wanted}
    assert presets("prompt-to-prompt-local", "generated", {"steps": 9}) == {
        "defaults": {"prompt-to-prompt": {"steps": 9}}}  # fmt: skip
    assert presets("latent-mapper", "real", {"inversion.refine_steps": 3}) == {
        "defaults": {"inversion": {"refine_steps": 3}}}  # fmt: skip
    assert parse_axes(["scale=4,7.5", "sampler=ddim"]) == {"scale": [4, 7.5], "sampler": ["ddim"]}
    assert parse_start("space=s, steps=20") == {"space": "s", "steps": 20}
    for bad in ("scale", "scale=", "scale=4,,5"):
        with pytest.raises(InputError, match="axis"):
            parse_axes([bad])
    with pytest.raises(InputError, match="start"):
        parse_start("space")


# --- the command line -------------------------------------------------------------------------------------


def test_the_shipped_bundle_and_judge(limner: Callable[..., Any], tmp_path: Path) -> None:
    """From held-out avatars to a table, on what ships."""
    done = limner("train", "samples", "--split", "validation", "--count", 3, "--out", tmp_path / "samples")
    assert done.code == 0, done.err
    run = (
        "study",
        "run",
        tmp_path / "samples",
        "--out",
        tmp_path / "run",
        "-m",
        "global-directions",
        "--edit",
        "beard",
    )
    done = limner(*run, "--count", 2, "--threads", 1, "--sheets", 1)
    assert done.code == 0 and "| scored | 2 |" in done.out, done.err
    assert np.asarray(sorted(path.name for path in (tmp_path / "run").glob("*.png"))).size == 1
    shown = limner("study", "table", tmp_path / "run")
    assert shown.out == done.out
    assert limner("study", "score", tmp_path / "run").out == done.out
    assert json.loads(limner("study", "table", tmp_path / "run", "--json").out)["real"]["global-directions"]["beard"]
    sheet = ("study", "sheet", tmp_path / "run", "-m", "global-directions", "--out")
    assert limner(*sheet, tmp_path / "sheet.png", "--count", 2).code == 0
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
    for words, said in (
        ((*sheet, tmp_path / "s.png"), "at most 2"),
        ((*sheet, tmp_path / "s.png", "--part", "prompts"), "part"),
        (("study", "sheet", tmp_path / "run", "-m", "sega", "--out", tmp_path / "s.png"), "global-directions"),
        ((*sheet, tmp_path / "s.gif"), "output"),
        ((*run, "--count", 3), "another count"),
        ((*run[:-1], "bread"), "did you mean 'beard'"),
        ((*run, "--set", "sega.steps=3"), "METHOD.NAME=VALUE"),
        ((*run, "--part", "reel"), "did you mean 'real'"),
        (("study", "table", tmp_path), "run.json"),
        (("study", "run", tmp_path, "--out", tmp_path / "x"), "samples"),
        (("study", "tune", tmp_path / "samples", "-m", "sega"), "--axis"),
        (("study", "score", tmp_path / "run", "--judge", tmp_path), "judge"),
        (("train", "samples", "--out", tmp_path / "samples"), "which is there already"),
        (("train", "samples", "--out", tmp_path / "y", "--split", "train"), "split"),
    ):
        failed = limner(*words)
        assert failed.code == 2 and said in failed.err, (words, failed.err)


def test_times(limner: Callable[..., Any], tmp_path: Path) -> None:
    """A method of each family on what ships, each in its own process; what is wrong is said as anywhere."""
    folder = tmp_path / "samples"
    assert limner("train", "samples", "--count", 3, "--out", folder).code == 0
    line = ("study", "time", folder, "--count", 2, "--batch", 2, "--threads", 1)
    done = limner(*line, "-m", "latent-mapper", "-m", "sega", "--steps", 3, "--out", tmp_path / "t.md", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["machine"]["cores"] >= 1
    mapper, sega = found["times"]
    assert (mapper["method"], mapper["steps"], sega["method"], sega["steps"]) == ("latent-mapper", None, "sega", 3)
    for row in (mapper, sega):
        assert row["provider"] == "cpu" and (row["count"], row["together"]) == (1, 2)
        assert row["first"] > row["next"] > 0 and row["slowest"] >= row["next"] and row["batch"] > 0
    text = (tmp_path / "t.md").read_text()
    assert "| latent-mapper | generated | cpu | - |" in text and "| sega | generated | cpu | 3 |" in text
    real = limner(*line, "-m", "latent-mapper", "--part", "real")
    assert real.code == 0 and "| latent-mapper | real | cpu | - |" in real.out
    for words, said in (
        (("-m", "sega", "--count", 50), "count: got 50"),
        (("-m", "saga"), "did you mean 'sega'"),
        (("-m", "sega", "--provider", "cud"), "did you mean 'cuda'"),
        (("--part", "prompts"), "part"),
        (("-m", "sega", "--out", tmp_path / "t.txt"), "output"),
    ):
        failed = limner(*line, *words)
        assert failed.code == 2 and said in failed.err, (words, failed.err)


def test_the_documented_lines_run(
    limner: Callable[..., Any], tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line of docs/study.md as it is written, with few samples."""
    fewer = {
        "samples": ["--count", "4"],
        "realism": [],
        "run": [*["--count", "1", "--edit", "beard", "--threads", "1"]],
    }
    fewer |= {
        "tune": [*fewer["run"], "--start", "steps=1"],
        "table": [],
        "score": [],
        "sheet": ["--count", "1"],
        "make": ["--processes", "1"],
        **{name: [] for name in ("size", "page", "collect", "answers", "simulate", "analyse")},
        "measure": [],
        "time": ["--method", "latent-mapper", "--count", "2", "--batch", "2", "--threads", "1"],
    }
    text = (repository / "docs" / "study.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    (plan,) = re.findall(r"^```yaml\n# beards.yaml\n(.*?)^```", text, re.M | re.S)
    (tmp_path / "beards.yaml").write_text(plan.replace("count: 20", "count: 2"))
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").symlink_to(repository / "checkpoints")
    for line in lines:
        words = shlex.split(line)[1:]
        if words[1] == "serve":  # test_people_browser.py
            continue
        if words[1] == "collect":
            study = read_study(Path(words[2]))
            first = {"acceptable": {"made": True, "kept": True}, "quality": {"rating": 4}, "pair": {"better": "left"}}
            answers = [{"position": place, "value": first[page.question], "seconds": 2.0}
                       for place, page in enumerate(deal(study, 0))]  # fmt: skip
            Path(words[3]).write_text(json.dumps({"study": study.digest, "rater": 0, "answers": answers}))
        done = limner(*words, *fewer[words[1]])
        assert done.code == 0, (line, done.err)
    assert len(lines) >= 9
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"study", "study-stylegan2", "tune-sega"}


def test_what_bundles_hold_decides_the_edits_of_mappers(samples: Samples) -> None:
    from limner.runtime.bundle.shipped import shipped_bundle
    from limner.runtime.study.recipes import edits_of
    from limner.training.avatars.edits import EDITS as SHIPPED

    bundle: Bundle = Editor(shipped_bundle(), threads=1).bundle
    asked = {edit.name for edit in edits_of("latent-mapper", bundle, SHIPPED)}
    assert asked == set(bundle.manifest.mappers) and len(edits_of("global-directions", bundle, SHIPPED)) == 12
