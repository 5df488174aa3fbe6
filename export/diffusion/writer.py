"""From a diffusers folder to a diffusion bundle: graphs exported, compared with torch, written whole or not at all."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from limner.export.diffusion.cached import cut
from limner.export.diffusion.filtered import DEFAULT_MEMORY, Filtered, filtered, filtered_autoencoder
from limner.export.diffusion.folder import DiffusionFolder, licences_of, read_folder
from limner.export.diffusion.in_place import FolderWeights, put_into
from limner.export.diffusion.layers import ControlledLayers, choose_layers, stride
from limner.export.diffusion.lora import merge_loras
from limner.export.diffusion.picture import compare_picture
from limner.export.diffusion.report import add_picture, write_reports
from limner.export.diffusion.specs import TracedGraph, folder_graphs
from limner.export.onnx.weights import WEIGHTS, Storage, WeightFile, data_files
from limner.export.report import parity
from limner.export.stylegan2.graphs import OPSET
from limner.export.stylegan2.writer import PRESETS, Say, check_target, read_presets
from limner.runtime.bundle.loading import Bundle, load_bundle, write_manifest
from limner.runtime.bundle.manifest import BundleManifest, ClipMeta, DiffusionMeta, TokenizerMeta
from limner.runtime.bundle.parts import GraphMeta, ParityMeta
from limner.runtime.bundle.vocabulary import FILE as WORDS
from limner.runtime.diffusion.caching import CACHED
from limner.runtime.errors import InputError, nearest
from limner.runtime.methods.registry import find_method, method_names
from limner.runtime.schema import from_dict
from limner.runtime.settings import DiffusionInversionParameters, SamplingParameters
from limner.runtime.storage.folders import folder_beside, open_to_readers, put_in_place
from limner.runtime.versions import package_version

if TYPE_CHECKING:
    import onnx_ir as ir

SCHEDULER = "scheduler/scheduler_config.json"
BATCHES = (1, 2, 3)
CPU_FORM = "{}.cpu.onnx"  # of a graph
MOST_MEMORY = 4096.0


@dataclass(frozen=True)
class DiffusionExport:
    """How a diffusion bundle is made."""

    name: str = "avatars"
    opset: int = OPSET
    weights_storage: Storage = "fp16"  # graphs compute in fp32, attention included
    tolerance: float = parity.TOLERANCE  # relative, of every output of every graph in every case
    batches: tuple[int, ...] = BATCHES  # of the comparison
    threads: int = 1  # of the comparison
    edited_layers: tuple[str, ...] = ()  # patterns; none takes Prompt-to-Prompt's own choice
    blend_layers: tuple[str, ...] = ()
    loras: tuple[tuple[Path, float], ...] = ()  # files that are merged into the weights, each with its scale
    memory: float = DEFAULT_MEMORY  # GB that a session on the UNet may take on a CPU; 0 writes no form for CPUs

    def __post_init__(self) -> None:
        if not 18 <= self.opset <= 20:
            raise InputError("opset", self.opset, "18 to 20 for diffusion models")
        if not 0 < self.tolerance < 1:
            raise InputError("tolerance", self.tolerance, "a number between 0 and 1")
        if not 0 <= self.memory <= MOST_MEMORY:
            raise InputError("memory", self.memory, f"gigabytes from 0 (no form for CPUs) to {MOST_MEMORY:g}")
        if not self.batches or min(self.batches) < 1:
            raise InputError("batches", list(self.batches), "batch sizes from 1")


def export_folder(
    model: Path,
    out: Path | None,  # None: in place, among the folder's own weights
    config: DiffusionExport = DiffusionExport(),
    say: Say = print,
) -> Bundle:
    """Export the diffusers folder `model` as the bundle `out`.

    Raises InputError for a folder or layers that do not fit, LimnerError when a graph is not on par with torch.
    """
    if out is not None:
        check_target(out)
    folder = read_folder(model, say)
    merge_loras(folder, config.loras, say)
    layers = choose_layers(folder.unet, config.edited_layers, config.blend_layers)
    if config.weights_storage == "fp16":
        folder.round_to_fp16()
    return write_bundle(folder, layers, out, config, say)


def write_bundle(
    folder: DiffusionFolder,
    layers: ControlledLayers,
    out: Path | None,
    config: DiffusionExport = DiffusionExport(),
    say: Say = print,
) -> Bundle:
    """Write the bundle, all of it or nothing."""
    target = (folder.root if out is None else out).absolute()
    presets_of(folder.root)
    with folder_beside(target) as beside:
        graphs = folder_graphs(folder, layers)
        weights = WeightFile(beside, config.weights_storage)
        if out is None:
            weights = FolderWeights(beside, config.weights_storage, folder.root, folder.weights)
        reports = write_graphs(graphs, beside, weights, folder, config, say)
        write_reports(beside, list(reports.values()), config.tolerance)
        _copy_files(folder, beside)
        meta = manifest(folder, layers, graphs, reports, config, beside)
        found = compare_picture(folder, write_manifest(beside, meta), config.threads)
        say(found.sentence())
        add_picture(beside, found)
        write_manifest(beside, meta)
        open_to_readers(beside)
        if out is None:
            put_into(beside, target)
        else:
            put_in_place(beside, target)
    return load_bundle(target, verify_hashes=False)


def write_graphs(
    graphs: dict[str, TracedGraph],
    out: Path,
    weights: WeightFile,
    folder: DiffusionFolder,
    config: DiffusionExport,
    say: Say = print,
) -> dict[str, parity.GraphParity]:
    """Export each graph with its weights outside, in a form for CPUs too, and compare all cases with torch."""
    models: dict[str, ir.Model] = {}
    for name, graph in graphs.items():
        if name == CACHED:
            model = cut(models.pop("unet"), [tensor.name for tensor in graph.spec.inputs])
        else:
            model = graph.export(config.opset)
        if name == "unet":
            models[name] = model.clone()  # as it is before its weights move
        weights.save(model, out / f"{name}.onnx")
        if (found := for_cpus(name, model, folder, config.memory)).convolutions:
            weights.save(model, out / CPU_FORM.format(name))
            say(f"{CPU_FORM.format(name)}: {found.sentence}, of {config.memory:g}")
    say(f"{WEIGHTS}: {weights.size / 1e6:.1f} MB, {weights.shared / 1e6:.1f} MB saved by sharing")
    if not weights.size:
        (out / WEIGHTS).unlink()
    reports = {}
    for name, graph in graphs.items():
        path, form = out / f"{name}.onnx", out / CPU_FORM.format(name)
        report = compare(graph, path, config)
        if form.is_file():
            report = joined(report, compare(graph, form, config), "on CPUs")
        reports[name] = report
        say(f"{name}: relative error {report.max_rel_error:.1e}, {path.stat().st_size / 1e3:.0f} kB")
    return reports


def for_cpus(name: str, model: ir.Model, folder: DiffusionFolder, memory: float) -> Filtered:
    """Give a graph its form for CPUs, in place, as far as memory goes; text encoders have none."""
    if name in ("unet", CACHED):
        return filtered(model, folder.unet, memory)
    if name in ("vae_encoder", "vae_decoder"):
        return filtered_autoencoder(model, folder.vae, memory)
    return Filtered()


@torch.no_grad()
def compare(graph: TracedGraph, path: Path, config: DiffusionExport) -> parity.GraphParity:
    """The errors of all cases of a graph; those of further cases are named "<output>, plain"."""
    report = parity.measure(graph.spec, path, config.batches, config.tolerance, threads=config.threads)
    for spec in graph.more:
        other = parity.measure(spec, path, config.batches, config.tolerance, threads=config.threads)
        report = joined(report, other, "plain")
    return report


def joined(report: parity.GraphParity, other: parity.GraphParity, label: str) -> parity.GraphParity:
    """A report with the errors of another one, its outputs named "<output>, <label>"."""
    return replace(
        report,
        outputs=report.outputs | {f"{name}, {label}": error for name, error in other.outputs.items()},
        worst=report.worst | {f"{name}, {label}": error for name, error in other.worst.items()},
    )


def manifest(
    folder: DiffusionFolder,
    layers: ControlledLayers,
    graphs: dict[str, TracedGraph],
    reports: dict[str, parity.GraphParity],
    config: DiffusionExport,
    written: Path,  # folder with the graphs
) -> BundleManifest:
    """bundle.json but for the hashes of the files."""
    vae, unet = folder.vae.config, folder.unet
    factor = 2 ** (len(vae.block_out_channels) - 1)
    height, width = folder.sample_size
    return BundleManifest(
        name=config.name,
        created_by=f"limner {package_version('limner') or 0}",
        family="diffusion",
        opset=config.opset,
        weights_storage=config.weights_storage,
        clip=ClipMeta(
            embedding=folder.text_width,
            context_length=folder.tokens,
            eos=folder.eos,
            pad=folder.pad,
            image_size=height * factor,
        ),
        diffusion=DiffusionMeta(
            scaling_factor=float(vae.scaling_factor),
            prediction_type=folder.prediction_type,  # type: ignore[arg-type]
            latent_channels=int(vae.latent_channels),
            sample_size=height,
            sample_width=0 if width == height else width,
            latents_mean=folder.latents_mean,
            latents_std=folder.latents_std,
            vae_factor=factor,
            multiple=factor * stride(unet),
            scheduler=SCHEDULER,
            edited_layers=layers.edited,
            blend_layers=layers.blends,
            pooled=folder.pooled,
            second_pad=folder.second_pad,
            zero_empty=folder.zero_empty,
        ),
        tokenizer=TokenizerMeta(
            added="tokenizer/added_tokens.json" if folder.tokenizer.added else "",
            words=f"tokenizer/{WORDS}" if (folder.root / "tokenizer" / WORDS).is_file() else "",
        ),
        constants=None,
        graphs={name: _graph_meta(name, graph, reports[name], written) for name, graph in graphs.items()},
        licences=licences_of(folder.root),
        **presets_of(folder.root),
    )


def presets_of(root: Path) -> dict[str, Any]:
    """The fields of the folder's presets.json, checked; InputError naming a section or a value that is not allowed."""
    path = root / PRESETS
    found = read_presets(path if path.is_file() else None)
    sections: dict[str, type[Any]] = {"sampling": SamplingParameters}
    for name in method_names():
        if (method := find_method(name)).family == "diffusion":
            sections |= {name: method.parameters, f"{name}.pictures": method.parameters}
            sections |= {f"{name}.inversion": DiffusionInversionParameters}
    for name, values in found.get("defaults", {}).items():
        if name not in sections:
            raise InputError(f"{PRESETS}:defaults", repr(name), ", ".join(sections), nearest(name, sections))
        from_dict(sections[name], values, f"{PRESETS}:defaults.{name}")
    return found


