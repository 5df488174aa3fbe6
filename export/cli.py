"""`limner export onnx`: checkpoints in, bundle out. `precision` and `tensorrt`: what is made of a bundle."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from limner.export.precision.cli import precision
from limner.export.tensorrt.cli import tensorrt
from limner.runtime.cli.options import DryRunOption, JsonOption

app = typer.Typer(
    help="Turn checkpoints into a bundle of ONNX graphs.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root() -> None:
    """Keeps `onnx` a verb of its own."""


@app.command("onnx")
def onnx(
    checkpoints: Annotated[
        Path | None, typer.Option(help="Folder with stylegan2, clip, identity, encoder, edits; the shipped one.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Instead: a Stable Diffusion folder in diffusers' format.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the bundle; <checkpoints>/bundle or <model>_bundle if not given.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the bundle.")] = "avatars",
    weights_storage: Annotated[str, typer.Option(help="fp16 or fp32; graphs compute in fp32.")] = "fp16",
    preprocess: Annotated[str, typer.Option(help="CLIP's input: correct or published.")] = "correct",
    opset: Annotated[int, typer.Option(help="ONNX operator set.")] = 20,
    tolerance: Annotated[float, typer.Option("--tolerance", "--atol", help="Largest relative error allowed.")] = 1e-4,
    batches: Annotated[
        str, typer.Option(help="Batch sizes of the comparison; 1 spares memory at 1024 px.")
    ] = "1,2,3,5",
    edited_layers: Annotated[
        str, typer.Option(help="With --model: patterns of the attention layers that edits reach.")
    ] = "",
    blend_layers: Annotated[str, typer.Option(help="With --model: patterns of the layers of blend maps.")] = "",
    lora: Annotated[
        list[str] | None, typer.Option(help="With --model: FILE:SCALE, merged into the weights; may be repeated.")
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            help="With --model: GB that a session may take on a CPU, for quicker convolutions; 8, or 0 for none."
        ),
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="With --model: put the graphs into its folder, whose weights they read.")
    ] = False,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Export every graph, compare each with torch, and write the bundle."""
    from limner.export.stylegan2.networks import load_networks
    from limner.export.stylegan2.writer import ExportConfig, check_target, export_checkpoints, find_extras
    from limner.runtime.bundle.shipped import checkpoints_folder
    from limner.runtime.errors import InputError

    for field, value, allowed in (
        ("weights_storage", weights_storage, ("fp16", "fp32")),
        ("preprocess", preprocess, ("correct", "published")),
    ):
        if value not in allowed:
            raise InputError(field, repr(value), " or ".join(allowed))
    if not all(part.strip().isdecimal() for part in batches.split(",")):
        raise InputError("batches", repr(batches), "numbers with commas between, as 1,2")
    sizes = tuple(int(part) for part in batches.split(","))
    if model is not None:
        from limner.export.diffusion.cli import run

        if checkpoints is not None:
            raise InputError("checkpoints", "a folder beside --model", "one of the two")
        from limner.export.diffusion.lora import parse_loras

        budget: dict[str, Any] = {} if memory is None else {"memory": memory}
        found = run(model, out, edited_layers, blend_layers, dry_run, in_place, name=name, opset=opset,
                    loras=parse_loras(lora or ()), **budget,
                    tolerance=tolerance, weights_storage=weights_storage, batches=sizes)  # fmt: skip
        _report(as_json, found)
        return
    for option, given in (("in-place", in_place), ("lora", lora), ("memory", memory is not None),
                          ("edited-layers", edited_layers), ("blend-layers", blend_layers)):  # fmt: skip
        if given:
            raise InputError(option, f"--{option} without --model", "with --model alone")
    folder = checkpoints_folder() / "avatars" if checkpoints is None else checkpoints
    target = folder / "bundle" if out is None else out
    config = ExportConfig(name, opset, weights_storage, preprocess, tolerance, sizes)  # type: ignore[arg-type]
    if dry_run:
        check_target(target)
        extras, networks = find_extras(folder), load_networks(folder, config.preprocess)
        _report(as_json, _plan(target, config, extras, networks))
        return
    bundle = export_checkpoints(folder, target, config, say=lambda line: print(line, file=sys.stderr, flush=True))
    graphs = {key: graph.parity.max_rel_error for key, graph in bundle.manifest.graphs.items() if graph.parity}
    size = sum(meta.size for meta in bundle.manifest.files.values()) / 1e6
    _report(as_json, {"bundle": str(target), "digest": bundle.digest, "megabytes": size, "max_rel_error": graphs})


@app.command("judge")
def judge(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A judge's folder, which gets judge.onnx.")] = Path(
        "checkpoints/avatars/judge"
    ),
    as_json: JsonOption = False,
) -> None:
    """Write an attribute judge as a graph beside its weights, so that judging needs no torch."""
    from limner.export.judge import export_judge

    _report(as_json, {"judge": str(folder), "max_rel_error": export_judge(folder)})


app.command("tensorrt")(tensorrt)
app.command("precision")(precision)


def _plan(target: Path, config: Any, extras: Any, networks: Any) -> dict[str, Any]:
    from limner.export.stylegan2.graphs import build_specs

    return {
        "out": str(target),
        "graphs": list(build_specs(networks)),
        "opset": config.opset,
        "weights_storage": config.weights_storage,
        "tolerance": config.tolerance,
        "batches": list(config.batches),
        "relevance": extras.relevance is not None,
        "presets": extras.presets is not None,
        "licences": sorted({entry.licence for entry in extras.licences}),
    }


def _report(as_json: bool, found: dict[str, Any]) -> None:
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for key, value in found.items():
        print(f"{key}: {value}")
