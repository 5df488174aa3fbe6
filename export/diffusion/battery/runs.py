"""The three parts of the battery, picture by picture: all edits of a picture go through the methods together.

- prompts: pictures made from full descriptions; which of the described attributes the judge sees
- generated: edits of such pictures; "the others" are what the judge reads in the source
- real: edits of held-out renders; "the others" are the renderer's record
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limner.export.battery import KEPT_SHARE, BatteryEdit, Judging, others_kept
from limner.export.diffusion.battery.methods import LOCAL, Settings, battery_recipe
from limner.export.diffusion.battery.rows import Row, Rows
from limner.export.diffusion.battery.words import DESCRIBED, describe
from limner.runtime.completing import completed, idle_settings, without_idle
from limner.runtime.edit import Edit
from limner.runtime.editor import Editor
from limner.runtime.pictures.images import to_float, write_png_atomically
from limner.runtime.pictures.sheets import Cell, SheetRow, make_sheet
from limner.training.avatars.attributes import AVATAAARS, sample_in_split
from limner.training.avatars.render import render

ImageU8 = NDArray[np.uint8]
PARTS = ("prompts", "generated", "real")
FIRST_SEED = {"test": 0, "validation": 1_000_000}  # of generated pictures: the splits share no noise
BATCH = 10  # pictures of the part prompts made at once
TOGETHER = 32  # edits of one picture, at most
SEARCH = 20, 4  # pictures that are looked at: so many, and so many for each that is wanted


@dataclass(frozen=True)
class Battery:
    """What the parts share."""

    editor: Editor
    judge: Judging
    split: str
    rows: Rows
    edits: tuple[BatteryEdit, ...]
    settings: Mapping[str, Settings] = field(default_factory=dict)  # method -> beyond the bundle's presets
    sheets: tuple[Path | None, int] = (None, 0)  # folder, and of how many pictures a sheet is drawn

    def words(self, index: int) -> dict[str, str]:
        """The renderer's record of a held-out avatar."""
        return sample_in_split(AVATAAARS, self.split, index, 0).attributes(AVATAAARS)

    def picture(self, index: int) -> ImageU8:
        """Its picture, at the bundle's size."""
        return render(AVATAAARS, sample_in_split(AVATAAARS, self.split, index, 0), self.editor.bundle.image_size)

    def seed(self, index: int) -> int:
        """The seed of the picture that is generated from its description."""
        return FIRST_SEED[self.split] + index

    def prompts(self, count: int) -> None:
        """Judge `count` pictures made from descriptions."""
        todo = [i for i in range(count) if not any(("prompts", "", name, i) in self.rows.found for name in DESCRIBED)]
        for first in range(0, len(todo), BATCH):
            part = todo[first : first + BATCH]
            made = self.editor.generate([describe(self.words(i)) for i in part], [self.seed(i) for i in part])
            for index, read in zip(part, self.judge(_stacked([one.image for one in made])), strict=True):
                words = self.words(index)
                asked = [name for name in DESCRIBED if words[name] != "hidden"]
                self.rows.add(Row("prompts", "", name, index, read[name] == words[name]) for name in asked)
            _say(f"prompts: {min(first + BATCH, len(todo))} of {len(todo)} pictures")

    def edit_pictures(self, part: str, methods: Sequence[str], count: int) -> None:
        """Judge every edit by every method on `count` pictures, "generated" or "real"."""
        begin = time.perf_counter()
        for index in range(SEARCH[0] + SEARCH[1] * count):
            left = {name: self._wanted(part, name, index, count) for name in methods}
            if not any(left.values()):
                if not any(self._lacking(part, name, count) for name in methods):
                    return
                continue
            for name, edits in left.items():
                if edits:
                    self.rows.add(self._judged(part, name, index, edits))
            done = sum(len(self.rows.of(part, name, edit.name)) for name in methods for edit in self.edits)
            total = len(methods) * len(self.edits) * count
            _say(f"{part}: picture {index}, {done} of {total} edits, {time.perf_counter() - begin:.0f} s")

    def _lacking(self, part: str, name: str, count: int) -> list[BatteryEdit]:
        return [edit for edit in self.edits if len(self.rows.of(part, name, edit.name)) < count]

    def _wanted(self, part: str, name: str, index: int, count: int) -> list[BatteryEdit]:
        """The edits that lack pictures, are not done on this one and have something to do on it."""
        words = self.words(index)
        return [
            edit
            for edit in self._lacking(part, name, count)
            if (part, name, edit.name, index) not in self.rows.found and has_room(edit, words)
        ]

    def _judged(self, part: str, name: str, index: int, edits: Sequence[BatteryEdit]) -> Iterator[Row]:
        """Run and judge edits of one picture."""
        words, real = self.words(index), part == "real"
        seed = None if real else self.seed(index)
        recipes = [battery_recipe(name, edit, words, seed, self.settings.get(name, {})) for edit in edits]
        bundle = self.editor.bundle
        # settings are given for prompts and pictures alike: what has no say here is left out
        recipes = [without_idle(recipe, idle_settings(completed(bundle, recipe))) for recipe in recipes]
        given = [self.picture(index) if real else None for _ in recipes]
        done = self.editor.edit_batch(recipes, given=given, batch=TOGETHER)
        read = self.judge(_stacked([*(one.reconstruction for one in done), *(one.image for one in done)]))
        sources, after = [words] * len(done) if real else read[: len(done)], read[len(done) :]
        if index < self.sheets[1]:
            self._draw(part, name, index, edits, done)
        for edit, one, before, found in zip(edits, done, sources, after, strict=True):
            kept, seen = others_kept(edit, before, found), found[edit.attribute] == edit.value
            outside, masked = outside_mask(one) if name == LOCAL else (None, None)
            yield Row(
                part, name, edit.name, index, seen and kept >= KEPT_SHARE, seen, kept, has_room(edit, before),
                tuple(key for key in before if key != edit.attribute and before[key] != found[key]),
                psnr(one) if real else None, outside, masked,
            )  # fmt: skip

    def _draw(self, part: str, name: str, index: int, edits: Sequence[BatteryEdit], done: Sequence[Edit]) -> None:
        folder = self.sheets[0]
        if folder is None:
            return
        cells = tuple(Cell(one.image, edit.name) for edit, one in zip(edits, done, strict=True))
        row = SheetRow(Cell(done[0].source, describe(self.words(index))), cells, name)
        write_png_atomically(folder / f"{part}-{name}-{index}.png", make_sheet([row], cell=128))


def has_room(edit: BatteryEdit, words: Mapping[str, str]) -> bool:
    """Whether the edit has something to do on a picture with these attributes, and somewhere to do it."""
    visible = edit.attribute != "hair_color" or words["hair_color"] != "hidden"
    return words[edit.attribute] != edit.value and visible


def outside_mask(edit: Edit) -> tuple[float | None, float]:
    """Mean change outside a local edit's mask, of 255 (None if the mask is everything); part of the picture in it."""
    mask = edit.pictures["mask"][..., 0] > 0
    change = np.abs(edit.image.astype(np.float64) - edit.reconstruction).mean(-1)
    return (None if mask.all() else float(change[~mask].mean())), float(mask.mean())


def psnr(edit: Edit) -> float:
    """Of the reconstruction against the picture, dB."""
    error = float(np.mean((edit.reconstruction.astype(np.float64) - edit.source) ** 2))
    return 99.0 if error == 0.0 else 10 * float(np.log10(255**2 / error))


def _stacked(images: Sequence[ImageU8]) -> NDArray[np.float32]:
    return to_float(np.stack(images))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
