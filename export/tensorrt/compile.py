"""A bundle's graphs compiled to engines, each recorded in bundle.json as soon as it is there."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from limner.export.precision.half import Half, HalfConfig, write_half
from limner.export.tensorrt.builders import find_builder
from limner.export.tensorrt.profiles import Sizes, check_asked, profile, resolve
from limner.export.tensorrt.request import EngineBuilder, Progress, RefusedError, Request
from limner.export.tensorrt.rows import prepare
from limner.runtime.bundle.engines import EngineMeta, EnginePrecision, RangeMeta
from limner.runtime.bundle.loading import Bundle, load_bundle, manifest_text
from limner.runtime.bundle.manifest import MANIFEST, FileMeta
from limner.runtime.bundle.ranges import graph_ranges
from limner.runtime.errors import InputError, nearest
from limner.runtime.graphs.selection import graph_source, why_stale
from limner.runtime.schema import to_dict
from limner.runtime.storage.files import sha256_bytes, write_atomically
from limner.runtime.storage.folders import folder_beside, put_in_place, scratch

FOLDER = "engines"  # inside the bundle
CONVERSION = 1  # counts up whenever the fp16 conversion changes what it makes
Say = Callable[[str], None]


@dataclass(frozen=True)
class EngineConfig:
    """What to compile, and how."""

    targets: tuple[str, ...]  # "sm89"
    precision: EnginePrecision = "fp16"
    shapes: Sizes = field(default_factory=dict)  # dimension -> smallest, best, largest; else the declared range
    graphs: tuple[str, ...] = ()  # all if empty
    builder: str | None = None  # "tensorrt", "tensorrt-rtx"; None takes the one that can work here
    refit: bool = False
    cache: Path | None = None  # keeps engines and kernel timings from one call to the next
    half: HalfConfig = field(default_factory=HalfConfig)

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "fp16"):
            raise InputError("precision", repr(self.precision), "fp32 or fp16")
        if not self.targets:
            raise InputError("target", "nothing", "one or more GPU architectures such as sm89")


@dataclass(frozen=True)
class Built:
    """One engine, or why there is none."""

    graph: str
    seconds: float = 0.0
    megabytes: float = 0.0
    source: str = "built"  # or "cache", "bundle": where it came from
    refused: tuple[str, ...] = ()
    meta: EngineMeta | None = None


@dataclass(frozen=True)
class Plan:
    """What one engine will be."""

    graph: str
    file: str
    sizes: Sizes


def plan(bundle: Bundle, builder: EngineBuilder, config: EngineConfig) -> list[Plan]:
    """Check graphs, targets and shapes; nothing is written. InputError names what is not allowed."""
    graphs = bundle.manifest.graphs
    for name in config.graphs:
        if name not in graphs:
            raise InputError("graph", repr(name), ", ".join(sorted(graphs)), nearest(name, graphs))
    kept = bundle.manifest.precision
    if kept not in ("fp32", config.precision):
        raise InputError("precision", f"{config.precision} of a bundle in {kept}", "a bundle in fp32", "name that one")
    wanted = config.graphs or tuple(graphs)
    targets = builder.resolve_targets(config.targets)
    if config.refit:
        builder.check_refit()
    check_asked({name: graphs[name] for name in wanted}, config.shapes)
    label = f"{config.precision}.{'-'.join(targets)}"
    return [
        Plan(
            name,
            f"{FOLDER}/{builder.name}/{name}.{label}.engine",
            resolve(name, graphs[name], *_limits(bundle, name, config.shapes)),
        )
        for name in sorted(wanted, key=lambda name: _weight(bundle, name))
    ]


def _limits(bundle: Bundle, name: str, asked: Sizes) -> tuple[dict[str, RangeMeta], Sizes, set[str]]:
    """Ranges, what was asked for, and the dimensions whose range follows from the model alone."""
    ranges, declared = graph_ranges(bundle.manifest, name), bundle.manifest.ranges
    return ranges, asked, {d for d in ranges if d not in declared and f"{name}.{d}" not in declared}


def compile_bundle(
    root: Path,
    config: EngineConfig,
    say: Say = print,
    progress: Progress | None = None,
    *,
    stop_at_refusal: bool = True,  # else the refusal is part of the result
) -> list[Built]:
    """Compile the graphs of the bundle in `root`, the smallest first. RefusedError when one does not compile.

    An engine that the bundle has already, built from the same graph in the same way, is kept; one whose graph has
    changed is removed.
    """
    bundle, builder = load_bundle(root), find_builder(config.builder)
    plans = plan(bundle, builder, config)
    _drop_stale(bundle, say)
    results = []
    for number, wanted in enumerate(plans, start=1):
        bundle = load_bundle(root, verify_hashes=False)
        meta = _meta(bundle, builder, config, wanted)
        try:
            built = _build_one(bundle, builder, config, meta, progress)
        except RefusedError as refused:
            if stop_at_refusal:
                raise
            built = Built(wanted.graph, refused=tuple(str(refusal) for refusal in refused.refusals))
        results.append(built)
        state = f"refused: {built.refused[0]}" if built.refused else f"{built.megabytes:.1f} MB, {built.source}"
        took = f" in {built.seconds:.1f} s" if built.source == "built" and not built.refused else ""
        say(f"[{number}/{len(plans)}] {wanted.graph}: {state}{took}")
    return results


def _build_one(
    bundle: Bundle, builder: EngineBuilder, config: EngineConfig, meta: EngineMeta, progress: Progress | None
) -> Built:
    there = next((e for e in bundle.manifest.engines if replace(e, seconds=0.0) == meta), None)
    if there is not None:
        size = bundle.manifest.files[there.file].size / 1e6
        return Built(meta.graph, there.seconds, size, "bundle", meta=there)
    data, seconds, source = _engine(bundle, builder, config, meta, progress)
    meta = replace(meta, seconds=round(seconds, 1))
    record(bundle.root, meta, data)
    return Built(meta.graph, seconds, len(data) / 1e6, source, meta=meta)


def _meta(bundle: Bundle, builder: EngineBuilder, config: EngineConfig, wanted: Plan) -> EngineMeta:
    """What bundle.json will say of an engine, but for the seconds."""
    return EngineMeta(
        wanted.graph,
        wanted.file,
        graph_source(bundle, wanted.graph),
        builder.name,
        builder.version,
        builder.resolve_targets(config.targets),
        config.precision,
        dict(wanted.sizes),
        config.refit,
    )


def build_into_cache(root: Path, config: EngineConfig, graph: str) -> None:
    """Build one engine of a bundle unless the cache has it; the bundle stays as it is, and a refusal is left for
    `compile_bundle` to find. What one of several processes does."""
    bundle, builder = load_bundle(root, verify_hashes=False), find_builder(config.builder)
    config = replace(config, graphs=(graph,))
    for wanted in plan(bundle, builder, config):
        with suppress(RefusedError):
            _engine(bundle, builder, config, _meta(bundle, builder, config, wanted), None)


def _engine(
    bundle: Bundle, builder: EngineBuilder, config: EngineConfig, meta: EngineMeta, progress: Progress | None
) -> tuple[bytes, float, str]:
    """The engine, the seconds that its build took, and where it is from: "cache" or "built"."""
    cached = None if config.cache is None else config.cache / f"{_key(meta, config)}.engine"
    if cached is not None and cached.is_file():
        return cached.read_bytes(), _seconds(cached), "cache"
    start = time.perf_counter()
    data = _compile(bundle, builder, config, meta, progress)
    seconds = time.perf_counter() - start
    if cached is not None:
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cached.with_suffix(".json"), json.dumps({"seconds": seconds}).encode(), "cache")
        write_atomically(cached, data, "cache")
    return data, seconds, "built"


def _seconds(cached: Path) -> float:
    """How long the build of a cached engine took; 0 if nobody wrote it down."""
    try:
        return float(json.loads(cached.with_suffix(".json").read_bytes())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def _compile(
    bundle: Bundle, builder: EngineBuilder, config: EngineConfig, meta: EngineMeta, progress: Progress | None
) -> bytes:
    graph = bundle.graph(meta.graph)
    sizes: Sizes = {name: (s[0], s[1], s[2]) for name, s in meta.sizes.items()}
    free = [tensor for tensor in graph.inputs if any(isinstance(size, str) for size in tensor.shape)]
    timing = config.cache / f"timing-{builder.version}-{'-'.join(meta.targets)}.cache" if config.cache else None
    with scratch("limner-engine-") as beside:
        path, kept = prepare(bundle.file(graph.file), beside, builder.fused_attention), Half()
        if meta.precision == "fp16" and bundle.manifest.precision == "fp32":
            half = beside / f"{meta.graph}.onnx"
            kept = write_half(bundle, meta.graph, half, config.half, path)
            path = half if builder.strongly_typed else path
        request = Request(
            meta.graph,
            path,
            {tensor.name: profile(tensor, sizes) for tensor in free},
            meta.targets,
            meta.precision,
            kept.kept,
            meta.refit,
            timing,
        )
        return builder.build(request, progress)


def record(root: Path, meta: EngineMeta, data: bytes) -> None:
    """Write one engine into the bundle and its entry into bundle.json; an engine of the same file is replaced."""
    path = root / meta.file
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data, "engine")
    manifest = json.loads((root / MANIFEST).read_bytes())
    manifest["files"][meta.file] = to_dict(FileMeta(sha256_bytes(data), len(data)))
    others = [entry for entry in manifest.get("engines", ()) if entry["file"] != meta.file]
    manifest["engines"] = [*others, to_dict(meta)]
    write_atomically(root / MANIFEST, manifest_text(manifest), field=MANIFEST)


def _drop_stale(bundle: Bundle, say: Say) -> None:
    """Take engines out of the bundle whose graph has changed since they were built."""
    stale = {e.file: reason for e in bundle.manifest.engines if (reason := why_stale(bundle, e)) is not None}
    if not stale:
        return
    manifest = json.loads((bundle.root / MANIFEST).read_bytes())
    manifest["engines"] = [entry for entry in manifest["engines"] if entry["file"] not in stale]
    manifest["files"] = {name: meta for name, meta in manifest["files"].items() if name not in stale}
    write_atomically(bundle.root / MANIFEST, manifest_text(manifest), field=MANIFEST)
    for file, reason in stale.items():
        (bundle.root / file).unlink(missing_ok=True)
        say(f"removed {file}: {reason}")


def _key(meta: EngineMeta, config: EngineConfig) -> str:
    half = to_dict(config.half) if meta.precision == "fp16" else None
    parts = [to_dict(replace(meta, file="")), half, CONVERSION]
    return f"{meta.graph}-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]}"


def _weight(bundle: Bundle, name: str) -> tuple[int, str]:
    """The size of a graph's own file: graphs with few nodes compile first."""
    graph = bundle.manifest.graphs[name]
    return bundle.manifest.files[graph.file].size, name


def copy_bundle(root: Path, out: Path) -> Path:
    """A copy of a bundle to put engines into; one that is there already is kept."""
    bundle = load_bundle(root)
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("out", f"{str(out)!r}, which is no bundle", "a new or empty folder, or a copy of the bundle")
    if (out / MANIFEST).is_file() and load_bundle(out).digest == bundle.digest:
        return out
    if not out.absolute().parent.is_dir():
        raise InputError("out", f"a path in the missing folder {str(out.parent)!r}", "a path in an existing folder")
    with folder_beside(out) as beside:
        shutil.copytree(bundle.root, beside, dirs_exist_ok=True)  # no hard links: readers refuse weights behind them
        beside.chmod(0o755)
        put_in_place(beside, out)
    return out
