"""`limner export precision`: a bundle in fp32 in, one in fp16, int8 or settled fp32 out."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from limner.runtime.bundle.loading import Bundle

CALIBRATION_PICTURES = 64


def precision(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle in fp32.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the new bundle.")],
    precision: Annotated[str, typer.Option(help="fp16, int8, or fp32 for graphs that load faster.")] = "fp16",
    judge: Annotated[Path | None, typer.Option(help="Folder of the judge: the battery runs before and after.")] = None,
    samples: Annotated[
        Path | None, typer.Option(help="Folder of the battery's samples; held-out avatars if not given.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures an edit of the battery.")] = 50,
    pictures: Annotated[
        str, typer.Option(help="To calibrate int8 with: avatars, generated, or a folder of picture files.")
    ] = "generated",
    drop: Annotated[list[str] | None, typer.Option(help="A graph to leave out.")] = None,
    keep_fp32: Annotated[list[str] | None, typer.Option(help="A graph, or the beginning of node names.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")] = False,
) -> None:
    """Convert a bundle; graphs that lose too much stay fp32, and the parity report says so."""
    from limner.export.precision.convert import PrecisionConfig, as_markdown, convert
    from limner.export.precision.half import HalfConfig
    from limner.runtime.bundle.loading import load_bundle

    config = PrecisionConfig(
        precision,  # type: ignore[arg-type]
        judge=judge,
        samples=samples,
        pictures_an_edit=count,
        drop=tuple(drop or ()),
        half=HalfConfig(keep_fp32=tuple(keep_fp32 or ())),
    )
    chosen = calibration_pictures(load_bundle(bundle), pictures)
    made, report = convert(bundle, out, config, chosen, say=lambda line: print(line, file=sys.stderr, flush=True))
    size = sum(meta.size for meta in made.manifest.files.values()) / 1e6
    if as_json:
        found: dict[str, Any] = {"bundle": str(made.root), "digest": made.digest, "megabytes": size}
        print(json.dumps(found | {"graphs": [asdict(quality) for quality in report]}, indent=2))
        return
    print(as_markdown(config.precision, report, {}))
    print(f"{made.root}: {size:.1f} MB")


def calibration_pictures(bundle: Bundle, source: str) -> NDArray[np.float32] | None:
    """Pictures [N,3,H,W] in [-1,1], or None for the generator's own; InputError for an unusable folder."""
    import numpy as np

    from limner.runtime.errors import InputError
    from limner.runtime.pictures.images import to_float

    if source == "generated":
        return None
    if source == "avatars":
        from limner.training.avatars.attributes import AVATAAARS, sample_in_split
        from limner.training.avatars.render import render

        people = [sample_in_split(AVATAAARS, "train", index, 0) for index in range(CALIBRATION_PICTURES)]
        return to_float(np.stack([render(AVATAAARS, person, bundle.image_size) for person in people]))
    folder = Path(source)
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    if not files:
        raise InputError("pictures", repr(source), "avatars, generated, or a folder of picture files")
    from limner.runtime.pictures.images import read_picture

    return to_float(np.stack([read_picture(path, bundle.image_size).image_u8 for path in files[:CALIBRATION_PICTURES]]))
