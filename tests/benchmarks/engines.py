"""`make engines`: compile every graph of a bundle, and say which back ends ran what on this machine.

Writes engines.md and engines.json: sizes, build seconds and refused nodes, then back ends by graphs. A cell says "ran"
only if the graph ran here a moment ago.

    PYTHONPATH=tests python -m benchmarks.engines --bundle checkpoints/avatars/bundle --target sm86,sm89,sm120
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from limner.export.precision.samples import Samples
from limner.export.tensorrt.builders import find_builder
from limner.export.tensorrt.compile import Built, EngineConfig, compile_bundle, copy_bundle
from limner.export.tensorrt.parallel import Task, fill_cache
from limner.export.tensorrt.profiles import parse_shapes
from limner.runtime.bundle.loading import Bundle, load_bundle
from limner.runtime.bundle.shipped import BUNDLES, is_shipped, shipped_bundle
from limner.runtime.errors import InputError, LimnerError, nearest
from limner.runtime.graphs.backends import backends
from limner.runtime.graphs.driver import probe_driver
from limner.runtime.graphs.sessions import Sessions
from limner.runtime.storage.caches import cache_folder

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
TARGETS = ("sm86", "sm89", "sm120")
SIGNS = "ran: on this machine; compiled: for the targets, and not run; -: see the reasons below the table"


@dataclass(frozen=True)
class Report:
    """What `make engines` found."""

    machine: str
    builder: str
    targets: tuple[str, ...]
    built: dict[str, list[Built]]  # "avatars, fp16" -> its graphs
    matrix: dict[str, dict[str, str]]  # graph -> back end -> "ran", "compiled" or "-"
    reasons: dict[str, str]  # back end -> why it did not run

    @property
    def refused(self) -> int:
        """How many graphs were refused."""
        return sum(bool(one.refused) for rows in self.built.values() for one in rows)


def say(line: str) -> None:
    """Progress goes to stderr."""
    print(line, file=sys.stderr, flush=True)


def run_graphs(bundle: Bundle, provider: str) -> dict[str, str]:
    """Run every graph once on a back end; graph -> "ran", or what went wrong."""
    samples, sessions = Samples(bundle), Sessions(bundle, provider, threads=1)
    found = {}
    for name in bundle.manifest.graphs:
        feed = samples(name, 1)
        try:
            sessions.run(name, only=None, **feed)
            found[name] = "ran"
        except LimnerError as error:
            found[name] = f"failed: {error}"
    sessions.close()
    return found


def survey_backends(bundle: Bundle, compiled: Sequence[Built]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Back ends by graphs, and the reasons of those that do not run here."""
    matrix: dict[str, dict[str, str]] = {name: {} for name in bundle.manifest.graphs}
    reasons = {}
    for backend in backends():
        if backend.usable:
            ran = run_graphs(bundle, backend.name)
        else:
            reasons[backend.name] = backend.reason
            ran = dict.fromkeys(matrix, "-")
        for name, state in ran.items():
            matrix[name][backend.name] = state
    for one in compiled:
        if not one.refused and matrix.get(one.graph, {}).get("engine") == "-":
            matrix[one.graph]["engine"] = "compiled"
    return matrix, reasons


def as_markdown(report: Report) -> str:
    """engines.md."""
    lines = ["# Engines", ""]
    lines += [f"`make engines` with {report.builder} for {', '.join(report.targets)}. {report.machine}", ""]
    for title, rows in report.built.items():
        lines += [f"## {title}", "", "| graph | MB | build, s | refused nodes |", "| --- | --- | --- | --- |"]
        for one in rows:
            refused = "none" if not one.refused else "; ".join(one.refused)
            seconds = one.meta.seconds if one.meta is not None else one.seconds
            took = f"{seconds:.1f}" if seconds else one.source
            lines.append(f"| {one.graph} | {one.megabytes:.1f} | {took} | {refused} |")
        lines.append(f"| **all** | {sum(one.megabytes for one in rows):.1f} | | |")
        lines.append("")
    names = list(next(iter(report.matrix.values()), {}))
    lines += ["## Back ends by graphs", "", SIGNS + ".", "", f"| graph | {' | '.join(names)} |"]
    lines.append("| --- " * (len(names) + 1) + "|")
    for graph, row in report.matrix.items():
        lines.append(f"| {graph} | {' | '.join(row[name] for name in names)} |")
    lines += ["", *(f"- `{name}` did not run: {reason}." for name, reason in report.reasons.items())]
    return "\n".join(lines) + "\n"


