"""Is a graph of lower precision good enough? Its outputs beside those of the fp32 graph, and the battery's success."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from limner.export.precision.samples import Arrays, Samples
from limner.export.report.parity import open_session
from limner.runtime.bundle.loading import Bundle
from limner.runtime.bundle.parts import ParityMeta
from limner.runtime.editor import Editor
from limner.runtime.storage.folders import scratch
from limner.runtime.study.battery import Battery
from limner.runtime.study.header import make_header
from limner.runtime.study.judge import JudgeGraph
from limner.runtime.study.rows import open_run
from limner.runtime.study.samples import load_samples
from limner.runtime.study.scores import score

METHODS = {"stylegan2": ("real", ("global-directions",)), "diffusion": ("generated", ("prompt-to-prompt", "sega"))}
SEARCH = 20, 4  # avatars that are drawn: so many, and so many for each sample an edit
BATTERY_POINTS = 2.0  # of success that an edit may lose, in percent of the pictures

# Relative error allowed of an output over all cases. fp16 rounds to 5e-4 and errors of some twenty layers add up; a
# gradient passes twice as many, and kinks of leaky ReLUs besides. int8: where the battery was seen to hold.
TOLERANCES: dict[str, dict[str, float]] = {
    "fp32": {"": 1e-5, "gradient": 1e-3},  # sums in another order; a gradient's kinks scatter, see `parity`
    "fp16": {"": 5e-3, "gradient": 5e-2},
    "int8": {"": 6e-2},
}


@dataclass(frozen=True)
class Quality:
    """One graph: what it became, how far it is from fp32, and how long both take on this CPU."""

    graph: str
    precision: str  # what it became: "fp32" where the gate refused
    errors: dict[str, float] = field(default_factory=dict)  # output -> relative error over all cases
    refused: dict[str, float] = field(default_factory=dict)  # errors of what the gate refused
    kept: int = 0  # nodes that stay fp32
    nodes: int = 0  # that compute in floating point
    megabytes: tuple[float, float] = (0.0, 0.0)  # of the weights: before, after
    milliseconds: tuple[float, float] = (0.0, 0.0)  # batch 1, one thread: before, after
    note: str = ""


def tolerance(precision: str, output: str) -> float:
    """The relative error that an output may have."""
    table = TOLERANCES[precision]
    return table.get(output, table[""])


def errors(bundle: Bundle, graph: str, path: Path, samples: Samples, batches: Sequence[int]) -> dict[str, float]:
    """||a - b|| / ||b|| of every output over all cases, a from the graph at `path` and b from the bundle's."""
    session, names = open_session(path), [tensor.name for tensor in bundle.graph(graph).outputs]
    difference, length = np.zeros(len(names)), np.zeros(len(names))
    for batch in batches:
        feed = samples(graph, batch)
        expected = samples.sessions.run(graph, only=None, **feed)
        for index, (name, found) in enumerate(zip(names, session.run(names, feed), strict=True)):
            wanted = expected[name].astype(np.float64)
            difference[index] += np.square(found.astype(np.float64) - wanted).sum()
            length[index] += np.square(wanted).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(difference == 0, 0.0, np.sqrt(difference / length))
    return {name: float(error) for name, error in zip(names, found, strict=True)}


def passes(precision: str, found: Mapping[str, float]) -> bool:
    """True if every output is within its tolerance; NaN is not."""
    return all(error <= tolerance(precision, name) for name, error in found.items())


def parity_of(quality: Quality, cases: int) -> ParityMeta:
    """The entry of bundle.json: errors against the fp32 graph."""
    limits = [tolerance(quality.precision, name) for name in quality.errors]
    return ParityMeta(max(quality.errors.values()), max(limits), cases, quality.errors)


def time_pair(before: Path, after: Path, feed: Arrays, repeats: int = 9) -> tuple[float, float]:
    """Milliseconds of both graphs on the same inputs, in turns; medians."""
    sessions = [open_session(path) for path in (before, after)]
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 2):
        for session, found in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, feed)
            if repeat >= 2:
                found.append(1000 * (time.perf_counter() - start))
    return median(times[0]), median(times[1])


def battery(bundle: Bundle, judge: Path, samples: Path | None, count: int) -> dict[str, float]:
    """Success of each edit by each of the family's METHODS in percent, on `count` samples an edit.

    Without a folder of samples they are validation avatars: what decides is not what figures are taken from.
    """
    part, methods = METHODS[bundle.manifest.family]
    with scratch("limner-battery-") as folder:
        loaded = load_samples(samples or _validation(folder / "samples", count))
        editor, found = Editor(bundle), JudgeGraph(judge)
        header = make_header(loaded, editor, found, (part,), {name: {} for name in methods}, loaded.edits(), count)
        run = open_run(None, header)
        Battery(editor, found, loaded, run)()
    scores = {(name, edit.name): score(run, part, name, edit.name) for name in methods for edit in header.edits}
    return {f"{name}: {edit}": 100 * one.success / max(1, one.tried) for (name, edit), one in scores.items()}


def _validation(folder: Path, count: int) -> Path:
    from limner.training.avatars.held_out import write_samples

    return write_samples(folder, "validation", SEARCH[0] + SEARCH[1] * count)
