"""What a study asks for, as a folder of data: samples.json, and the pictures that it names.

A sample is a picture whose attributes are known, a description of it, and the texts of every edit that has something
to do on it. Who makes such a folder knows the pictures (`limner train samples` makes one of drawn avatars); the study
knows only this file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limner.runtime.errors import InputError, nearest
from limner.runtime.recipe import MAX_SEED, check_text
from limner.runtime.schema import from_dict, parse_json, require_int, require_sha256
from limner.runtime.storage.files import read_plain, sha256_bytes, sha256_file

__all__ = ["SAMPLES", "Asked", "EditSpec", "Hidden", "Sample", "Samples", "SamplesFile", "load_samples"]

SAMPLES = "samples.json"
VERSION = 1
MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class EditSpec:
    """One edit: the words given to methods that take a text, and what the judge should then see."""

    name: str
    attribute: str
    value: str
    text: str
    neutral: str = "a person"
    own: dict[str, dict[str, Any]] = field(default_factory=dict)  # "METHOD" or "METHOD:PART" -> settings of this edit

    def settings(self, method: str, part: str) -> dict[str, Any]:
        """The edit's own settings of a method; what is given for a run goes before them."""
        return self.own.get(method, {}) | self.own.get(f"{method}:{part}", {})


@dataclass(frozen=True)
class Asked:
    """The texts of one edit of one sample."""

    target: str  # the description of the picture that is wanted
    concepts: tuple[str, ...] = ()  # what to go towards, or away from behind a minus
    blend: str = ""  # SOURCE:TARGET, the words of both descriptions whose place may change
    source: str = ""  # the description that concepts are put on; the sample's own if empty
    truth: tuple[str, ...] = ()  # files beside samples.json: the pictures as they are after the edit, any of them right


@dataclass(frozen=True)
class Sample:
    """One picture and what is known about it."""

    index: int
    picture: str  # file beside samples.json
    sha256: str  # of that file
    seed: int  # of a picture that is generated in its place
    words: dict[str, str]  # attribute -> value
    description: str
    edits: dict[str, Asked]  # those that have something to do here, by name


@dataclass(frozen=True)
class Hidden:
    """An attribute that cannot be seen while it has that value; an edit of `by` may hide or show it."""

    attribute: str
    value: str
    by: str


@dataclass(frozen=True)
class SamplesFile:
    """samples.json."""

    name: str
    attributes: tuple[str, ...]
    edits_version: int  # of the table of edits: texts, values and settings of their own
    edits: tuple[EditSpec, ...]
    samples: tuple[Sample, ...]
    hidden: tuple[Hidden, ...] = ()
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise InputError("samples.version", repr(self.version), str(VERSION), "update limner")
        names = [edit.name for edit in self.edits]
        if len(set(names)) < len(names):
            raise InputError("samples.edits", "a name twice", "edits of different names")
        for edit in self.edits:
            _require("samples.edits.attribute", edit.attribute, self.attributes)
        indices = [sample.index for sample in self.samples]
        if indices != sorted(set(indices)):
            raise InputError("samples.samples", "an index twice, or out of order", "indices that rise")
        for sample in self.samples:
            _check(sample, self)


@dataclass(frozen=True)
class Samples:
    """A folder of samples, checked."""

    folder: Path
    file: SamplesFile
    digest: str  # sha256 of samples.json, which holds those of the pictures

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.file.samples)

    def picture(self, sample: Sample) -> Path:
        """The sample's file; InputError if it is no longer the one that was written down."""
        path = self.folder / sample.picture
        try:
            same = sha256_file(path) == sample.sha256
        except OSError as reason:
            raise InputError("samples", f"{str(path)!r}: {reason.strerror}", "the pictures of samples.json") from reason
        if not same:
            raise InputError("samples", f"{str(path)!r}, which is another picture", "the one of samples.json")
        return path

    def edits(self, names: Mapping[str, None] | tuple[str, ...] = ()) -> tuple[EditSpec, ...]:
        """The edits of those names, all if none is given."""
        known = {edit.name: edit for edit in self.file.edits}
        for name in names:
            _require("edit", name, tuple(known))
        return tuple(edit for edit in self.file.edits if not names or edit.name in names)


def load_samples(folder: str | Path) -> Samples:
    """Read and check samples.json; InputError names what is wrong. Pictures are checked as they are used."""
    root = Path(folder)
    allowed = f"a folder with a {SAMPLES}, as `limner train samples` writes one"
    data = read_plain(root / SAMPLES, "samples", MAX_BYTES, allowed)
    return Samples(root, from_dict(SamplesFile, parse_json(data, "samples"), "samples"), sha256_bytes(data))


def _check(sample: Sample, file: SamplesFile) -> None:
    where = f"samples.samples[{sample.index}]"
    require_int(f"{where}.index", sample.index, 0, MAX_SEED)
    require_int(f"{where}.seed", sample.seed, 0, MAX_SEED)
    require_sha256(f"{where}.sha256", sample.sha256)
    path = Path(sample.picture)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise InputError(f"{where}.picture", repr(sample.picture), "a file in the folder of samples.json")
    if tuple(sample.words) != file.attributes:
        raise InputError(f"{where}.words", ", ".join(sample.words), f"one each for {', '.join(file.attributes)}")
    check_text(f"{where}.description", sample.description)
    for name, asked in sample.edits.items():
        for place in map(Path, asked.truth):
            if place.is_absolute() or ".." in place.parts or not place.name:
                raise InputError(f"{where}.edits.{name}.truth", repr(str(place)), "files in the folder of samples.json")
    for name, asked in sample.edits.items():
        _require(f"{where}.edits", name, tuple(edit.name for edit in file.edits))
        check_text(f"{where}.edits.{name}.target", asked.target)


def _require(where: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise InputError(where, repr(name), ", ".join(known), nearest(name, known))
