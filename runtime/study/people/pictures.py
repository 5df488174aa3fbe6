"""The pictures of a page, as PNG of pixels alone: neither method, recipe nor file name goes with them."""

import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limner.runtime.errors import InputError
from limner.runtime.pictures.images import read_photo
from limner.runtime.study.people.dealing import RUINED, UNTOUCHED, Page
from limner.runtime.study.people.questions import WORDS
from limner.runtime.study.plans.making import Study
from limner.runtime.study.rows import Row, Run
from limner.runtime.study.samples import Samples

__all__ = ["Pictures", "ruined"]

ImageU8 = NDArray[np.uint8]
TILES = 8  # on a side, of a ruined picture


@dataclass(frozen=True)
class Pictures:
    """A study's pictures, by what a page shows."""

    study: Study
    samples: Samples

    @cached_property
    def _runs(self) -> dict[str, tuple[Run, dict[tuple[str, int], Row]]]:
        """Arm -> its run and its rows by (edit, sample)."""
        return {
            arm.name: (run, {(row.edit, row.index): row for row in run.rows.values()})
            for arm, run in zip(self.study.arms, self.study.runs(), strict=True)
        }

    def seen(self, page: Page) -> dict[str, object]:
        """What a rater is told of a page: words, and the names of its pictures."""
        text = next(edit.text for edit in self.samples.file.edits if edit.name == page.edit)
        words = {name: value.format(text=text) for name, value in WORDS[page.question].items()}
        return {"question": page.question, "words": words, "pictures": self.names(page)}

    @staticmethod
    def names(page: Page) -> list[str]:
        """before and after of each column, or one picture alone."""
        if page.question == "quality":
            return ["after"]
        columns = ("",) if page.question == "acceptable" else ("-left", "-right")
        return [f"{name}{column}" for column in columns for name in ("before", "after")]

    def png(self, page: Page, name: str) -> bytes:
        """One picture of a page, by its name; InputError for another name, or a picture that is gone."""
        if name not in self.names(page):
            raise InputError("picture", repr(name), ", ".join(self.names(page)))
        shown = page.shown[1] if name.endswith("-right") else page.shown[0]
        return _png(self._before(page, shown) if name.startswith("before") else self._after(page, shown))

    def _after(self, page: Page, shown: str) -> ImageU8:
        if shown == UNTOUCHED:
            return self._before(page, shown)
        if shown == RUINED:
            return ruined(self._before(page, shown))
        run, rows = self._runs[shown]
        return _read(run, rows[page.edit, page.sample].picture)

    def _before(self, page: Page, shown: str) -> ImageU8:
        """The sample's own picture, or the one that was generated before the edit; that of the first arm that has it
        where no arm is shown.
        """
        if self.study.plan.part == "real":
            sample = next(one for one in self.samples if one.index == page.sample)
            return read_photo(self.samples.picture(sample), "samples").image_u8
        arms = [name for name, (_, rows) in self._runs.items() if (page.edit, page.sample) in rows]
        run, rows = self._runs[shown if shown in self._runs else arms[0]]
        return _read(run, rows[page.edit, page.sample].source)


def ruined(picture: ImageU8) -> ImageU8:
    """The picture's tiles in another order, always the same: nobody's idea of a good picture."""
    side = min(picture.shape[:2]) // TILES
    if not side:
        return picture[::-1]
    cut = picture[: side * TILES, : side * TILES]
    tiles = cut.reshape(TILES, side, TILES, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    mixed = tiles[np.random.RandomState(0).permutation(len(tiles))].reshape(TILES, TILES, side, side, 3)
    return np.ascontiguousarray(mixed.swapaxes(1, 2).reshape(cut.shape))


def _read(run: Run, place: str | None) -> ImageU8:
    if run.folder is None or place is None or not (run.folder / place).is_file():
        raise InputError("study", f"no picture {place!r}", "a study with its pictures")
    return read_photo(run.folder / place, "study").image_u8


def _png(picture: ImageU8) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()
