"""The verbs of runs: run, score, table, sheet, time, measure, pie, tune."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from limner.runtime.cli.console import print_json
from limner.runtime.cli.options import BundleOption, JsonOption, ProviderOption, ThreadsOption, open_editor
from limner.runtime.cli.study.app import (
    EditOption,
    JudgeOption,
    RunArgument,
    SamplesArgument,
    app,
    family_of,
    judge_of,
)
from limner.runtime.errors import InputError, nearest

__all__ = ["measures", "pie", "run", "score", "sheet", "table", "times", "tune"]


@app.command("run")
def run(
    samples: SamplesArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder of the run; one that was stopped goes on there.")],
    method: Annotated[
        list[str] | None, typer.Option("--method", "-m", help="One of the bundle's methods; may be repeated.")
    ] = None,
    part: Annotated[
        list[str] | None, typer.Option("--part", help="real, generated or prompts; may be repeated.")
    ] = None,
    edit: EditOption = None,
    count: Annotated[int, typer.Option(min=1, help="Samples an edit.")] = 50,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="METHOD.NAME=VALUE, as in sega.steps=30 or sega.inversion.skip=0.2."),
    ] = None,
    bundle: BundleOption = None,
    judge: JudgeOption = None,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    sheets: Annotated[int, typer.Option(min=0, help="Draw the edits of so many samples side by side.")] = 0,
) -> None:
    """Edit the samples by every method, judge what comes out, and print the table."""
    from limner.runtime.study.battery import Battery
    from limner.runtime.study.header import PARTS, make_header
    from limner.runtime.study.recipes import require_study_method, study_methods
    from limner.runtime.study.rows import open_run
    from limner.runtime.study.samples import load_samples
    from limner.runtime.study.tables import markdown

    loaded = load_samples(samples)
    editor = open_editor(bundle, provider, threads, family_of(method or ()))
    family = editor.bundle.manifest.family
    names = [require_study_method(name, family) for name in method or study_methods(family)]
    given = _settings(settings or (), names)
    parts = _parts(part or ["real"], PARTS)
    found = judge_of(judge)
    methods = {name: given.get(name, {}) for name in names}
    header = make_header(loaded, editor, found, parts, methods, loaded.edits(tuple(edit or ())), count)
    made = open_run(out, header)
    Battery(editor, found, loaded, made, sheets)()
    print(markdown([made]), end="")


@app.command("score")
def score(
    folder: RunArgument,
    judge: JudgeOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="New folder of the run as it is judged now; else in its place.")
    ] = None,
) -> None:
    """Read the pictures of a run again, by the same judge or another one, and print the table."""
    from limner.runtime.study.rescoring import rescore
    from limner.runtime.study.tables import markdown

    print(markdown([rescore(folder, judge_of(judge), out)]), end="")


@app.command("table")
def table(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs of the same samples, edits and judge.")],
    as_json: JsonOption = False,
) -> None:
    """Print the table of one run or of several, a column a method."""
    from limner.runtime.study.rows import read_run
    from limner.runtime.study.tables import figures, markdown

    runs = [read_run(folder) for folder in folders]
    if as_json:
        print_json(figures(runs))
        return
    print(markdown(runs), end="")


@app.command("sheet")
def sheet(
    folder: RunArgument,
    method: Annotated[str, typer.Option("--method", "-m", help="A method of the run.")],
    output: Annotated[Path, typer.Option("--output", "-o", "--out", help="Picture file to write.")],
    part: Annotated[str, typer.Option("--part", help="real or generated.")] = "real",
    count: Annotated[int, typer.Option(min=1, max=400, help="Edits.")] = 24,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="That picks them.")] = 0,
) -> None:
    """Draw edits that a seed picks, each beside the picture before it: what a run looks like, unchosen."""
    from limner.runtime.cli.options import check_output
    from limner.runtime.pictures.writing import write_picture
    from limner.runtime.pictures.xmp import COMPOSITE
    from limner.runtime.study.contact import contact_sheet, picked
    from limner.runtime.study.rows import read_run

    check_output(output, "output")
    _parts([part], ("real", "generated"))
    found = read_run(folder)
    drawn = contact_sheet(found, picked(found, part, method, count, seed))
    write_picture(output, drawn, mark=COMPOSITE)
    print(output)


@app.command("time")
def times(
    samples: SamplesArgument,
    method: Annotated[
        list[str] | None, typer.Option("--method", "-m", help="A method; may be repeated. All if not given.")
    ] = None,
    part: Annotated[str, typer.Option("--part", help="generated, or real: held-out pictures.")] = "generated",
    count: Annotated[int, typer.Option(min=2, max=100, help="Sources.")] = 6,
    together: Annotated[int, typer.Option("--batch", min=1, max=64, help="Edits in a batch.")] = 8,
    step_count: Annotated[
        int | None, typer.Option("--steps", min=1, max=1000, help="Of methods that have steps; else their presets.")
    ] = None,
    bundle: BundleOption = None,
    provider: Annotated[
        list[str] | None, typer.Option("--provider", help="May be repeated; all at hand but engines if not given.")
    ] = None,
    threads: ThreadsOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", "--out", help="Also write the table here (.md).")
    ] = None,
    as_json: JsonOption = False,
    began: Annotated[float | None, typer.Option(hidden=True)] = None,
) -> None:
    """Time every method on every provider: first and next edit, the same picture again, and each of a batch.

    Each is measured in a process of its own, one after another.
    """
    from dataclasses import asdict

    from limner.runtime.cli.options import check_output
    from limner.runtime.machine import machine
    from limner.runtime.storage.files import write_atomically
    from limner.runtime.study.samples import load_samples
    from limner.runtime.study.times import Times, measure, timed_recipes, times_table

    check_output(output, "output", suffix=".md")
    _parts([part], ("generated", "real"))
    loaded = load_samples(samples)
    if began is not None and method and provider:
        editor = open_editor(bundle, provider[0], threads, family_of(method))
        recipes, other = timed_recipes(editor, loaded, method[0], part, count, step_count)
        print_json(asdict(measure(began, editor, recipes, other, part, method[0], together)))
        return
    options = ["--part", part, "--count", str(count), "--batch", str(together)]
    options += [] if step_count is None else ["--steps", str(step_count)]
    options += [] if threads is None else ["--threads", str(threads)]
    rows = []
    for name, folder in _timed(method, bundle):
        for one in provider or _providers():
            words = [*options, "--method", name, "--provider", one, *([] if folder is None else ["--bundle", folder])]
            rows.append(Times(**_in_process("study", "time", str(samples), *words)))
    text = times_table(rows)
    if output is not None:
        write_atomically(output, text.encode(), field="output")
    if as_json:
        print_json({"machine": machine(), "times": [asdict(row) for row in rows]})
        return
    print(text, end="")


def _timed(methods: Sequence[str] | None, bundle: Path | None) -> list[tuple[str, str | None]]:
    """Methods, and the bundle of each: of the one that is given, or of those that ship."""
    from limner.runtime.bundle.shipped import is_shipped
    from limner.runtime.study.recipes import method_of, require_study_method, study_methods

    if bundle is not None:
        family = open_editor(bundle, "cpu", 1).bundle.manifest.family
        return [(require_study_method(name, family), str(bundle)) for name in methods or study_methods(family)]
    found = [name for family in ("stylegan2", "diffusion") if is_shipped(family) for name in study_methods(family)]
    return [(require_study_method(name, method_of(name).family), None) for name in methods or found]


def _providers() -> list[str]:
    """Those that would run here with any bundle; engines belong to one, and are asked for by name."""
    from limner.runtime.graphs.backends import backends

    return [one.name for one in backends() if one.usable and one.name != "engine"]


def _in_process(*words: str) -> dict[str, Any]:
    """What `limner WORDS --json` prints, run in a process of its own; LimnerError with what it said where it fails."""
    import subprocess
    import sys
    import time

    from limner.runtime.errors import LimnerError

    command = [sys.executable, "-m", "limner.runtime", *words, "--json", "--began", repr(time.time())]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["nothing"]
        failure = LimnerError(said[-1].removeprefix("error: "))
        failure.exit_code = done.returncode
        raise failure
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@app.command("measure")
def measures(
    folder: RunArgument,
    samples: Annotated[Path, typer.Argument(help="Its samples, with the true edits: `limner train samples --truth`.")],
    judge: JudgeOption = None,
) -> None:
    """Measure a run's edits of held-out pictures: distance to the true edit, change by place, the background."""
    from limner.runtime.study.measuring import as_measure_table, measure_run
    from limner.runtime.study.rows import read_run
    from limner.runtime.study.samples import load_samples

    print(as_measure_table(measure_run(read_run(folder), load_samples(samples), judge_of(judge))), end="")


