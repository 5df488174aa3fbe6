"""The edits of a study: every arm a run of its own, several in processes, gone on with where they were stopped.

STUDY/plan.json        the plan, its arms, and the sha256 of samples, judge and bundles: frozen with `digest`
STUDY/arms/ARM/        a run (`study.rows`): header, rows, pictures, each with its recipe
STUDY/made.json        when all is there: the sha256 of every arm's rows and pictures
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from limner.runtime.bundle.loading import load_bundle
from limner.runtime.bundle.shipped import shipped_bundle
from limner.runtime.editor import Editor
from limner.runtime.errors import InputError
from limner.runtime.schema import from_dict, read_json, to_dict
from limner.runtime.storage.files import sha256_bytes, sha256_file, write_atomically
from limner.runtime.study.battery import Battery
from limner.runtime.study.header import make_header
from limner.runtime.study.judge import JudgeGraph
from limner.runtime.study.measuring import MEASURES, measure_run
from limner.runtime.study.plans.plan import Arm, Plan, arms_of
from limner.runtime.study.recipes import edits_of, method_of
from limner.runtime.study.rows import ROWS, Run, open_run, read_run
from limner.runtime.study.samples import EditSpec, Samples, load_samples
from limner.runtime.study.scores import counted

__all__ = [
    "ARMS",
    "MADE",
    "PLAN",
    "Study",
    "check_made",
    "digests_of",
    "incomplete",
    "make_study",
    "open_study",
    "read_study",
]

PLAN, MADE, ARMS = "plan.json", "made.json", "arms"
LOOK_S = 15.0  # between two looks at how far the arms are


@dataclass(frozen=True)
class Study:
    """A frozen plan in its folder."""

    folder: Path
    plan: Plan
    arms: tuple[Arm, ...]
    given: dict[str, str]  # sha256 of samples, judge and each arm's bundle

    @property
    def digest(self) -> str:
        """sha256 of the plan and of what it was frozen with: which study this is."""
        return sha256_bytes(json.dumps(self._data(), sort_keys=True).encode())

    def _data(self) -> dict[str, Any]:
        return {"plan": to_dict(self.plan), "given": self.given}

    @property
    def text(self) -> bytes:
        """plan.json."""
        return (json.dumps({**self._data(), "digest": self.digest}, indent=1) + "\n").encode()

    def run_folder(self, arm: Arm) -> Path:
        """Where an arm's run lies."""
        return self.folder / ARMS / arm.folder

    def runs(self) -> list[Run]:
        """The runs of all arms."""
        return [read_run(self.run_folder(arm)) for arm in self.arms]


