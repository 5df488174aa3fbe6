"""How like a drawing the pictures of a study's run are: `limner train realism RUN`. Found once, kept beside the rows.

Distances lie in RUN/distances.json, so that a run that was stopped goes on; rows.jsonl gets them at the end, whole.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from limner.runtime.errors import InputError
from limner.runtime.pictures.images import read_picture
from limner.runtime.schema import read_json
from limner.runtime.storage.files import sha256_file, write_atomically
from limner.runtime.study.rows import ROWS, Run, as_line, read_run
from limner.training.avatars.attributes import STYLES
from limner.training.avatars.nearest import nearest
from limner.training.loop.progress import track
from limner.training.models.reader import Reader
from limner.training.models.store import load_model

DISTANCES = "distances.json"
AT_ONCE = 20  # pictures of a job
Job = tuple[str, tuple[str, ...], str]  # the reader's folder, pictures, style


def measure_run(folder: Path, reader: Path, style: str = "avataaars", workers: int | None = None) -> Run:
    """Find what is lacking, write the rows with it, and return the run.

    Raises InputError for pictures that are gone, or a model that is no second judge.
    """
    run = read_run(folder)
    load_reader(reader)
    if style not in STYLES:
        raise InputError("style", repr(style), ", ".join(STYLES))
    digest, path = sha256_file(reader / "model.safetensors"), folder / DISTANCES
    known: dict[str, Any] = read_json(path, DISTANCES) if path.is_file() else {}
    found: dict[str, float] = known.get("distances", {}) if known.get("reader") == digest else {}
    rows = list(run.rows.values())
    wanted = dict.fromkeys(one for row in rows for one in (row.picture, row.source, row.plain) if one is not None)
    lost = next((one for one in wanted if one not in found and not (folder / one).is_file()), None)
    if lost is not None:
        raise InputError("run", f"no picture {lost!r}", "a run that kept its pictures")
    todo = [one for one in wanted if one not in found]
    parts = [tuple(todo[first : first + AT_ONCE]) for first in range(0, len(todo), AT_ONCE)]
    jobs: list[Job] = [(str(reader), tuple(str(folder / one) for one in part), style) for part in parts]
    for part, distances in zip(parts, track(_measured(jobs, workers), "distances", len(jobs)), strict=True):
        found |= dict(zip(part, distances, strict=True))
        write_atomically(path, json.dumps({"reader": digest, "distances": found}).encode(), field="run")
    measured = [
        replace(row, distance=_of(found, row.picture), distance_before=_of(found, row.source or row.plain))
        for row in rows
    ]
    write_atomically(folder / ROWS, "".join(map(as_line, measured)).encode(), field="run")
    return read_run(folder)


def load_reader(folder: Path) -> Reader:
    """The second judge of a folder; InputError for another model."""
    model = load_model(folder)
    if not isinstance(model, Reader):
        raise InputError(
            "reader", f"{str(folder)!r}, which holds no second judge", "the folder of `limner train reader`"
        )
    return model.eval()


def _of(found: dict[str, float], place: str | None) -> float | None:
    return None if place is None else found[place]


def _measured(jobs: Sequence[Job], workers: int | None) -> Iterator[list[float]]:
    count = min(workers or len(os.sched_getaffinity(0)), len(jobs))
    if count < 2:
        yield from map(_distances, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(count) as pool:
        yield from pool.imap(_distances, jobs)


def _distances(job: Job) -> list[float]:
    torch.set_num_threads(1)
    reader = load_reader(Path(job[0]))
    size = reader.config.image_size
    pictures: list[np.ndarray] = [read_picture(one, size).image_u8 for one in job[1]]
    return [round(one.distance, 4) for one in nearest(reader, STYLES[job[2]], pictures)]
