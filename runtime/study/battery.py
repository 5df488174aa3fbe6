"""The battery: does an edit by words do what it says, and nothing else? The walk over samples, methods and edits.

Three parts, each on an `Editor` and nothing below it:

- real: edits of the samples' pictures; "the others" are what is known of a sample
- generated: edits of pictures that the bundle makes, of a description or of a seed; "the others" are what the judge
  reads in the source
- prompts: pictures made from descriptions (diffusion bundles), with no edit

All edits of a picture go through a method together. A picture is written before its row, so that a run that was stopped
or killed goes on behind the last row.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.edit import Edit
from limner.runtime.editor import Editor
from limner.runtime.errors import InputError, LimnerError
from limner.runtime.pictures.images import write_png_atomically
from limner.runtime.pictures.sheets import Cell, SheetRow, make_sheet
from limner.runtime.provenance import write_edit
from limner.runtime.study.header import Header
from limner.runtime.study.judge import JudgeGraph
from limner.runtime.study.recipes import recipe_of
from limner.runtime.study.rows import PICTURES, Row, Run
from limner.runtime.study.samples import EditSpec, Sample, Samples
from limner.runtime.study.scores import counted

__all__ = ["Battery"]

ImageU8 = NDArray[np.uint8]
BATCH = 10  # pictures of the part prompts made at once
TOGETHER = 32  # edits of one picture, at most


@dataclass(frozen=True)
class Battery:
    """One run: what is edited, by what, and who judges it."""

    editor: Editor
    judge: JudgeGraph
    samples: Samples
    run: Run
    sheets: int = 0  # of how many samples a sheet of all edits is drawn

    @property
    def header(self) -> Header:
        """What is asked."""
        return self.run.header

    def __call__(self) -> None:
        """Everything that the header asks for and that is not there."""
        for part in self.header.parts:
            self.prompts() if part == "prompts" else self.edits(part)

    def prompts(self) -> None:
        """Pictures of the first `count` descriptions."""
        if self.editor.bundle.manifest.family != "diffusion":
            raise InputError("part", "'prompts'", "generated or real for a bundle that reads no descriptions")
        asked = list(self.samples)[: self.header.count]
        todo = [sample for sample in asked if ("prompts", "", "", sample.index) not in self.run.rows]
        for first in range(0, len(todo), BATCH):
            part = todo[first : first + BATCH]
            made = self.editor.generate([one.description for one in part], [one.seed for one in part])
            read = self.judge.words(np.stack([one.image for one in made]))
            for sample, one, words in zip(part, made, read, strict=True):
                place = self._kept(one.image, "prompts", "", "", sample.index)
                row = Row(self.run.short, "prompts", "", "", sample.index, place, before=self._values(sample.words),
                          after=self._values(words))  # fmt: skip
                self.run.add([row])
            _say(f"prompts: {min(first + BATCH, len(todo))} of {len(todo)} pictures")

    def edits(self, part: str) -> None:
        """Every edit by every method on `count` pictures that have something to do for it."""
        begin = time.perf_counter()
        every = [(name, edit.name) for name in self.header.methods for edit in self._asked(name)]
        asked = len(every) * self.header.count
        for sample in self.samples:
            left = {name: self._left(part, name, sample) for name in self.header.methods}
            for name, edits in left.items():
                if edits:
                    self.run.add(self._rows(part, name, sample, edits))
            lacking = sum(self._lacking(part, *one) for one in every)
            if any(left.values()):
                done, seconds = asked - lacking, time.perf_counter() - begin
                _say(f"{part}: sample {sample.index}, {done} of {asked} edits, {seconds:.0f} s")
            if not lacking:
                return

    def _asked(self, name: str) -> list[EditSpec]:
        return [self.header.edit(edit) for edit in self.header.methods[name]["edits"]]

    def _lacking(self, part: str, name: str, edit: str) -> int:
        """How many samples an edit still lacks: one whose source has the attribute already is replaced by another."""
        return self.header.count - len(counted(self.run, part, name, edit))

    def _left(self, part: str, name: str, sample: Sample) -> list[EditSpec]:
        """The edits that lack samples, are not done on this one and have something to do on it."""
        return [
            edit
            for edit in self._asked(name)
            if edit.name in sample.edits
            and (part, name, edit.name, sample.index) not in self.run.rows
            and self._lacking(part, name, edit.name) > 0
        ]

    def _rows(self, part: str, name: str, sample: Sample, edits: Sequence[EditSpec]) -> list[Row]:
        """Run and judge edits of one picture; where they fail together, each alone, so that one takes none along."""
        try:
            return self._judged(part, name, sample, edits)
        except (LimnerError, InputError) as reason:
            if len(edits) > 1:
                return [row for edit in edits for row in self._rows(part, name, sample, [edit])]
            _say(f"{part}: sample {sample.index}, {name}, {edits[0].name}: {reason}")
            return [Row(self.run.short, part, name, edits[0].name, sample.index, error=str(reason))]

    def _judged(self, part: str, name: str, sample: Sample, edits: Sequence[EditSpec]) -> list[Row]:
        real = part == "real"
        picture = str(self.samples.picture(sample)) if real else None
        given: dict[str, Any] = self.header.methods[name]["given"]
        recipes = [recipe_of(self.editor.bundle, name, edit, sample, picture, given) for edit in edits]
        done = self.editor.edit_batch(recipes, batch=TOGETHER)
        read = self.judge.words(np.stack([*(one.reconstruction for one in done), *(one.image for one in done)]))
        before = [sample.words] * len(done) if real else read[: len(done)]
        if sample.index < self.sheets:
            self._draw(part, name, sample, edits, done)
        rows = []
        for edit, one, seen, words in zip(edits, done, before, read[len(done) :], strict=True):
            outside, masked = outside_mask(one)
            before_it = (one.reconstruction, part, name, edit.name, sample.index)
            source, unedited = (None, self._plain(*before_it)) if real else (self._kept(*before_it, "-source"), None)
            place = self._kept(one, part, name, edit.name, sample.index)
            rows.append(
                Row(self.run.short, part, name, edit.name, sample.index, place, source, unedited, self._values(seen),
                    self._values(words), _rounded(one.scores.get("identity")), psnr(one) if real else None, outside,
                    masked)
            )  # fmt: skip
        return rows

    def _values(self, words: dict[str, str]) -> tuple[str, ...]:
        return tuple(words[name] for name in self.header.attributes)

    def _kept(
        self, what: Edit | ImageU8, part: str, name: str, edit: str, index: int, more: str = ""
    ) -> str | None:  # fmt: skip
        """Write a picture into the run's folder; its name there."""
        if self.run.folder is None:
            return None
        words = "-".join(text for text in (part, name, edit.replace(" ", "_")) if text)
        place = Path(PICTURES) / words / f"{index}{more}.png"
        path = self.run.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(what, Edit):
            write_edit(path, what)
        else:
            write_png_atomically(path, what)
        return place.as_posix()

    def _plain(self, picture: ImageU8, part: str, name: str, edit: str, index: int) -> str | None:
        """The picture of a sample without an edit: one for all edits that a method makes of it in the same way."""
        place = Path(PICTURES) / f"{part}-{name}-unedited" / f"{index}.png"
        if self.run.folder is not None and (self.run.folder / place).is_file():
            return place.as_posix()
        return self._kept(picture, part, name, "unedited", index)

    def _draw(self, part: str, name: str, sample: Sample, edits: Sequence[EditSpec], done: Sequence[Edit]) -> None:
        if self.run.folder is None:
            return
        cells = tuple(Cell(one.image, edit.name) for edit, one in zip(edits, done, strict=True))
        row = SheetRow(Cell(done[0].reconstruction, sample.description), cells, name)
        write_png_atomically(self.run.folder / f"{part}-{name}-{sample.index}.png", make_sheet([row], cell=128))


def outside_mask(edit: Edit) -> tuple[float | None, float | None]:
    """Of a local edit: mean change outside its mask, of 255 (None if that is everything), and the part inside."""
    if "mask" not in edit.pictures:
        return None, None
    mask = edit.pictures["mask"][..., 0] > 0
    change = np.abs(edit.image.astype(np.float64) - edit.reconstruction).mean(-1)
    return (None if mask.all() else _rounded(float(change[~mask].mean()))), _rounded(float(mask.mean()))


def psnr(edit: Edit) -> float:
    """Of the reconstruction against the picture, dB; 99 where they are equal."""
    error = float(np.mean((edit.reconstruction.astype(np.float64) - edit.source) ** 2))
    return 99.0 if error == 0.0 else round(10 * float(np.log10(255**2 / error)), 3)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
