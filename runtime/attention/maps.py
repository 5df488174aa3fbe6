"""Where each word looks: cross-attention maps per word and per step, and pictures of them.

A map is the mean over the heads and over the layers of the local edit, summed over the tokens of the word; of an edit
it is the attention after the edit. Pictures are shown as bright as the attention is strong, relative to the strongest
point of the word (Hertz et al. 2022, figure 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limner.runtime.attention.words import Prompt
from limner.runtime.attention_maps import AttentionMaps
from limner.runtime.pictures.sheets import Cell, SheetRow, make_sheet

__all__ = ["MapRecorder", "map_pictures", "shaded", "step_sheet", "word_columns", "word_sheet"]

FloatArray = NDArray[np.float32]
ImageU8 = NDArray[np.uint8]
DARK = 0.15  # brightness where a word does not look
SHOWN_STEPS = 8


def word_columns(prompts: Sequence[Prompt], tokens: int = 77) -> FloatArray:
    """Return the blend words that give a map a word, [M,W,77]; W is the most words that a prompt has."""
    most = max(len(prompt.spelled) for prompt in prompts)
    columns = np.zeros((len(prompts), most, tokens), dtype=np.float32)
    for row, prompt in zip(columns, prompts, strict=True):
        for column, word in zip(row, prompt.spelled, strict=False):
            column[list(word.tokens)] = 1
    return columns


@dataclass(eq=False)
class MapRecorder:
    """Keeps the maps of a run, one prompt a member."""

    prompts: Sequence[Prompt]
    _steps: list[FloatArray] = field(default_factory=list)
    _timesteps: list[float] = field(default_factory=list)

    def add(self, timestep: float, maps: FloatArray) -> None:
        """Take the maps of a step, [M,W,h_a,w_a]."""
        self._timesteps.append(float(timestep))
        self._steps.append(np.array(maps, dtype=np.float32))

    def result(self) -> list[AttentionMaps]:
        """The maps of every member."""
        steps = np.stack(self._steps, axis=1)  # [M,S,W,h_a,w_a]
        return [
            AttentionMaps(
                prompt.text,
                tuple(word.text for word in prompt.spelled),
                steps[member, :, : len(prompt.spelled)],
                tuple(self._timesteps),
            )
            for member, prompt in enumerate(self.prompts)
        ]


def shaded(picture: ImageU8, attention: FloatArray) -> ImageU8:
    """The picture [H,W,3], as bright as the attention [h_a,w_a] is strong; a map of zeros leaves it dark."""
    strength = np.abs(attention)
    largest = float(strength.max())
    relative = strength / largest if largest > 0 else strength
    height, width = picture.shape[:2]
    scaled = Image.fromarray(relative.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    brightness = DARK + (1 - DARK) * np.clip(np.asarray(scaled), 0, 1)
    lit: ImageU8 = np.rint(picture * brightness[:, :, None]).astype(np.uint8)
    return lit


def word_sheet(pairs: Sequence[tuple[AttentionMaps, ImageU8]], cell: int = 128) -> ImageU8:
    """Draw a row a prompt: the picture, then the mean map of every word."""
    rows = []
    for maps, picture in pairs:
        cells = [Cell(shaded(picture, one), word) for word, one in zip(maps.words, maps.mean, strict=True)]
        rows.append(SheetRow(Cell(picture, "all words"), tuple(cells), maps.prompt))
    return make_sheet(rows, cell=cell)


def step_sheet(maps: AttentionMaps, picture: ImageU8, cell: int = 96, shown: int = SHOWN_STEPS) -> ImageU8:
    """Draw a row a word: its mean map, then the maps of up to `shown` steps, evenly spread."""
    count = len(maps.steps)
    chosen = np.unique(np.linspace(0, count - 1, min(shown, count)).round().astype(int))
    rows = []
    for index, word in enumerate(maps.words):
        cells = [Cell(shaded(picture, maps.steps[i, index]), f"step {i + 1}") for i in chosen]
        rows.append(SheetRow(Cell(shaded(picture, maps.mean[index]), "mean"), tuple(cells), word))
    return make_sheet(rows, cell=cell)


def map_pictures(source: AttentionMaps, edit: AttentionMaps, pictures: tuple[ImageU8, ImageU8]) -> dict[str, ImageU8]:
    """Return the sheets of a source and one of its edits: all words, and the steps of both."""
    return {
        "maps-words": word_sheet([(source, pictures[0]), (edit, pictures[1])]),
        "maps-source-steps": step_sheet(source, pictures[0]),
        "maps-edit-steps": step_sheet(edit, pictures[1]),
    }
