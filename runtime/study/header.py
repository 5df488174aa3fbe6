"""What a run is made of, as data: with the header it can be made again, and two runs of one digest are the same."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from limner.runtime.completing import completed
from limner.runtime.editor import Editor
from limner.runtime.errors import InputError
from limner.runtime.schema import to_dict
from limner.runtime.storage.files import sha256_bytes
from limner.runtime.study.judge import JudgeGraph
from limner.runtime.study.recipes import edits_of, recipe_of
from limner.runtime.study.samples import EditSpec, Samples
from limner.runtime.versions import package_version

__all__ = ["PARTS", "Header", "make_header"]

RUNTIME = Path(__file__).resolve().parents[1]
PARTS = ("prompts", "generated", "real")
VERSION = 1


@dataclass(frozen=True)
class Header:
    """run.json. `digest` is what rows are bound to."""

    samples: dict[str, Any]  # name, sha256
    edits_version: int
    edits: tuple[EditSpec, ...]
    attributes: tuple[str, ...]
    hidden: tuple[dict[str, str], ...]
    parts: tuple[str, ...]
    methods: dict[str, Any]  # name -> what was given, the edits asked, and every setting by part
    count: int  # samples an edit
    bundle: dict[str, str]  # name, family, sha256
    judge: str  # sha256 of its weights
    provider: str
    code: str  # sha256 of the runtime's Python files
    commit: str | None  # where they lie in a git repository
    limner: str | None
    version: int = field(default=VERSION)

    @property
    def digest(self) -> str:
        """sha256 of the header as JSON."""
        return sha256_bytes(json.dumps(to_dict(self), sort_keys=True).encode())

    def edit(self, name: str) -> EditSpec:
        """The edit of that name."""
        return next(edit for edit in self.edits if edit.name == name)


def make_header(
    samples: Samples,
    editor: Editor,
    judge: JudgeGraph,
    parts: Sequence[str],
    methods: Mapping[str, Mapping[str, Any]],  # name -> settings beyond the bundle's presets
    edits: tuple[EditSpec, ...],
    count: int,
) -> Header:
    """The header of a run that is about to start; InputError for settings that no recipe takes."""
    _fits(samples, judge)
    bundle, manifest = editor.bundle, editor.bundle.manifest
    return Header(
        samples={"name": samples.file.name, "sha256": samples.digest},
        edits_version=samples.file.edits_version,
        edits=edits,
        attributes=samples.file.attributes,
        hidden=tuple(to_dict(one) for one in samples.file.hidden),
        parts=tuple(parts),
        methods={name: _method(samples, editor, name, parts, given, edits) for name, given in methods.items()},
        count=count,
        bundle={"name": manifest.name, "family": manifest.family, "sha256": bundle.digest},
        judge=judge.digest,
        provider=editor.provider,
        code=code_digest(),
        commit=commit(),
        limner=package_version("limner"),
    )


def _fits(samples: Samples, judge: JudgeGraph) -> None:
    names = tuple(name for name, _ in judge.attributes)
    if names != samples.file.attributes:
        raise InputError("judge", f"one that reads {', '.join(names)}", f"one that reads {samples.file.attributes}")


def _method(
    samples: Samples, editor: Editor, name: str, parts: Sequence[str], given: Mapping[str, Any],
    edits: tuple[EditSpec, ...],
) -> dict[str, Any]:  # fmt: skip
    """What a method is asked: the edits, and its settings in each part as an edit without its own has them."""
    asked = edits_of(name, editor.bundle, edits)
    found: dict[str, Any] = {"given": dict(given), "edits": [edit.name for edit in asked], "settings": {}}
    for part in parts:
        first = _first(samples, asked)
        if part == "prompts" or first is None:
            continue
        edit, sample = first
        plain = EditSpec(edit.name, edit.attribute, edit.value, edit.text, edit.neutral)
        picture = str(samples.folder / sample.picture) if part == "real" else None
        whole = completed(editor.bundle, recipe_of(editor.bundle, name, plain, sample, picture, given))
        settings = {"parameters": vars_of(whole.parameters)}
        found["settings"][part] = settings | ({"inversion": vars_of(whole.inversion)} if picture else {})
    return found


def _first(samples: Samples, asked: tuple[EditSpec, ...]) -> Any:
    return next(((edit, sample) for sample in samples for edit in asked if edit.name in sample.edits), None)


def vars_of(settings: Any) -> dict[str, Any]:
    """All fields of settings, said or not, as JSON data."""
    return {one.name: to_dict(getattr(settings, one.name)) for one in fields(settings)}


@cache
def code_digest() -> str:
    """The sha256 of the runtime's Python files, names included."""
    root = RUNTIME
    parts = [
        f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes() for path in sorted(root.rglob("*.py"))
    ]
    return sha256_bytes(b"\n".join(parts))


@cache
def commit() -> str | None:
    """The commit of the code, or None for an installed package."""
    root = RUNTIME
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "log", "-1", "--format=%H", "--", "."], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None
