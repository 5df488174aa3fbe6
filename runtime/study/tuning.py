"""Settings of a method chosen on validation pictures, whose samples and noise the figures never see.

Axes are walked one after the other from each start: the best value of each is kept for the next. Better is more
success, then more of the other attributes kept. Every trial is a run of its own in the folder, so that a stopped
tuning goes on; presets.json there has the winner as a bundle's presets.
"""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limner.runtime.editor import Editor
from limner.runtime.errors import InputError
from limner.runtime.schema import read_value
from limner.runtime.storage.files import write_atomically
from limner.runtime.study.battery import Battery
from limner.runtime.study.header import Header, make_header
from limner.runtime.study.judge import JudgeGraph
from limner.runtime.study.recipes import INVERSION, method_of
from limner.runtime.study.rows import open_run
from limner.runtime.study.samples import EditSpec, Samples
from limner.runtime.study.tables import summary

__all__ = ["Axes", "Trials", "parse_axes", "parse_start", "presets"]

Axes = Mapping[str, Sequence[Any]]


@dataclass
class Trials:
    """The battery of one method and part at many settings."""

    editor: Editor
    judge: JudgeGraph
    samples: Samples
    method: str
    part: str
    edits: tuple[EditSpec, ...]
    count: int
    out: Path | None = None
    found: dict[str, dict[str, Any]] = field(default_factory=dict)  # settings as JSON -> figures

    def __call__(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The figures at these settings, measured once."""
        key = json.dumps(settings, sort_keys=True)
        if key not in self.found:
            header = self.header(settings)
            place = f"{self.part}-{self.method}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
            run = open_run(None if self.out is None else self.out / place, header)
            Battery(self.editor, self.judge, self.samples, run)()
            self.found[key] = {"settings": dict(settings), **summary(run, self.part, self.method)}
            print(json.dumps(self.found[key]), file=sys.stderr, flush=True)
        return self.found[key]

    def header(self, settings: Mapping[str, Any]) -> Header:
        """The header of a trial; InputError for settings that the method does not take."""
        methods = {self.method: settings}
        return make_header(self.samples, self.editor, self.judge, (self.part,), methods, self.edits, self.count)

    def check(self, start: Mapping[str, Any], axes: Axes) -> None:
        """InputError for a value that the method does not take, before the first trial runs."""
        self.header(start)
        for name, values in axes.items():
            for value in values:
                self.header({**start, name: value})

    def walk(self, start: Mapping[str, Any], axes: Axes) -> dict[str, Any]:
        """The best settings along the axes."""
        best = self(dict(start))
        for name, values in axes.items():
            tried = [best, *(self({**best["settings"], name: value}) for value in values)]
            best = max(tried, key=rank)
        return best

    @property
    def ranked(self) -> list[dict[str, Any]]:
        """All trials, the best first."""
        return sorted(self.found.values(), key=rank, reverse=True)

    def write(self) -> None:
        """presets.json of the best trial, if there is a folder."""
        if self.out is not None:
            found = presets(self.method, self.part, self.ranked[0]["settings"])
            write_atomically(self.out / "presets.json", (json.dumps(found, indent=1) + "\n").encode(), field="out")


def rank(one: Mapping[str, Any]) -> tuple[float, float]:
    """What trials are compared by."""
    return one["success"], one["kept"]


def presets(name: str, part: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as the presets of a bundle."""
    method = method_of(name)
    described = method.family == "diffusion"
    section = f"{method.name}.pictures" if described and part == "real" else method.name
    parameters = {key: value for key, value in settings.items() if not key.startswith(INVERSION)}
    inversion = {key[len(INVERSION) :]: value for key, value in settings.items() if key.startswith(INVERSION)}
    found = {section: parameters, f"{method.name}.inversion" if described else "inversion": inversion}
    return {"defaults": {key: values for key, values in found.items() if values}}


def parse_axes(given: Sequence[str]) -> dict[str, list[Any]]:
    """["scale=4,7"] -> {"scale": [4, 7]}; InputError for what is not NAME=VALUE,VALUE."""
    found: dict[str, list[Any]] = {}
    for item in given:
        name, sign, values = (part.strip() for part in item.partition("="))
        if not sign or not name or not all(value.strip() for value in values.split(",")):
            raise InputError("axis", repr(item), "NAME=VALUE,VALUE, as in scale=4,7")
        found[name] = [read_value(value.strip(), "axis") for value in values.split(",")]
    return found


def parse_start(given: str) -> dict[str, Any]:
    """ "space=s,steps=20" -> {"space": "s", "steps": 20}; InputError for what is not NAME=VALUE,NAME=VALUE."""
    found: dict[str, Any] = {}
    for item in given.split(","):
        name, sign, value = (part.strip() for part in item.partition("="))
        if not sign or not name or not value:
            raise InputError("start", repr(item), "NAME=VALUE,NAME=VALUE, as in space=s,steps=20")
        found[name] = read_value(value, "start")
    return found
