"""From checkpoints to a bundle: every graph exported, compared with torch, written beside the place and renamed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from limner.export.onnx.weights import WEIGHTS, Storage, WeightFile
from limner.export.report import parity
from limner.export.report.cards import read_licences
from limner.export.stylegan2.graphs import OPSET, GraphSpec, build_specs, export_graph
from limner.export.stylegan2.networks import FOLDERS, Networks, load_networks
from limner.runtime.bundle.loading import Bundle, load_bundle, write_manifest
from limner.runtime.bundle.manifest import (
    MANIFEST,
    BundleManifest,
    ClipMeta,
    EncoderMeta,
    IdentityMeta,
    LicenceMeta,
    LimitsMeta,
    TokenizerMeta,
)
from limner.runtime.bundle.mappers import FOLDER, MapperMeta
from limner.runtime.bundle.parts import GeneratorMeta, GraphMeta, LayerMeta, ParityMeta, TensorMeta
from limner.runtime.bundle.vocabulary import FILE as WORDS
from limner.runtime.errors import InputError, LimnerError
from limner.runtime.schema import from_dict, read_json
from limner.runtime.storage.folders import folder_beside, open_to_readers, put_in_place
from limner.runtime.stylegan2.spaces import SLOPE
from limner.runtime.versions import package_version
from limner.training.models.mapper import generator_digest
from limner.training.models.stylegan2 import Generator

RELEVANCE = "relevance.safetensors"
RELEVANCE_TENSORS = ("relevance", "style_mean", "style_std")
PRESETS = "presets.json"  # {"defaults": {method: {...}}, "neutrals": {...}, "limits": {...}}
Say = Callable[[str], None]


@dataclass(frozen=True)
class ExportConfig:
    """How a bundle is made."""

    name: str = "avatars"
    opset: int = OPSET
    weights_storage: Storage = "fp16"
    preprocess: Literal["correct", "published"] = "correct"  # of CLIP's input
    tolerance: float = parity.TOLERANCE  # relative, of every output of every graph
    batches: tuple[int, ...] = parity.BATCHES  # of the comparison
    threads: int = 1  # of the comparison

    def __post_init__(self) -> None:
        if not 18 <= self.opset <= 23:
            raise InputError("opset", self.opset, "18 to 23")
        if not 0 < self.tolerance < 1:
            raise InputError("tolerance", self.tolerance, "a number between 0 and 1")
        if not self.batches or min(self.batches) < 1:
            raise InputError("batches", list(self.batches), "batch sizes from 1")


@dataclass(frozen=True)
class Extras:
    """What a bundle holds beside its graphs."""

    tokenizer: Path  # folder with vocab.json and merges.txt
    relevance: Path | None = None  # safetensors: relevance [S,C], style_mean [S], style_std [S]
    presets: Path | None = None  # JSON: defaults and neutrals
    licences: tuple[LicenceMeta, ...] = ()


def export_checkpoints(checkpoints: Path, out: Path, config: ExportConfig = ExportConfig(), say: Say = print) -> Bundle:
    """Export the checkpoints below a folder as the bundle `out`. Raises LimnerError when a graph is not on par."""
    check_target(out)
    extras = find_extras(checkpoints)
    networks = load_networks(checkpoints, config.preprocess)
    return write_bundle(networks, extras, out, config, say)


def find_extras(checkpoints: Path) -> Extras:
    """Tokenizer, relevance, presets and licences of a folder of checkpoints."""
    tokenizer, edits = checkpoints / FOLDERS["clip"], checkpoints / "edits"
    for name in ("vocab.json", "merges.txt"):
        if not (tokenizer / name).is_file():
            raise InputError(
                "checkpoints", f"no clip/{name} in {str(checkpoints)!r}", "the tokenizer beside CLIP's weights"
            )
    licences = [entry for name in FOLDERS.values() for entry in read_licences(checkpoints / name, name)]
    mappers = sorted(path.parent for path in (checkpoints / FOLDER).glob("*/config.json"))
    licences += [entry for place in mappers for entry in read_licences(place, f"{FOLDER}/{place.name}")]
    relevance, presets = edits / RELEVANCE, edits / PRESETS
    return Extras(
        tokenizer,
        relevance if relevance.is_file() else None,
        presets if presets.is_file() else None,
        tuple(dict.fromkeys(licences)),
    )


def check_target(out: Path) -> None:
    """Refuse to replace anything but a bundle or an empty folder."""
    if out.exists() and not out.is_dir():
        raise InputError("out", f"the file {str(out)!r}", "a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise InputError("out", f"the folder {str(out)!r} with other files", "a new or empty folder, or an old bundle")
    if not out.absolute().parent.is_dir():
        raise InputError("out", f"a path in the missing folder {str(out.parent)!r}", "a path in an existing folder")


def write_bundle(
    networks: Networks, extras: Extras, out: Path, config: ExportConfig = ExportConfig(), say: Say = print
) -> Bundle:
    """Write the bundle `out`, all of it or nothing. Raises LimnerError when a graph is not on par with torch."""
    check_target(out)
    out = out.absolute()
    with folder_beside(out) as beside:
        if config.weights_storage == "fp16":
            with torch.no_grad():
                networks.round_to_fp16()
        specs = build_specs(networks)
        reports = write_graphs(list(specs.values()), beside, config, say)
        _write_reports(beside, reports, config.tolerance)
        _write_extras(beside, networks, extras)
        write_manifest(beside, manifest(networks, specs, reports, extras, config))
        open_to_readers(beside)
        put_in_place(beside, out)
    return load_bundle(out)


def write_graphs(
    specs: Sequence[GraphSpec], folder: Path, config: ExportConfig, say: Say = print
) -> list[parity.GraphParity]:
    """Export each graph into `folder` with shared weights, and compare it with torch."""
    weights = WeightFile(folder, config.weights_storage)
    reports = []
    for spec in specs:
        path = weights.save(export_graph(spec, config.opset), folder / f"{spec.name}.onnx")
        report = parity.measure(spec, path, config.batches, config.tolerance, threads=config.threads)
        say(f"{spec.name}: relative error {report.max_rel_error:.1e}, {path.stat().st_size / 1e3:.0f} kB")
        reports.append(report)
    say(f"{WEIGHTS}: {weights.size / 1e6:.1f} MB, {weights.shared / 1e6:.1f} MB saved by sharing")
    return reports


def _write_reports(folder: Path, reports: Sequence[parity.GraphParity], tolerance: float) -> None:
    text = json.dumps(parity.as_json(reports), indent=1) + "\n"
    (folder / "parity.json").write_text(text, encoding="utf-8")
    (folder / "parity.md").write_text(parity.as_markdown(reports), encoding="utf-8")
    failed = [f"{report.graph} {report.max_rel_error:.1e}" for report in reports if not report.passed]
    if failed:
        raise LimnerError(f"{len(failed)} graphs differ from torch by more than {tolerance:g}: {', '.join(failed)}")


def _write_extras(folder: Path, networks: Networks, extras: Extras) -> None:
    (folder / "tokenizer").mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(extras.tokenizer / name, folder / "tokenizer" / name)
    if (extras.tokenizer / WORDS).is_file():
        shutil.copyfile(extras.tokenizer / WORDS, folder / "tokenizer" / WORDS)
    latent_avg = networks.generator.get_buffer("latent_avg").numpy().astype(np.float32)
    constants = {"latent_avg": latent_avg, "mapped_basis": mapped_basis(networks.generator)}
    save_file(constants, folder / "constants.safetensors")
    if extras.relevance is not None:
        tensors = load_file(extras.relevance)
        kept: dict[str, NDArray[Any]] = {name: tensors[name] for name in RELEVANCE_TENSORS if name in tensors}
        save_file(kept, folder / RELEVANCE)


@torch.no_grad()
def mapped_basis(generator: Generator, samples: int = 50_000, seed: int = 0) -> NDArray[np.float32]:
    """[D,D]: the principal axes of mapped samples before their last leaky ReLU, each times its standard deviation
    (Zhu et al. 2020, section 3.2), the largest first."""
    rng, size = torch.Generator().manual_seed(seed), generator.config.w_dim
    total, square = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
    for start in range(0, samples, 5000):
        z = torch.randn(min(5000, samples - start), generator.config.z_dim, generator=rng)
        w = generator.mapping(z).double()
        p = torch.where(w < 0, w / SLOPE, w)
        total, square = total + p.sum(0), square + p.T @ p
    mean = total / samples
    values, axes = torch.linalg.eigh(square / samples - torch.outer(mean, mean))
    found: NDArray[np.float32] = (axes * values.clamp_min(0).sqrt()).T.flip(0).float().numpy().copy()
    return found


def manifest(
    networks: Networks,
    specs: dict[str, GraphSpec],
    reports: Sequence[parity.GraphParity],
    extras: Extras,
    config: ExportConfig,
) -> BundleManifest:
    """bundle.json but for the hashes of the files."""
    generator = networks.generator
    text = networks.clip.config.text_config
    layers = tuple(LayerMeta(s.name, s.resolution, s.channels, s.kind, s.w_index) for s in generator.layers)  # type: ignore[arg-type]
    sizes = generator.config
    return BundleManifest(
        name=config.name,
        created_by=f"limner {package_version('limner') or 0}",
        opset=config.opset,
        weights_storage=config.weights_storage,
        generator=GeneratorMeta(
            sizes.size,
            sizes.z_dim,
            sizes.w_dim,
            generator.num_ws,
            generator.num_style_channels,
            layers,
            generator_digest(generator.state_dict()),
        ),
        clip=ClipMeta(
            embedding=networks.clip.config.projection_dim,
            context_length=text.max_position_embeddings,
            eos=text.eos_token_id,
            pad=text.pad_token_id,
            image_size=networks.clip.config.vision_config.image_size,
            preprocess=config.preprocess,
        ),
        identity=IdentityMeta(int(_output(specs["identity"]).shape[-1])),
        encoder=EncoderMeta(),
        graphs={report.graph: _graph_meta(specs[report.graph], report) for report in reports},
        relevance=None if extras.relevance is None else RELEVANCE,
        licences=extras.licences,
        mappers={
            name: MapperMeta(m.config.prompt or name, m.config.space, m.config.generator, m.config.strength)
            for name, m in networks.mappers.items()
        },
        tokenizer=TokenizerMeta(words=f"tokenizer/{WORDS}" if (extras.tokenizer / WORDS).is_file() else ""),
        **read_presets(extras.presets),
    )


def _output(spec: GraphSpec) -> TensorMeta:
    return spec.outputs[0]


def _graph_meta(spec: GraphSpec, report: parity.GraphParity) -> GraphMeta:
    measured = ParityMeta(report.max_rel_error, report.tolerance, len(report.batches), report.outputs)
    return GraphMeta(f"{spec.name}.onnx", spec.inputs, spec.outputs, (WEIGHTS,), measured)


def read_presets(path: Path | None) -> dict[str, Any]:
    """The fields of presets.json, which are fields of the manifest; InputError for others."""
    if path is None:
        return {}
    found = read_json(path, path.name)
    known = {"defaults", "neutrals", "limits"} & {field.name for field in fields(BundleManifest)}
    if not isinstance(found, dict) or not set(found) <= known:
        raise InputError(path.name, "other keys", ", ".join(sorted(known)))
    if "limits" in found:
        found["limits"] = from_dict(LimitsMeta, found["limits"], f"{path.name}:limits")
    return found