@app.command("pie")
def pie(
    folder: Annotated[
        Path, typer.Argument(help="A folder in PIE-Bench's format: mapping_file.json, annotation_images.")
    ],
    results: Annotated[Path, typer.Argument(help="Edited pictures, named as those of the folder.")],
    as_json: JsonOption = False,
) -> None:
    """Measure edits of a PIE-Bench-shaped folder of your own: change by place and both background figures, by kind."""
    from limner.runtime.study.pie import as_pie_table, measure_folder

    found = measure_folder(folder, results)
    if as_json:
        print_json(found)
        return
    print(as_pie_table(found), end="")


@app.command("tune")
def tune(
    samples: SamplesArgument,
    method: Annotated[str, typer.Option("--method", "-m", help="One of the bundle's methods.")],
    axis: Annotated[list[str] | None, typer.Option("--axis", help="NAME=VALUE,VALUE; may be repeated.")] = None,
    start: Annotated[
        list[str] | None, typer.Option("--start", help="NAME=VALUE,NAME=VALUE to begin at; may be repeated.")
    ] = None,
    part: Annotated[str, typer.Option("--part", help="real or generated.")] = "real",
    edit: EditOption = None,
    count: Annotated[int, typer.Option(min=1, help="Samples an edit.")] = 6,
    bundle: BundleOption = None,
    judge: JudgeOption = None,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the trials and of presets.json.")] = None,
) -> None:
    """Walk axes of settings from each start; print one JSON line a trial, the best first."""
    from limner.runtime.study.recipes import require_study_method
    from limner.runtime.study.samples import load_samples
    from limner.runtime.study.tuning import Trials, parse_axes, parse_start

    axes, starts = parse_axes(axis or ()), [parse_start(text) for text in start or ()] or [{}]
    if not axes and not start:
        raise InputError("axis", "nothing to try", "--axis NAME=VALUE,VALUE, or several --start")
    loaded = load_samples(samples)
    _parts([part], ("real", "generated"))
    editor = open_editor(bundle, provider, threads, family_of([method]))
    require_study_method(method, editor.bundle.manifest.family)
    trials = Trials(editor, judge_of(judge), loaded, method, part, loaded.edits(tuple(edit or ())), count, out)
    for one in starts:
        trials.check(one, axes)
    for one in starts:
        trials.walk(one, axes)
    trials.write()
    for one in trials.ranked:
        print(json.dumps(one))


def _parts(given: Sequence[str], known: Sequence[str]) -> list[str]:
    for name in given:
        if name not in known:
            raise InputError("part", repr(name), ", ".join(known), nearest(name, known))
    return list(dict.fromkeys(given))


def _settings(given: Sequence[str], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """["sega.steps=30"] -> {"sega": {"steps": 30}}; InputError for what is not METHOD.NAME=VALUE of a method asked."""
    from limner.runtime.schema import read_value

    found: dict[str, dict[str, Any]] = {}
    for item in given:
        key, sign, value = item.partition("=")
        method, dot, name = key.partition(".")
        if not sign or not dot or method not in methods:
            raise InputError("set", repr(item), f"METHOD.NAME=VALUE with a method of {', '.join(methods)}")
        found.setdefault(method, {})[name] = read_value(value, "set")
    return found