def _graph_meta(name: str, graph: TracedGraph, report: parity.GraphParity, folder: Path) -> GraphMeta:
    cases = len(report.batches) * (1 + len(graph.more))
    measured = ParityMeta(report.max_rel_error, report.tolerance, cases, report.outputs)
    files = [file for file in (f"{name}.onnx", CPU_FORM.format(name)) if (folder / file).is_file()]
    data = tuple(dict.fromkeys(path for file in files for path in data_files(folder / file)))
    return GraphMeta(files[0], graph.spec.inputs, graph.spec.outputs, data, measured, "".join(files[1:]))


def _copy_files(folder: DiffusionFolder, out: Path) -> None:
    (out / "scheduler").mkdir()
    shutil.copyfile(folder.scheduler, out / SCHEDULER)
    folder.tokenizer.write(out / "tokenizer")
    for name in ("vocab.json", "merges.txt", WORDS):  # the files as they are, where there are any
        if (folder.root / "tokenizer" / name).is_file():
            shutil.copyfile(folder.root / "tokenizer" / name, out / "tokenizer" / name)


def plan(model: Path, out: Path | None, config: DiffusionExport) -> dict[str, Any]:
    """What an export would do, after every check that needs no export."""
    if out is not None:
        check_target(out)
    folder = read_folder(model)
    merge_loras(folder, config.loras)
    layers = choose_layers(folder.unet, config.edited_layers, config.blend_layers)
    parameters = {
        name: sum(weight.numel() for weight in module.parameters())
        for name, module in zip(("unet", "vae", "text_encoder", "text_encoder_2"), folder.modules, strict=False)
    }
    return {
        "out": str(model if out is None else out),
        "graphs": ["text_encoder", "vae_encoder", "vae_decoder", "unet", CACHED],
        "parameters": parameters,
        "opset": config.opset,
        "weights_storage": config.weights_storage,
        "tolerance": config.tolerance,
        "batches": list(config.batches),
        "prediction_type": folder.prediction_type,
        "edited_layers": list(layers.edited),
        "blend_layers": list(layers.blends),
        "licences": sorted({entry.licence for entry in licences_of(model)}),
    }
