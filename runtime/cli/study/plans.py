"""The verbs of plans: make, analyse, size."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limner.runtime.cli.console import note, print_json
from limner.runtime.cli.options import JsonOption, ProviderOption
from limner.runtime.cli.study.app import JudgeOption, StudyArgument, app, judge_of
from limner.runtime.errors import InputError, nearest

if TYPE_CHECKING:
    from limner.runtime.study.people.store import RaterKind

__all__ = ["analyse", "make", "size"]


@app.command("make")
def make(
    plan: Annotated[
        Path, typer.Argument(metavar="PLAN", help="A plan, YAML or JSON; docs/study.md says what it holds.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the study; one that was stopped goes on there.")],
    judge: JudgeOption = None,
    provider: ProviderOption = "cpu",
    threads: Annotated[int, typer.Option(min=1, max=256, help="CPU threads of a process.")] = 1,
    processes: Annotated[
        int | None, typer.Option(min=1, max=256, help="Arms at one time; the cores over the threads.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the plan, print its arms and stop.")] = False,
) -> None:
    """Freeze a plan and make its edits: every arm on every edit and sample, judged; then print the table."""
    from limner.runtime.bundle.shipped import checkpoints_folder
    from limner.runtime.graphs.threads import usable_cores
    from limner.runtime.study.plans.making import incomplete, make_study, open_study
    from limner.runtime.study.plans.plan import arms_of, read_plan
    from limner.runtime.study.tables import markdown

    read = read_plan(plan)
    if dry_run:
        print_json({"name": read.name, "arms": [{"name": arm.name, "settings": arm.settings} for arm in arms_of(read)]})
        return
    folder = checkpoints_folder() / "avatars" / "judge" if judge is None else judge
    judge_of(folder)
    study = open_study(out, read, folder)
    make_study(study, folder, provider, threads, processes or max(1, usable_cores() // threads))
    for line in incomplete(study):
        note(f"fewer than asked: {line}")
    note(f"study {study.digest[:12]}")
    print(markdown(study.runs(), [arm.name for arm in study.arms]), end="")


@app.command("analyse")
def analyse(
    folder: StudyArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", "--out", help="Also write the report here (.md).")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="And as one file with plots and the pictures behind every number.")
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=0, max=10_000, help="--html: pictures of every arm and edit, what failed first.")
    ] = 60,
    times: Annotated[
        Path | None, typer.Option("--times", help="What `limner study time --out` wrote, for the report.")
    ] = None,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="With the answers of `limner study simulate`.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Report a study: success, settings, people's answers where there are any, and the planned comparisons."""
    from dataclasses import asdict

    from limner.runtime.cli.options import check_output
    from limner.runtime.storage.files import read_plain, write_atomically
    from limner.runtime.study.analysis.answers import answers_of
    from limner.runtime.study.analysis.planned import compare_study
    from limner.runtime.study.analysis.report import as_html, as_markdown, report_sections
    from limner.runtime.study.people.store import ANSWERS_FILE, Store
    from limner.runtime.study.plans.making import check_made, read_study

    check_output(output, "output", suffix=".md")
    check_output(html, "html", suffix=".html")
    study = read_study(folder)
    check_made(study)
    timed = "" if times is None else read_plain(times, "times", 1_000_000).decode("utf-8", errors="replace")
    there = simulated or (folder / ANSWERS_FILE).is_file()
    kind: RaterKind = "simulated" if simulated else "people"
    answers = answers_of(Store(study, kind, must_exist=True)) if there else None
    found = compare_study(study, answers)
    beside = html.name if html is not None and output is not None and html.parent == output.parent else ""
    parts = report_sections(study, found, answers, timed)
    text = as_markdown(study, parts, beside)
    if html is not None:
        write_atomically(html, as_html(study, parts, pictures, simulated).encode(), field="html")
    if output is not None:
        write_atomically(output, text.encode(), field="output")
    if as_json:
        print_json(
            {"study": study.digest, "raters": kind if there else None, "compared": [asdict(one) for one in found]}
        )
        return
    print(text, end="")


@app.command("size")
def size(
    test: Annotated[
        str, typer.Option("--test", help="success (McNemar), choice (which is better) or rating (1 to 5).")
    ],
    first: Annotated[float, typer.Option(help="success: rate of one arm, 0 to 1.")] = 0.85,
    second: Annotated[float, typer.Option(help="success: rate of the other arm.")] = 0.75,
    together: Annotated[float, typer.Option(help="success: correlation of both on a picture.")] = 0.3,
    share: Annotated[float, typer.Option(help="choice: how often one arm is preferred, 0 to 1.")] = 0.6,
    shift: Annotated[float, typer.Option(help="rating: difference, in standard deviations of one rating.")] = 0.3,
    votes: Annotated[int, typer.Option(min=1, max=1000, help="choice, rating: votes a picture.")] = 3,
    power: Annotated[float, typer.Option(min=0.5, max=0.99, help="How often it is to be seen.")] = 0.8,
    alpha: Annotated[float, typer.Option(min=0.0001, max=0.2, help="False findings that are allowed.")] = 0.05,
    as_json: JsonOption = False,
) -> None:
    """How many pictures a difference needs, to be seen by the test that it will be analysed by."""
    from limner.runtime.study.plans.size import choice_power, mcnemar_power, needed, rating_power

    tests = {
        "success": lambda n: mcnemar_power(n, first, second, together, alpha),
        "choice": lambda n: choice_power(n, votes, share, alpha=alpha),
        "rating": lambda n: rating_power(n, votes, shift, alpha=alpha),
    }
    if test not in tests:
        raise InputError("test", repr(test), ", ".join(tests), nearest(test, tests))
    for name, value in {"first": first, "second": second, "share": share}.items():
        if not 0 < value < 1:
            raise InputError(name, value, "a number between 0 and 1")
    if (
        (test == "success" and first == second)
        or (test == "choice" and share == 0.5)
        or (test == "rating" and shift == 0)
    ):
        raise InputError("difference", "none", "two that differ")
    count = needed(tests[test], power)
    found = {"test": test, "pictures": count, "power": round(tests[test](count), 3), "alpha": alpha}
    found |= {} if test == "success" else {"votes": votes, "all votes": count * votes}
    if as_json:
        print_json(found)
        return
    print(
        f"{count} pictures" + ("" if test == "success" else f", {count * votes} votes") + f" (power {found['power']})"
    )
