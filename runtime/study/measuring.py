"""`measures` of every edit of a run: its pictures beside the samples' own and their true edits."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.errors import InputError
from limner.runtime.pictures.images import read_picture
from limner.runtime.schema import from_dict, parse_json
from limner.runtime.storage.files import read_plain, write_atomically
from limner.runtime.study.judge import JudgeGraph
from limner.runtime.study.measures import Measures, mean_measures, measure
from limner.runtime.study.rows import Row, Run
from limner.runtime.study.samples import Samples
from limner.runtime.study.scores import counted
from limner.runtime.study.tables import as_table

__all__ = ["MEASURES", "as_measure_table", "measure_run", "read_measures"]

MEASURES = "measures.jsonl"
MAX_BYTES = 1 << 28
TITLES = {
    "psnr": "to the true edit, dB", "ssim": "SSIM", "colour": "CIEDE2000", "features": "judge's features",
    "inside": "change inside", "outside": "change outside", "psnr_all": "background, all pixels, dB",
    "psnr_alone": "background alone, dB", "ssim_all": "SSIM, all", "ssim_alone": "SSIM, alone",
}  # fmt: skip
Found = dict[tuple[str, str], list[Measures]]  # method, edit


def measure_run(run: Run, samples: Samples, judge: JudgeGraph) -> Found:
    """Measure every edit of held-out pictures and write one line each beside the run's rows.

    Raises InputError for samples of another run, or without true edits.
    """
    if samples.digest != run.header.samples["sha256"]:
        given = f"{str(samples.folder)!r}, other samples than the run's"
        raise InputError("samples", given, f"those of {run.header.samples['sha256'][:12]}")
    if "real" not in run.header.parts:
        raise InputError(
            "run", f"the parts {', '.join(run.header.parts)}", "one with the part real: a true edit is known"
        )
    by_index = {sample.index: sample for sample in samples}
    found: Found = {}
    lines = []
    for method, asked in run.header.methods.items():
        for edit in asked["edits"]:
            for row in counted(run, "real", method, edit):
                if row.picture is None:
                    continue
                one = _measured(run, samples, by_index[row.index], row, judge)
                found.setdefault((method, edit), []).append(one)
                lines.append(json.dumps({"method": method, "edit": edit, "index": row.index, **asdict(one)}) + "\n")
    if run.folder is not None:
        write_atomically(run.folder / MEASURES, "".join(lines).encode(), field="run")
    return found


def read_measures(run: Run) -> Found:
    """What `measure_run` wrote beside a run's rows; nothing where it did not. InputError for lines that are none."""
    if run.folder is None or not (run.folder / MEASURES).is_file():
        return {}
    text = read_plain(run.folder / MEASURES, MEASURES, MAX_BYTES).decode("utf-8", errors="replace")
    found: Found = {}
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{MEASURES}:{number}"
        data: Any = parse_json(line, where)
        if not isinstance(data, dict) or not isinstance(data.get("index"), int):
            raise InputError(where, "no line of measures", "what `limner study measure` wrote")
        key = str(data.pop("method", "")), str(data.pop("edit", ""))
        del data["index"]
        found.setdefault(key, []).append(from_dict(Measures, data, where))
    return found


def _measured(run: Run, samples: Samples, sample: Any, row: Row, judge: JudgeGraph) -> Measures:
    places = sample.edits[row.edit].truth
    if not places:
        raise InputError("samples", "no true edits", "samples of `limner train samples --truth`")
    size = judge.size
    source = read_picture(samples.picture(sample), size).image_u8
    if run.folder is None or row.picture is None or not (run.folder / row.picture).is_file():
        raise InputError("run", f"no picture {row.picture!r}", "a run that kept its pictures")
    edited = read_picture(run.folder / row.picture, size).image_u8
    truths = [read_picture(samples.folder / place, size).image_u8 for place in places]
    features: NDArray[np.float32] = judge.run(np.stack([edited, *truths]))[1]
    return measure(source, edited, truths, list(features))


def as_measure_table(found: Mapping[tuple[str, str], Sequence[Measures]]) -> str:
    """Markdown: the mean of each figure by method, over all edits and by edit."""
    rows = []
    for method in dict.fromkeys(name for name, _ in found):
        every = [one for (name, _), several in found.items() if name == method for one in several]
        rows.append([f"**{method}**", str(len(every)), *_cells(every)])
        rows += [[edit, str(len(several)), *_cells(several)] for (name, edit), several in found.items()
                 if name == method]  # fmt: skip
    return as_table(["", "edits", *TITLES.values()], rows) + "\n"


def _cells(rows: Sequence[Measures]) -> list[str]:
    means = mean_measures(rows)
    return ["-" if (value := means[name]) is None else f"{value:.3g}" if abs(value) < 1 else f"{value:.1f}"
            for name in TITLES]  # fmt: skip