def titles(bundles: Sequence[Bundle]) -> dict[str, Bundle]:
    """A title for each bundle: its name, with the family or a number where several are called the same."""
    names = [bundle.manifest.name for bundle in bundles]
    found: dict[str, Bundle] = {}
    for name, bundle in zip(names, bundles, strict=True):
        family = "stylegan2" if bundle.manifest.diffusion is None else "diffusion"
        title = name if names.count(name) == 1 else f"{name}-{family}"
        more = (f"{title}-{number}" for number in itertools.count(2))
        found[next(t for t in itertools.chain([title], more) if t not in found)] = bundle
    return found


def with_graphs(bundles: dict[str, Bundle], graphs: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Which of the graphs each bundle has, and no bundle without one; InputError for a graph that none has."""
    known = [name for bundle in bundles.values() for name in bundle.manifest.graphs]
    for name in graphs:
        if name not in known:
            raise InputError("graph", repr(name), ", ".join(sorted(known)), nearest(name, known))
    own = {title: tuple(g for g in graphs if g in bundle.manifest.graphs) for title, bundle in bundles.items()}
    return {title: wanted for title, wanted in own.items() if wanted or not graphs}


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def about_machine() -> str:
    """Two sentences: the GPU, and what the build seconds were taken on."""
    gpus = probe_driver().gpus
    count = cores()
    load = f" with a load average of {os.getloadavg()[0]:.0f}" if hasattr(os, "getloadavg") else ""
    about = f"Builds had {count} core{'s' * (count != 1)}{load}."
    if gpus:
        return f"The GPU at hand: {gpus[0].name} ({gpus[0].target}). {about}"
    return f"No GPU was at hand: engines were compiled and never run, and no figure here comes from a GPU. {about}"


@app.command()
def main(
    bundle: Annotated[list[Path] | None, typer.Option(help="Bundles; the shipped ones if not given.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="GPU architectures.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="fp16, fp32; both if not given.")] = None,
    shapes: Annotated[list[str] | None, typer.Option(help="DIMENSION=SMALLEST:BEST:LARGEST.")] = None,
    graph: Annotated[list[str] | None, typer.Option(help="Graphs; all if not given.")] = None,
    builder: Annotated[str | None, typer.Option(help="tensorrt or tensorrt-rtx.")] = None,
    jobs: Annotated[int, typer.Option(help="Builds at a time; as many as there are cores if not given.")] = 0,
    work: Annotated[Path, typer.Option(help="Where copies of the bundles with their engines go.")] = Path(
        "out/engines"
    ),
    out: Annotated[Path, typer.Option(help="Where engines.md and engines.json go.")] = Path("docs/figures"),
) -> None:
    """Compile, survey, write the tables. Exit code 1 if a graph was refused."""
    folders = bundle or [shipped_bundle(family) for family in BUNDLES if is_shipped(family)]
    targets = tuple(name for names in target or TARGETS for name in names.split(","))
    chosen = find_builder(builder)
    built: dict[str, list[Built]] = {}
    matrix: dict[str, dict[str, str]] = {}
    reasons: dict[str, str] = {}
    for folder in (work, out):
        folder.mkdir(parents=True, exist_ok=True)
    bundles = titles([load_bundle(folder) for folder in folders])
    configs: dict[str, list[EngineConfig]] = {}
    for title, wanted in with_graphs(bundles, graph or ()).items():
        for kind in precision or ("fp16", "fp32"):
            config = EngineConfig(targets, kind, parse_shapes(shapes or ()), wanted, builder)  # type: ignore[arg-type]
            configs.setdefault(title, []).append(replace(config, cache=cache_folder() / "engines"))
    tasks = [Task(bundles[title].root, config) for title, several in configs.items() for config in several]
    fill_cache(tasks, jobs or cores(), say)
    for title, several in configs.items():
        loaded = bundles[title]
        copy = copy_bundle(loaded.root, work / title)
        own = {f"{title}, {c.precision}": compile_bundle(copy, c, say, stop_at_refusal=False) for c in several}
        rows, reasons = survey_backends(loaded, [one for found in own.values() for one in found])
        built, matrix = built | own, matrix | rows
    about = f"{chosen.name} {chosen.version}"
    report = Report(about_machine(), about, chosen.resolve_targets(targets), built, matrix, reasons)
    text = as_markdown(report)
    (out / "engines.md").write_text(text, encoding="utf-8")
    (out / "engines.json").write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    print(text)
    if report.refused:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