def open_study(folder: Path, plan: Plan, judge: Path) -> Study:
    """Freeze a plan in a folder, or find it there unchanged; InputError for a folder with another study."""
    arms = arms_of(plan)
    samples = load_samples(Path(plan.samples))
    asked = samples.edits(plan.edits)
    graph, editors = JudgeGraph(judge), {path: Editor(path, threads=1) for path in dict.fromkeys(map(_bundle_of, arms))}
    for number, arm in enumerate(arms):
        _fits(arm, number, editors[_bundle_of(arm)], samples, plan, asked, graph)
    given = {"samples": samples.digest, "judge": graph.digest}
    given |= {f"bundle of {arm.name}": editors[_bundle_of(arm)].bundle.digest for arm in arms}
    study = Study(folder, plan, arms, given)
    if (folder / PLAN).is_file():
        before = read_study(folder)
        if before.digest != study.digest:
            raise InputError("out", f"{str(folder)!r}, which holds another study ({_difference(before, study)})",
                             "a new folder: a frozen plan stays as it is")  # fmt: skip
        return study
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("out", f"{str(folder)!r}, which has other files", "a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / PLAN, study.text, field="out")
    return study


def _fits(
    arm: Arm, number: int, editor: Editor, samples: Samples, plan: Plan, asked: tuple[EditSpec, ...], judge: JudgeGraph
) -> None:
    """InputError for an arm that has nothing to do, or whose settings no recipe takes."""
    edits = edits_of(arm.method, editor.bundle, asked)
    if not edits:
        raise InputError(f"plan.arms.{number}", f"{arm.name!r}, which the bundle has no such edit for", "another arm")
    for edit in edits:
        there = sum(edit.name in sample.edits for sample in samples)
        if there < plan.count:
            raise InputError("plan.count", plan.count, f"at most {there}, the samples of the edit {edit.name!r}")
    try:
        make_header(samples, editor, judge, [plan.part], {arm.method: arm.settings}, edits, plan.count)
    except InputError as reason:
        given = f"{reason.given} in the arm {arm.name!r}"
        raise InputError(f"plan.arms.{number}: {reason.field}", given, reason.allowed, reason.hint) from reason


def _bundle_of(arm: Arm) -> str:
    return arm.bundle or str(shipped_bundle(method_of(arm.method).family))


def read_study(folder: Path) -> Study:
    """The study in a folder; InputError for what is none, or was changed by hand."""
    if not (folder / PLAN).is_file():
        raise InputError("study", f"{str(folder)!r}, which has no {PLAN}", "the folder of `limner study make`")
    data: Any = read_json(folder / PLAN, PLAN)
    if not isinstance(data, dict) or set(data) != {"plan", "given", "digest"}:
        raise InputError(PLAN, "other keys", "plan, given, digest")
    plan = from_dict(Plan, data["plan"], PLAN)
    study = Study(folder, plan, arms_of(plan), {str(key): str(value) for key, value in dict(data["given"]).items()})
    if study.digest != data["digest"]:
        raise InputError(PLAN, "a plan that was changed after it was frozen", f"the plan {str(data['digest'])[:12]}")
    return study


def _difference(before: Study, now: Study) -> str:
    one, other = to_dict(before.plan), to_dict(now.plan)
    names = [name for name in other if one.get(name) != other[name]]
    names += [key for key in now.given if before.given.get(key) != now.given[key]]
    return f"another {' and another '.join(names)}" if names else "other keys"


# --- making -----------------------------------------------------------------------------------------------

Job = tuple[str, int, str, str, int]  # the study's folder, which arm, judge, provider, threads


def make_study(study: Study, judge: Path, provider: str, threads: int, processes: int) -> Study:
    """Make every edit that is lacking, then write down what there is. Raises what an arm raises, the rest kept."""
    if (study.folder / MADE).is_file():
        check_made(study)
        return study
    jobs: list[Job] = [(str(study.folder), k, str(judge), provider, threads) for k in range(len(study.arms))]
    begin, asked = time.monotonic(), _asked(study)
    done = _done(study, asked)
    with multiprocessing.get_context("spawn").Pool(min(processes, len(jobs))) as pool:
        found = pool.map_async(_make_arm, jobs, chunksize=1)
        while not found.ready():
            found.wait(LOOK_S)
            _say(study, asked, done, begin)
        found.get()
    _say(study, asked, done, begin)
    made = {arm.name: digests_of(study.run_folder(arm)) for arm in study.arms}
    write_atomically(study.folder / MADE, (json.dumps({"study": study.digest, "arms": made}, indent=1) + "\n").encode())
    return study


def _make_arm(job: Job) -> None:
    study, number, judge = read_study(Path(job[0])), job[1], JudgeGraph(job[2])
    arm, plan = study.arms[number], study.plan
    samples = load_samples(Path(plan.samples))
    editor = Editor(_bundle_of(arm), job[3], job[4])
    edits = edits_of(arm.method, editor.bundle, samples.edits(plan.edits))
    header = make_header(samples, editor, judge, [plan.part], {arm.method: arm.settings}, edits, plan.count)
    with contextlib.redirect_stderr(io.StringIO()):  # the parent says how far all arms are
        run = open_run(study.run_folder(arm), header)
        Battery(editor, judge, samples, run)()
    if _measurable(plan, samples) and not (study.run_folder(arm) / MEASURES).is_file():
        measure_run(run, samples, judge)


def _measurable(plan: Plan, samples: Samples) -> bool:
    """Whether the true edits are drawn, and what measures them is installed."""
    drawn = plan.part == "real" and all(asked.truth for sample in samples for asked in sample.edits.values())
    return drawn and find_spec("skimage") is not None


def _done(study: Study, asked: Sequence[int]) -> int:
    """Edits that there are; an arm has more rows than edits where sources had the attribute already."""
    found = 0
    for arm, most in zip(study.arms, asked, strict=True):
        rows = study.run_folder(arm) / ROWS
        found += min(most, rows.read_bytes().count(b"\n")) if rows.is_file() else 0
    return found


def _say(study: Study, asked: Sequence[int], before: int, begin: float) -> None:
    done, took, whole = _done(study, asked), time.monotonic() - begin, sum(asked)
    rate = (done - before) / took if took > 0 else 0.0
    left = f", about {(whole - done) / rate / 60:.0f} min left" if rate > 0 and done < whole else ""
    print(f"{study.plan.name}: {done} of {whole} edits{left}", file=sys.stderr, flush=True)


def _asked(study: Study) -> list[int]:
    """Edits of each arm."""
    samples = load_samples(Path(study.plan.samples)).edits(study.plan.edits)
    bundles = {path: load_bundle(path, verify_hashes=False) for path in set(map(_bundle_of, study.arms))}
    return [study.plan.count * len(edits_of(arm.method, bundles[_bundle_of(arm)], samples)) for arm in study.arms]


def digests_of(folder: Path) -> dict[str, str]:
    """Of a run: sha256 of the rows, and of all pictures' sha256 in the order of their names."""
    pictures = sorted(path for path in (folder / "pictures").rglob("*.png"))
    lines = [f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n" for path in pictures]
    return {"rows": sha256_file(folder / ROWS), "pictures": sha256_bytes("".join(lines).encode())}


def check_made(study: Study) -> None:
    """InputError naming the arm whose rows or pictures are not those that were made."""
    path = study.folder / MADE
    if not path.is_file():
        raise InputError("study", f"{str(study.folder)!r}, whose edits are not all made", "`limner study make` first")
    data: Any = read_json(path, MADE)
    for arm in study.arms:
        known = data.get("arms", {}).get(arm.name) if isinstance(data, dict) else None
        if data.get("study") != study.digest or known is None:
            raise InputError(MADE, "what another study made", f"that of {study.digest[:12]}")
        now = digests_of(study.run_folder(arm))
        changed = [name for name in known if known[name] != now.get(name)]
        if changed:
            raise InputError("study", f"other {' and '.join(changed)} of {arm.name!r} than were made",
                             "the study as it was made")  # fmt: skip


def incomplete(study: Study) -> list[str]:
    """Arms and edits with fewer rows than were asked: samples whose source had the attribute already ran out."""
    found = []
    for arm, run in zip(study.arms, study.runs(), strict=True):
        for edit in run.header.methods[arm.method]["edits"]:
            there = len(counted(run, study.plan.part, arm.method, edit))
            if there < study.plan.count:
                found.append(f"{arm.name}, {edit}: {there} of {study.plan.count}")
    return found
