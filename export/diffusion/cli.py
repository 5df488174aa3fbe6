"""`limner export onnx --model FOLDER`: a diffusers folder in, a diffusion bundle out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from limner.runtime.errors import InputError

SUFFIX = "_bundle"


def run(
    model: Path,
    out: Path | None,  # <model>_bundle beside the folder if not given
    edited_layers: str,
    blend_layers: str,
    dry_run: bool,
    in_place: bool = False,
    **config: Any,
) -> dict[str, Any]:
    """Export, or plan, and return what is to be printed."""
    from limner.export.diffusion.folder import check_folder

    check_folder(model)
    from limner.export.diffusion.writer import DiffusionExport, export_folder, plan

    if in_place and out is not None:
        raise InputError("out", repr(str(out)), "nothing with --in-place")
    beside = model.absolute().with_name(model.absolute().name + SUFFIX) if out is None else out
    target = None if in_place else beside
    settings = DiffusionExport(edited_layers=patterns(edited_layers), blend_layers=patterns(blend_layers), **config)
    if dry_run:
        return plan(model, target, settings)
    bundle = export_folder(model, target, settings, say=lambda line: print(line, file=sys.stderr, flush=True))
    manifest = bundle.manifest
    return {
        "bundle": str(bundle.root),
        "digest": bundle.digest,
        "megabytes": sum(meta.size for meta in manifest.files.values()) / 1e6,
        "max_rel_error": {key: graph.parity.max_rel_error for key, graph in manifest.graphs.items() if graph.parity},
    }


def patterns(text: str) -> tuple[str, ...]:
    """Layer patterns of a command-line value, with commas between."""
    found = tuple(part.strip() for part in text.split(","))
    if text.strip() and not all(found):
        raise InputError("layers", repr(text), "patterns with commas between, as 'down_blocks.*.attn2,mid_block.*'")
    return found if text.strip() else ()
