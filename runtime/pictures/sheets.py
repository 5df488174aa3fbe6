"""Before/after sheets: one row a source picture, its edits beside it, a caption under each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from limner.runtime.errors import InputError

BACKGROUND = (255, 255, 255)
INK = (32, 32, 36)
FAINT = (120, 120, 128)
WARNING = (156, 72, 0)
MAX_SHEET_PIXELS = 100_000_000
CAPTION_LINES = 2
ELLIPSIS = "..."


@dataclass(frozen=True)
class Cell:
    """One picture, uint8 [H,W,3] of any size, and the words under it."""

    image_u8: NDArray[np.uint8]
    caption: str = ""


@dataclass(frozen=True)
class SheetRow:
    """A source and its edits; `label` stands above the row."""

    source: Cell
    edits: tuple[Cell, ...]
    label: str = ""


def make_sheet(
    rows: Sequence[SheetRow],
    title: str = "",
    cell: int = 192,  # side of a picture on the sheet, in pixels
    gap: int = 12,  # space between pictures and around the sheet
    notes: Sequence[str] = (),  # sentences that stand below the rows, whole
) -> NDArray[np.uint8]:
    """Draw rows of source | edits with captions; return uint8 [H,W,3].

    Rows may have different numbers of edits. Captions longer than two lines end in dots.
    Raises InputError for no rows, a picture that is not uint8 [H,W,3], or a sheet over 100 megapixels.
    """
    _check(rows, cell, gap)
    caption_size = max(10, cell // 13)
    line = round(caption_size * 1.35)
    caption_height = CAPTION_LINES * line + gap // 2
    columns = 1 + max(len(row.edits) for row in rows)
    split = gap  # the source stands a little apart from its edits
    width = gap + columns * (cell + gap) + split
    title_height = round(caption_size * 2.2) if title else 0
    heights = [(line if row.label else 0) + cell + caption_height + gap for row in rows]
    said = [words for note in notes for words in _wrapped(note, width - 2 * gap, _font(caption_size))]
    height = gap + title_height + sum(heights) + (len(said) * line + gap if said else 0)
    if width * height > MAX_SHEET_PIXELS:
        raise InputError(
            "sheet",
            f"{width} x {height} pixels",
            "at most 100 megapixels",
            "use fewer rows or smaller cells",
        )
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    if title:
        large = _font(round(caption_size * 1.4))
        draw.text((gap, gap // 2), _fit(title, width - 2 * gap, large), fill=INK, font=large)
    top = gap + title_height
    for row, row_height in zip(rows, heights, strict=True):
        picture_top = top
        if row.label:
            font = _font(caption_size)
            draw.text(
                (gap, top),
                _fit(row.label, width - 2 * gap, font),
                fill=FAINT,
                font=font,
            )
            picture_top += line
        for column, item in enumerate((row.source, *row.edits)):
            left = gap + column * (cell + gap) + (split if column else 0)
            sheet.paste(_scaled(item.image_u8, cell), (left, picture_top))
            _caption(
                draw,
                item.caption,
                left,
                picture_top + cell + gap // 4,
                cell,
                caption_size,
                line,
            )
        _divider(draw, gap + cell + (gap + split) // 2, picture_top, cell)
        top += row_height
    for number, words in enumerate(said):
        draw.text((gap, top + number * line), words, fill=WARNING, font=_font(caption_size))
    return np.array(sheet, dtype=np.uint8)


def wrap_caption(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Break `text` at spaces into at most two lines of `width` pixels; what is left over ends in dots."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < CAPTION_LINES:
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        if len(lines) == CAPTION_LINES - 1:
            count = len(words)
        lines.append(_fit(" ".join(words[:count]), width, font))
        words = words[count:]
    return lines


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Break `text` at spaces into lines of `width` pixels, as many as it takes."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(_fit(word, width, font))
    return lines


def _caption(
    draw: ImageDraw.ImageDraw,
    text: str,
    left: int,
    top: int,
    width: int,
    size: int,
    line: int,
) -> None:
    font = _font(size)
    for number, words in enumerate(wrap_caption(text, width, font)):
        middle = left + (width - font.getlength(words)) / 2
        draw.text((middle, top + number * line), words, fill=INK, font=font)


def _divider(draw: ImageDraw.ImageDraw, x: int, top: int, cell: int) -> None:
    draw.line([(x, top), (x, top + cell)], fill=(210, 210, 216), width=1)


def _fit(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Shorten `text` with dots until it is at most `width` pixels wide."""
    if font.getlength(text) <= width:
        return text
    shown = text
    while shown and font.getlength(shown.rstrip() + ELLIPSIS) > width:
        shown = shown[:-1]
    return shown.rstrip() + ELLIPSIS


def _scaled(image_u8: NDArray[np.uint8], cell: int) -> Image.Image:
    """Scale to fit a square cell, centred on the background; the aspect ratio stays."""
    image = Image.fromarray(np.ascontiguousarray(image_u8))
    scale = cell / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (cell, cell), BACKGROUND)
    square.paste(image, ((cell - width) // 2, (cell - height) // 2))
    return square


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _check(rows: Sequence[SheetRow], cell: int, gap: int) -> None:
    if not rows:
        raise InputError("sheet", "no rows", "one row or more")
    if not 32 <= cell <= 1024:
        raise InputError("sheet.cell", cell, "32 to 1024 pixels")
    if not 0 <= gap <= 256:
        raise InputError("sheet.gap", gap, "0 to 256 pixels")
    for number, row in enumerate(rows):
        for item in (row.source, *row.edits):
            array = item.image_u8
            if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
                raise InputError(
                    f"sheet.rows[{number}]",
                    f"{array.dtype} {list(array.shape)}",
                    "uint8 [H,W,3]",
                )
