"""`limner export precision`: a bundle in fp16 or int8, made from one in fp32; every graph has to pass a gate.

"fp32" keeps every number and settles what ONNX Runtime would otherwise fold at each start: casts of stored weights,
scales, flips. Its weights file is larger, mapped into memory as it is, and graphs load in half the time.

A graph that loses too much stays fp32. With a judge at hand the battery runs before and after; a bundle that loses more
than two points gives graphs up, the worst first, until it does not, or is not written. All of it goes into the new
bundle's parity report.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    RuntimeException,
)
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NotImplemented_

from limner.export.onnx.weights import WEIGHTS, WeightFile
from limner.export.precision.gate import (
    BATTERY_POINTS,
    TOLERANCES,
    Quality,
    battery,
    errors,
    parity_of,
    passes,
    time_pair,
    tolerance,
)
from limner.export.precision.half import HalfConfig, half_model, settled
from limner.export.precision.int8 import Int8Config, int8_model
from limner.export.precision.samples import Samples
from limner.export.stylegan2.writer import check_target
from limner.runtime.bundle.loading import Bundle, load_bundle, write_manifest
from limner.runtime.bundle.parts import GraphMeta
from limner.runtime.errors import InputError, LimnerError
from limner.runtime.storage.folders import folder_beside, open_to_readers, put_in_place, scratch

Precision = Literal["fp32", "fp16", "int8"]
MOST_LEFT = 4  # graphs that are given up for the battery
REPORTS = ("parity.json", "parity.md")
RUNTIME_ERRORS = (RuntimeException, Fail, NotImplemented_, InvalidArgument, InvalidGraph, ValueError, RuntimeError)
Say = Callable[[str], None]


@dataclass(frozen=True)
class PrecisionConfig:
    """What is made, and what it is measured with."""

    precision: Precision
    batches: tuple[int, ...] = (1, 2, 4)  # of the comparison
    judge: Path | None = None  # folder of the judge: the battery runs before and after
    samples: Path | None = None  # of the battery; validation avatars if not given
    pictures_an_edit: int = 50
    drop: tuple[str, ...] = ()  # graphs that are left out: a small device may not need gradients
    half: HalfConfig = field(default_factory=HalfConfig)
    int8: Int8Config = field(default_factory=Int8Config)
    seed: int = 11

    def __post_init__(self) -> None:
        if self.precision not in TOLERANCES:
            raise InputError("precision", repr(self.precision), ", ".join(TOLERANCES))


def convert(
    source: Path,
    out: Path,
    config: PrecisionConfig,
    pictures: NDArray[np.float32] | None = None,  # [N,3,H,W] for calibration; else the generator's own
    say: Say = print,
) -> tuple[Bundle, list[Quality]]:
    """Write the bundle `out`, all of it or nothing. LimnerError if the battery loses too much."""
    bundle = load_bundle(source)
    if bundle.manifest.precision != "fp32":
        raise InputError("bundle", f"{bundle.manifest.name!r} in {bundle.manifest.precision}", "a bundle in fp32")
    for name in config.drop:
        bundle.graph(name)
    check_target(out)
    out = out.absolute()
    with folder_beside(out) as beside:
        report, left = _convert_graphs(bundle, beside, config, pictures, say), dict[str, str]()
        _copy_rest(bundle, beside)
        before = _success(bundle, config)
        while True:
            graphs = {quality.graph: _entry(bundle, quality, config) for quality in report}
            manifest = replace(bundle.manifest, graphs=graphs, precision=config.precision, engines=(), files={})
            if config.precision == "fp32":
                manifest = replace(manifest, weights_storage="fp32")
            success = _battery(before, write_manifest(beside, manifest), config, say)
            lost = _lost(success)
            if lost is None:
                break
            worst = _worst(report)
            if worst is None or len(left) == MOST_LEFT:
                raise LimnerError(f"{lost} in {config.precision}, by more than {BATTERY_POINTS:g} points; "
                                  "nothing was written")  # fmt: skip
            left[worst] = f"{lost} with it"
            say(f"{worst} stays fp32: {left[worst]}")
            report = _convert_graphs(bundle, beside, config, pictures, say, left)
        _write_report(bundle, beside, config, report, success)
        write_manifest(beside, manifest)
        open_to_readers(beside)
        put_in_place(beside, out)
    return load_bundle(out), report


def _convert_graphs(
    bundle: Bundle,
    folder: Path,
    config: PrecisionConfig,
    pictures: NDArray[np.float32] | None,
    say: Say,
    left: Mapping[str, str] | None = None,  # graphs that stay fp32, and why
) -> list[Quality]:
    weights, report = WeightFile(folder, "fp32" if config.precision == "fp32" else "fp16"), []
    convert_one = {"fp32": _settled, "fp16": _half, "int8": _int8}[config.precision]
    for name in bundle.manifest.graphs:
        if name in config.drop:
            continue
        before = weights.size
        samples = Samples(bundle, config.seed, pictures)
        if name in (left or {}):
            _save_as_is(bundle, name, weights, folder / bundle.graph(name).file)
            quality = Quality(name, "fp32", note=(left or {})[name])
        else:
            quality = convert_one(bundle, name, weights, folder, config, samples)
        feed = samples(name, 1)
        old, new = bundle.file(bundle.graph(name).file), folder / bundle.graph(name).file
        quality = replace(quality, milliseconds=time_pair(old, new, feed))
        report.append(quality)
        worst = f", error {max(quality.errors.values()):.1e}" if quality.errors else ""
        note = f" ({quality.note})" if quality.note else ""
        say(f"{name}: {quality.precision}{worst}, {(weights.size - before) / 1e6:.1f} MB more of weights{note}")
    return report


def _settled(
    bundle: Bundle, name: str, weights: WeightFile, folder: Path, config: PrecisionConfig, samples: Samples
) -> Quality:
    model = settled(bundle.file(bundle.graph(name).file))
    found = _measured(bundle, name, model, config, samples)
    if not passes("fp32", found):
        _save_as_is(bundle, name, weights, folder / bundle.graph(name).file)
        return Quality(name, "fp32", refused=found)
    weights.save(model, folder / bundle.graph(name).file)
    return Quality(name, "fp32", found, note="settled")


def _half(
    bundle: Bundle, name: str, weights: WeightFile, folder: Path, config: PrecisionConfig, samples: Samples
) -> Quality:
    model, half = half_model(bundle, name, config.half)
    target = folder / bundle.graph(name).file
    if half.reason:
        _save_as_is(bundle, name, weights, target)
        return Quality(name, "fp32", note=half.reason)
    try:
        found = _measured(bundle, name, model, config, samples)
    except RUNTIME_ERRORS as reason:
        _save_as_is(bundle, name, weights, target)
        return Quality(name, "fp32", note=f"does not run in fp16: {first_line(reason)}")
    if not passes("fp16", found):
        _save_as_is(bundle, name, weights, target)
        return Quality(name, "fp32", refused=found, note=why_refused("fp16", found))
    weights.save(model, target)
    return Quality(name, "fp16", found, kept=len(half.kept), nodes=half.nodes)


def _int8(
    bundle: Bundle, name: str, weights: WeightFile, folder: Path, config: PrecisionConfig, samples: Samples
) -> Quality:
    measured: list[dict[str, float]] = []

    def accept(model: ir.Model) -> bool:
        measured.append(_measured(bundle, name, model, config, samples))
        return passes("int8", measured[-1])

    target = folder / bundle.graph(name).file
    try:
        found = int8_model(bundle, name, samples, accept, config.int8)
    except RUNTIME_ERRORS as reason:
        _save_as_is(bundle, name, weights, target)
        return Quality(name, "fp32", note=f"does not quantise: {first_line(reason)}")
    if found is None:
        _save_as_is(bundle, name, weights, target)
        if not measured:
            return Quality(name, "fp32", note="no operator that int8 is for, or a gradient, which 8 bits lead nowhere")
        return Quality(name, "fp32", refused=measured[-1], note=why_refused("int8", measured[-1]))
    model, attempt = found
    weights.save(model, target)
    return Quality(name, "int8", measured[-1], note=attempt)


def _measured(
    bundle: Bundle, name: str, model: ir.Model, config: PrecisionConfig, samples: Samples
) -> dict[str, float]:
    with scratch("limner-gate-") as beside:
        path = beside / "graph.onnx"
        ir.save(model, path, external_data="graph.data", size_threshold_bytes=256)
        model = ir.external_data.load_to_model(model)
        return errors(bundle, name, path, samples, config.batches)


def first_line(reason: BaseException) -> str:
    return (str(reason).strip() or type(reason).__name__).splitlines()[0][:200]


def why_refused(precision: str, found: Mapping[str, float]) -> str:
    """The output that is furthest beyond its tolerance."""
    name = max(found, key=lambda name: (not np.isfinite(found[name]), found[name] / tolerance(precision, name)))
    return f"{name} would be {100 * found[name]:.2g} % off, allowed are {100 * tolerance(precision, name):g} %"


def _save_as_is(bundle: Bundle, name: str, weights: WeightFile, target: Path) -> None:
    bundle.graph_bytes(name)  # verified, and with no weights from elsewhere
    model = ir.external_data.load_to_model(ir.load(bundle.file(bundle.graph(name).file)))
    weights.save(model, target)


def _copy_rest(bundle: Bundle, folder: Path) -> None:
    """Everything but graphs, weights, engines and reports."""
    graphs, engines = bundle.manifest.graphs.values(), bundle.manifest.engines
    left_out = {path for graph in graphs for path in (graph.file, graph.cpu, *graph.data)}
    left_out |= {engine.file for engine in engines}
    for relative in bundle.manifest.files:
        if relative not in left_out and relative not in REPORTS:
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.root / relative, folder / relative)


def _entry(bundle: Bundle, quality: Quality, config: PrecisionConfig) -> GraphMeta:
    graph = bundle.graph(quality.graph)
    parity = (
        graph.parity if quality.precision == "fp32" or not quality.errors else parity_of(quality, len(config.batches))
    )
    return replace(graph, data=(WEIGHTS,), parity=parity, cpu="")


def _success(bundle: Bundle, config: PrecisionConfig) -> dict[str, float]:
    return {} if config.judge is None else battery(bundle, config.judge, config.samples, config.pictures_an_edit)


def _battery(old: Mapping[str, float], after: Bundle, config: PrecisionConfig, say: Say) -> dict[str, list[float]]:
    """Success before and after of each edit; empty without a judge."""
    if config.judge is None:
        return {}
    new = battery(after, config.judge, config.samples, config.pictures_an_edit)
    found = {name: [old[name], new[name]] for name in old}
    before, now = np.mean(list(found.values()), axis=0)
    say(f"battery: {before:.1f} % before, {now:.1f} % after")
    return found


def _lost(success: Mapping[str, list[float]]) -> str | None:
    """What is lost, as a clause, if the mean falls by more than the points allowed."""
    if not success:
        return None
    before, now = (float(one) for one in np.mean(list(success.values()), axis=0))
    return f"the battery falls from {before:.1f} to {now:.1f} %" if now < before - BATTERY_POINTS else None


def _worst(report: Sequence[Quality]) -> str | None:
    """The converted graph to give up first: in a denoising loop errors add up, so the UNet; else the largest error."""
    converted = [quality for quality in report if quality.errors and quality.precision != "fp32"]
    if not converted:
        return None
    return max(converted, key=lambda quality: (quality.graph == "unet", max(quality.errors.values()))).graph


def _write_report(
    bundle: Bundle, folder: Path, config: PrecisionConfig, report: Sequence[Quality], success: dict[str, list[float]]
) -> None:
    """The report of the fp32 bundle, and below it what changed."""
    data: dict[str, Any] = {}
    text = ""
    if "parity.json" in bundle.manifest.files:
        data = json.loads(bundle.file("parity.json").read_text(encoding="utf-8"))
        text = bundle.file("parity.md").read_text(encoding="utf-8") if "parity.md" in bundle.manifest.files else ""
    data["precision"] = {
        "precision": config.precision,
        "source": bundle.digest,
        "metric": "||graph - fp32 graph|| / ||fp32 graph||, ONNX Runtime, CPU, over all cases together",
        "graphs": [asdict(quality) for quality in report],
        "battery": success,
    }
    (folder / "parity.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    (folder / "parity.md").write_text(text + "\n" + as_markdown(config.precision, report, success), encoding="utf-8")


def as_markdown(precision: str, report: Sequence[Quality], success: dict[str, list[float]]) -> str:
    """The section of parity.md: one row an output, then the battery."""
    lines = [f"## {precision} against fp32", ""]
    lines += ["The same inputs in ONNX Runtime on the CPU; milliseconds of batch 1 with one thread, in turns.", ""]
    lines += [
        "| graph | output | now | error | allowed | fp32, ms | now, ms | note |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for quality in report:
        before, after = quality.milliseconds
        state = quality.precision if quality.errors else "fp32 (refused)" if quality.refused else "fp32"
        for name, error in (quality.errors or quality.refused or {"": math.nan}).items():
            measured = "-" if math.isnan(error) and not name else f"{error:.1e}"
            limit = "-" if not name else f"{tolerance(precision, name):g}"
            lines.append(f"| {quality.graph} | {name or '-'} | {state} | {measured} | {limit} | {before:.2f} "
                         f"| {after:.2f} | {quality.note or '-'} |")  # fmt: skip
    if success:
        lines += ["", "Battery, success in percent:", "", f"| edit | fp32 | {precision} |", "| --- | --- | --- |"]
        lines += [f"| {name} | {old:.0f} | {new:.0f} |" for name, (old, new) in success.items()]
        old, new = (float(np.mean([pair[i] for pair in success.values()])) for i in (0, 1))
        lines.append(f"| **all** | **{old:.1f}** | **{new:.1f}** |")
    return "\n".join(lines) + "\n"
