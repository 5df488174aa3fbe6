"""The verbs of people's answers: serve, page, collect, answers, simulate."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limner.runtime.cli.console import note
from limner.runtime.cli.options import lacking
from limner.runtime.cli.study.app import StudyArgument, app
from limner.runtime.errors import InputError

if TYPE_CHECKING:
    from limner.runtime.study.people.pictures import Pictures
    from limner.runtime.study.plans.making import Study

__all__ = ["answers", "collect", "page", "serve", "simulate"]

LOOPBACK = ("127.0.0.1", "::1", "localhost")
ConsentOption = Annotated[
    Path | None, typer.Option("--consent", help="Text of your own for the first page, empty lines between paragraphs.")
]
ContactOption = Annotated[str, typer.Option("--contact", help="Whom raters may ask, shown on the first page.")]
SimulatedOption = Annotated[bool, typer.Option("--simulated", help="The answers of `limner study simulate`.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", "--out", help="File to write.")]


@app.command("serve")
def serve(
    folder: StudyArgument,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8090,
    consent: ConsentOption = None,
    contact: ContactOption = "",
    code: Annotated[str, typer.Option("--code", help="Shown to everybody at the end; a code each if not given.")] = "",
    https: Annotated[
        bool, typer.Option("--https", help="The cookie goes over HTTPS alone: a proxy in front brings it.")
    ] = False,
) -> None:
    """Ask people: pages for a browser, with keys and touch; every answer is kept before it is acknowledged."""
    try:
        from limner.runtime.study.people.serving import Desk, serve_pages
    except ModuleNotFoundError as reason:
        raise lacking("serve", "study", reason) from reason
    from limner.runtime.study.people.consent import read_consent
    from limner.runtime.study.people.store import Store

    study = _asking(folder)
    desk = Desk(Store(study), _pictures(study), read_consent(consent), contact, code, https)
    if host not in LOOPBACK and not https:
        note(
            "warning: answers and pictures go over the network in plain HTTP; --https with a proxy in front hides them"
        )
    serve_pages(desk, host, port, note)


@app.command("page")
def page(
    folder: StudyArgument,
    output: OutputOption,
    rater: Annotated[int, typer.Option("--rater", min=0, help="Whose pages, from 0; a file for each.")],
    consent: ConsentOption = None,
    contact: ContactOption = "",
) -> None:
    """Write one rater's pages as one HTML file, for places without a server; `collect` takes its answers back."""
    from limner.runtime.cli.options import check_output
    from limner.runtime.storage.files import write_atomically
    from limner.runtime.study.people.consent import read_consent

    try:
        from limner.runtime.study.people.page import static_page
    except ModuleNotFoundError as reason:
        raise lacking("page", "study", reason) from reason

    check_output(output, "output", suffix=".html")
    study = _asking(folder)
    text = static_page(_pictures(study), rater, read_consent(consent), contact)
    write_atomically(output, text.encode(), field="output")
    print(output)


@app.command("collect")
def collect(
    folder: StudyArgument,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files that pages saved.")],
) -> None:
    """Take the answers that pages saved into the study: each file whole or not at all, none twice."""
    from limner.runtime.study.people.page import collect as take
    from limner.runtime.study.people.store import Store

    store = Store(_asking(folder))
    for path in files:
        rater = take(store, path)
        note(f"{path}: rater {rater.number}, {rater.code}")


@app.command("answers")
def answers(
    folder: StudyArgument,
    output: OutputOption,
    simulated: SimulatedOption = False,
) -> None:
    """Write every answer as CSV: rater, page, what was shown, what was said, seconds."""
    from limner.runtime.cli.options import check_output
    from limner.runtime.storage.files import write_atomically
    from limner.runtime.study.people.export import as_csv
    from limner.runtime.study.people.store import Store

    check_output(output, "output", suffix=".csv")
    store = Store(_asking(folder), "simulated" if simulated else "people", must_exist=True)
    write_atomically(output, as_csv(store).encode(), field="output")
    print(output)


@app.command("simulate")
def simulate(
    folder: StudyArgument,
    effect: Annotated[
        list[str] | None, typer.Option("--effect", help="ARM:NUMBER on the logistic scale; may be repeated.")
    ] = None,
    careless: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of raters who answer at random.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1)] = 0,
) -> None:
    """Make up raters with known effects, to rehearse an analysis; never among people's answers."""
    from limner.runtime.study.people.simulated import Planted
    from limner.runtime.study.people.simulated import simulate as made_up
    from limner.runtime.study.people.store import Store

    store = Store(_asking(folder), "simulated")
    if store.raters():
        raise InputError("study", f"{store.path.name!r}, which has raters", "a study without; remove that file first")
    made_up(store, Planted(dict(map(_effect, effect or ())), careless=careless, seed=seed))
    note(f"{store.study.plan.raters} simulated raters in {store.path}: nobody was asked")


def _effect(text: str) -> tuple[str, float]:
    name, colon, value = text.rpartition(":")
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not colon or not -20 <= number <= 20:
        raise InputError("effect", repr(text), "ARM:NUMBER with a number from -20 to 20")
    return name, number


def _asking(folder: Path) -> "Study":
    from limner.runtime.study.people.dealing import check_rater
    from limner.runtime.study.plans.making import check_made, read_study

    study = read_study(folder)
    check_made(study)
    check_rater(study.plan, 0)
    return study


def _pictures(study: "Study") -> "Pictures":
    from limner.runtime.study.people.pictures import Pictures
    from limner.runtime.study.samples import load_samples

    samples = load_samples(Path(study.plan.samples))
    if samples.digest != study.given["samples"]:
        raise InputError(
            "samples", f"{study.plan.samples!r}, which are others now", "those that the plan was frozen with"
        )
    return Pictures(study, samples)
