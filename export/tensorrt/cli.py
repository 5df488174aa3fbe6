"""`limner export tensorrt`: a bundle's graphs in, engines out."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

CACHE = "the user's cache folder"


def tensorrt(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    target: Annotated[
        list[str], typer.Option(help="GPU architecture, such as sm89; repeat it or use commas. Required.")
    ],
    precision: Annotated[str, typer.Option(help="fp16 or fp32.")] = "fp16",
    shapes: Annotated[
        list[str] | None, typer.Option(help="DIMENSION=SMALLEST:BEST:LARGEST; else what the bundle declares.")
    ] = None,
    graph: Annotated[list[str] | None, typer.Option(help="A graph by name; all if not given.")] = None,
    builder: Annotated[str | None, typer.Option(help="tensorrt or tensorrt-rtx; the one that can work here.")] = None,
    refit: Annotated[bool, typer.Option("--refit", help="Let the engine's weights be replaced later.")] = False,
    keep_fp32: Annotated[list[str] | None, typer.Option(help="A graph, or the beginning of node names.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of built engines and kernel timings.")] = None,
    out: Annotated[Path | None, typer.Option(help="Put the engines into a copy of the bundle here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the plan, write nothing.")
    ] = False,
) -> None:
    """Compile a bundle's graphs to TensorRT engines and record them in its bundle.json."""
    from limner.export.precision.half import HalfConfig
    from limner.export.tensorrt.builders import find_builder
    from limner.export.tensorrt.compile import EngineConfig, compile_bundle, copy_bundle, plan
    from limner.export.tensorrt.profiles import parse_shapes
    from limner.runtime.bundle.loading import load_bundle

    config = EngineConfig(
        targets=tuple(name.strip() for names in target for name in names.split(",") if name.strip()),
        precision=precision,  # type: ignore[arg-type]
        shapes=parse_shapes(shapes or ()),
        graphs=tuple(graph or ()),
        builder=builder,
        refit=refit,
        cache=cache,
        half=HalfConfig(keep_fp32=tuple(keep_fp32 or ())),
    )
    loaded, chosen = load_bundle(bundle), find_builder(builder)
    plans = plan(loaded, chosen, config)
    _say(f"builder {chosen.name} {chosen.version}, targets {', '.join(chosen.resolve_targets(config.targets))}")
    if dry_run:
        _print({"builder": chosen.name, "version": chosen.version, "engines": [asdict(one) for one in plans]}, as_json)
        return
    root = loaded.root if out is None else copy_bundle(loaded.root, out)
    built = compile_bundle(root, config, say=_say, progress=_progress() if sys.stderr.isatty() else None)
    _print({"bundle": str(root), "engines": [asdict(one) for one in built]}, as_json)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _progress() -> Any:
    """One line that is written over: the phase and how far it is."""

    def show(phase: str, done: int, total: int) -> None:
        print(f"\r\033[K  {phase} {done}/{total}", end="\r", file=sys.stderr, flush=True)

    return show


def _print(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for entry in found["engines"]:
        meta = entry.get("meta") or entry
        sizes = ", ".join(f"{name} {':'.join(map(str, size))}" for name, size in meta["sizes"].items())
        print(f"{meta['file']}  {sizes}")
