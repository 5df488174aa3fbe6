"""A folder in PIE-Bench's published format (Ju et al. 2023, "Direct Inversion"): pictures, prompts, masks.

    mapping_file.json      id -> image_path, original_prompt, editing_prompt, editing_type_id, blended_word, mask
    annotation_images/     the pictures
    mask                   [start, length, start, length, ...]: runs of pixels that may change, row by row of 512 x 512

Square brackets in prompts mark the words that differ, and are taken out. As in the published code the outermost rows
and columns count as inside the mask. Only the format is known here: people own the data.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from limner.runtime.errors import InputError
from limner.runtime.pictures.images import read_picture
from limner.runtime.schema import read_json
from limner.runtime.study.measures import Background, Change, Mask, background, change, mean_values
from limner.runtime.study.tables import as_table

__all__ = ["MAPPING", "PieItem", "as_pie_table", "decode_mask", "measure_folder", "measure_item", "read_pie"]

MAPPING, IMAGES = "mapping_file.json", "annotation_images"
SIDE = 512
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, eq=False)
class PieItem:
    """One picture and the edit that is asked."""

    name: str  # its id
    picture: Path
    place: str  # below annotation_images: where an edited picture lies in a folder of results
    source_prompt: str
    target_prompt: str
    kind: str  # editing_type_id
    mask: Mask  # [512,512], true where the edit may change the picture


def decode_mask(runs: Sequence[int], side: int = SIDE) -> Mask:
    """Bool [side,side] of runs [start, length, ...]; InputError for what is no such list."""
    if len(runs) % 2 or any(isinstance(one, bool) or not isinstance(one, int) or one < 0 for one in runs):
        raise InputError("mask", f"{list(runs[:4])}... of {len(runs)} numbers", "pairs of start and length, from 0 on")
    flat = np.zeros(side * side, bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        if start >= side * side:
            raise InputError("mask", f"a run from pixel {start} on", f"below {side * side}")
        flat[start : start + length] = True
    found: Mask = flat.reshape(side, side)
    found[[0, -1], :] = True
    found[:, [0, -1]] = True
    return found


def read_pie(folder: Path) -> Iterator[PieItem]:
    """The items in the order of the file; InputError names what is wrong with the first that is."""
    if not (folder / MAPPING).is_file():
        raise InputError("folder", f"{str(folder)!r}, which has no {MAPPING}", "a folder in PIE-Bench's format")
    data: Any = read_json(folder / MAPPING, MAPPING)
    if not isinstance(data, dict) or not data:
        raise InputError(MAPPING, "no items", "an object of items by their id")
    for name, item in data.items():
        yield _item(folder, str(name), item)


def _item(folder: Path, name: str, item: Any) -> PieItem:
    where = f"{MAPPING}.{name}"
    if not isinstance(item, Mapping):
        raise InputError(where, type(item).__name__, "an object")
    texts = {}
    for key in ("image_path", "original_prompt", "editing_prompt"):
        if not isinstance(item.get(key), str) or not item[key].strip():
            raise InputError(f"{where}.{key}", repr(item.get(key)), "a text")
        texts[key] = item[key]
    place = Path(texts["image_path"])
    if place.is_absolute() or ".." in place.parts:
        raise InputError(f"{where}.image_path", repr(texts["image_path"]), f"a file below {IMAGES}")
    runs = item.get("mask")
    if not isinstance(runs, list):
        raise InputError(f"{where}.mask", type(runs).__name__, "a list of runs")
    prompts = [texts[key].replace("[", "").replace("]", "") for key in ("original_prompt", "editing_prompt")]
    kind = str(item.get("editing_type_id", ""))
    return PieItem(name, folder / IMAGES / place, texts["image_path"], prompts[0], prompts[1], kind, decode_mask(runs))


def measure_item(item: PieItem, results: Path) -> tuple[Change, Background]:
    """The measures of an edited picture, which lies in `results` as the item's own lies below annotation_images."""
    stem = results / Path(item.place).with_suffix("")
    edited = next((path for suffix in SUFFIXES if (path := stem.with_suffix(suffix)).is_file()), None)
    if edited is None:
        raise InputError("results", f"no picture {str(stem)!r}", f"one of {', '.join(SUFFIXES)} for every item")
    source, made = (read_picture(path, SIDE).image_u8 for path in (item.picture, edited))
    return change(source, made, item.mask), background(source, made, item.mask)


def measure_folder(folder: Path, results: Path) -> dict[str, dict[str, float | None]]:
    """Means by editing type, and of "all"; `count` stands beside them."""
    rows: dict[str, list[dict[str, float | None]]] = {"all": []}
    for item in read_pie(folder):
        found = measure_item(item, results)
        row = asdict(found[0]) | asdict(found[1])
        rows["all"].append(row)
        rows.setdefault(item.kind, []).append(row)
    return {kind: {"count": float(len(several)), **mean_values(several)} for kind, several in sorted(rows.items())}


def as_pie_table(found: Mapping[str, Mapping[str, float | None]]) -> str:
    """Markdown."""
    names = list(next(iter(found.values())))
    rows = [[kind, *("-" if (value := means[name]) is None else f"{value:.4g}" for name in names)]
            for kind, means in found.items()]  # fmt: skip
    return as_table(["kind", *names], rows) + "\n"
