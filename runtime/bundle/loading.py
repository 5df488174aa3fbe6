"""Bundles: a folder of graphs that the runtime checks before it uses it.

The format, schema version 1:

- `bundle.json` is one UTF-8 JSON object, its keys exactly the fields of `BundleManifest`. An unknown key, a
  key twice, a missing key, a value of another type, NaN and infinity are refused. Keys with a default may be
  left out.
- `schema_version` is 1. A reader refuses every other version.
- `files` lists every other file of the bundle by its relative path with sha256 and size in bytes. A path uses
  "/", has no empty part, no ".", no "..", no "\\\\", no ":" and does not leave the folder through a link.
- Every path named elsewhere (`graphs.*.file`, `graphs.*.data`, `tokenizer`, `constants`, `relevance`) is in
  `files`.
- Loading compares the size and the sha256 of every listed file. The runtime opens no other file by name.
- A graph's weights lie in the files that its `data` names and nowhere else; the runtime reads the paths in the ONNX
  file itself and refuses others, whatever ONNX Runtime would do (`limner.runtime.bundle.onnx_files`).
- What was verified is what runs: a graph is read and verified again when it is loaded, and its weights if the file
  system says that they changed. Weights that are written over in place while they are in use are refused.
- `graphs` maps a name to an ONNX file and its inputs and outputs (name, dtype, shape). A string in a shape is
  a dimension that the caller chooses; the same string means the same number throughout one call.
- Weights lie in the files named by `data`, usually one `weights.bin` that all graphs share.
- `generator.layers` are the synthesis layers in the order of style_channels; their channels add up to
  `generator.style_channels`, and `num_ws` is 2 * log2(size) - 2.
- `family` is "stylegan2" (with `generator` and `constants`) or "diffusion" (with `diffusion`; `constants` null).
- `constants` is a safetensors file with latent_avg [w_dim] float32, and maybe mapped_basis [w_dim,w_dim]: the
  principal axes of mapped samples in P, each as long as its standard deviation (`limner.runtime.stylegan2.spaces`).
- `relevance`, if there, is a safetensors file with relevance [style_channels, clip.embedding], style_mean
  [style_channels] and style_std [style_channels].
- `mappers` names the latent mappers: NAME is the graph "mapper_NAME", from `w_plus` or `style_channels` to a `step` of
  the same shape. One that was trained on a generator other than `generator.weights` is refused.
- A graph's `parity` records its error against the torch module; one above its own tolerance is refused.
- `tokenizer.words`, if there, names words.txt (`limner.runtime.bundle.vocabulary`); `limits` says from where on an edit
  warns.
- `ranges` says which sizes a dimension may take; one that it does not name may take any.
- `engines` lists graphs compiled for certain GPUs, each with the hash of the graph that it was built from. An
  engine whose graph has changed since is never loaded.

The bundle's identity (`Bundle.digest`, kept in every recipe) is the sha256 of bundle.json, which holds the
hash of everything else. Engines change no picture by more than rounding and come and go: they are left out of it.
"""

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    BundleManifest,
    DiffusionMeta,
    FileMeta,
    check_manifest,
)
from limner.runtime.bundle.onnx_files import check_external_data
from limner.runtime.bundle.parts import GeneratorMeta, GraphMeta
from limner.runtime.bundle.vocabulary import read_vocabulary
from limner.runtime.errors import BundleError, MissingGraphError, nearest
from limner.runtime.schema import from_dict, parse_json, to_dict
from limner.runtime.storage.files import read_plain, sha256_bytes, sha256_file, user_path, write_atomically
from limner.runtime.storage.held_files import Stamp, stamp_of

MAX_MANIFEST_BYTES = 16 << 20
MAX_GRAPH_BYTES = (2 << 30) - 1  # what protobuf holds


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: `root` (absolute), `manifest` and `digest`."""

    root: Path
    manifest: BundleManifest
    digest: str = field(default="")
    stamps: dict[str, Stamp] = field(default_factory=dict, compare=False, repr=False)  # of the files as verified
    presets: dict[Any, Any] = field(
        init=False, default_factory=dict, compare=False, repr=False
    )  # as read, see `bundle.presets`

    def graph(self, name: str) -> GraphMeta:
        """Return a graph's entry; raise MissingGraphError naming the graph and the known ones."""
        graphs = self.manifest.graphs
        if name not in graphs:
            known = ", ".join(sorted(graphs)) or "none"
            given = f"no graph {name!r} in the bundle {self.manifest.name!r}"
            raise MissingGraphError(
                "graph",
                given,
                known,
                nearest(name, graphs) or "export the bundle again with it",
            )
        return graphs[name]

    def file(self, relative: str) -> Path:
        """Return the absolute path of a listed file; raise BundleError for any other."""
        if relative not in self.manifest.files:
            raise BundleError("files", f"no file {relative!r}", "a file listed in bundle.json")
        return self.root / relative

    def require_unchanged(self, *relatives: str) -> None:
        """Raise BundleError for a listed file that is no longer what was verified; a changed stamp is looked into."""
        for relative in relatives:
            path = self.file(relative)
            try:
                now = stamp_of(path)
            except OSError as reason:
                raise BundleError(relative, f"{reason.strerror or reason}", "the file that was verified") from reason
            if self.stamps.get(relative) != now:
                _check_file(self.root, relative, self.manifest.files[relative], True)
                self.stamps[relative] = now

    def graph_bytes(self, name: str, provider: str = "") -> bytes:
        """Return a graph's ONNX file, verified now, and with no weights but those in the files that its entry names."""
        graph = self.graph(name)
        file = graph.file_on(provider)
        data = read_plain(self.file(file), file, MAX_GRAPH_BYTES, "an ONNX graph", BundleError)
        if sha256_bytes(data) != self.manifest.files[file].sha256:
            raise BundleError(file, "other content than bundle.json knows", "the graph as it was exported")
        check_external_data(data, f"graphs.{name}.file", graph.data, file.rpartition("/")[0])
        self.require_unchanged(*graph.data)
        return data

    @property
    def generator(self) -> GeneratorMeta:
        """The generator's spaces; BundleError if this bundle holds no StyleGAN2."""
        if self.manifest.generator is None:
            raise self._other_family("stylegan2")
        return self.manifest.generator

    @property
    def diffusion(self) -> DiffusionMeta:
        """The diffusion model's figures; BundleError if this bundle holds none."""
        if self.manifest.diffusion is None:
            raise self._other_family("diffusion")
        return self.manifest.diffusion

    @property
    def image_size(self) -> int:
        """The side in pixels of the pictures that the bundle's model makes."""
        generator, diffusion = self.manifest.generator, self.manifest.diffusion
        return generator.size if generator is not None else diffusion.image_size if diffusion is not None else 0

    def _other_family(self, wanted: str) -> BundleError:
        given = f"{self.manifest.name!r}, a bundle of the family {self.manifest.family!r}"
        return BundleError("bundle", given, f"a bundle of the family {wanted!r}", "name another one with --bundle")

    @cached_property
    def vocabulary(self) -> frozenset[str] | None:
        """The words that the models were trained on; None for a bundle that does not say."""
        words = self.manifest.tokenizer.words
        return read_vocabulary(self.file(words)) if words else None

    @cached_property
    def latent_avg(self) -> NDArray[np.float32]:
        """The mean w of the mapping network, float32 [w_dim]."""
        shapes: dict[str, tuple[int, ...]] = {"latent_avg": (self.generator.w_dim,)}
        return self._tensors(self.manifest.constants or "", shapes)["latent_avg"]

    @cached_property
    def mapped_basis(self) -> NDArray[np.float32]:
        """The axes of P_N, float32 [w_dim,w_dim]; BundleError if the bundle was exported without them."""
        size = self.generator.w_dim
        try:
            return self._tensors(self.manifest.constants or "", {"mapped_basis": (size, size)})["mapped_basis"]
        except BundleError as reason:
            given = f"no mapped_basis in the bundle {self.manifest.name!r}"
            raise BundleError("parameters.space", given, "w_plus, w", "export the bundle again to have p_n") from reason

    @cached_property
    def relevance(self) -> dict[str, NDArray[np.float32]]:
        """relevance [S,C], style_mean [S] and style_std [S], float32; BundleError if the bundle has none."""
        if self.manifest.relevance is None:
            given = f"no channel relevance in the bundle {self.manifest.name!r}"
            raise BundleError(
                "relevance",
                given,
                "a bundle exported with relevance",
                "global directions need it",
            )
        channels = self.generator.style_channels
        shapes: dict[str, tuple[int, ...]] = {"relevance": (channels, self.manifest.clip.embedding)}
        shapes |= {"style_mean": (channels,), "style_std": (channels,)}
        return self._tensors(self.manifest.relevance, shapes)

    def _tensors(self, relative: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, NDArray[np.float32]]:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors: dict[str, NDArray[Any]] = load_file(self.file(relative))
        except (SafetensorError, OSError, KeyError, ValueError) as reason:
            raise BundleError(relative, f"a file that does not open ({reason})", "a safetensors file") from reason
        result = {}
        for name, shape in shapes.items():
            if name not in tensors or tensors[name].shape != shape:
                given = f"{list(tensors[name].shape)}" if name in tensors else "nothing"
                raise BundleError(f"{relative}:{name}", given, f"a tensor of shape {list(shape)}")
            result[name] = tensors[name].astype(np.float32)
            if not np.isfinite(result[name]).all():
                raise BundleError(f"{relative}:{name}", "NaN or infinity", "finite numbers")
        return result


def load_bundle(path: str | Path, *, verify_hashes: bool = True) -> Bundle:
    """Read and check the bundle in the folder `path` (or at the path of its bundle.json).

    `verify_hashes=False` leaves out the sha256 of the files, not their sizes; use it only right after a
    checked load.
    Raises BundleError, whose message names the file or the field.
    """
    root = _find_root(path)
    text = _read_manifest(root)
    manifest = parse_manifest(text)
    stamps = {relative: _check_file(root, relative, meta, verify_hashes) for relative, meta in manifest.files.items()}
    return Bundle(root=root, manifest=manifest, digest=identity(text), stamps=stamps)


def identity(text: bytes) -> str:
    """The digest of bundle.json: sha256 of its text, or of what `write_manifest` would write without its engines."""
    data = json.loads(text)
    engines = data.pop("engines", ())
    if not engines:
        return sha256_bytes(text)
    files = {engine["file"] for engine in engines}
    data["files"] = {name: meta for name, meta in data["files"].items() if name not in files}
    return sha256_bytes(manifest_text(data))


def manifest_text(data: dict[str, Any]) -> bytes:
    """bundle.json as it is written, from the JSON form of a manifest."""
    if not data.get("engines"):
        data = {key: value for key, value in data.items() if key != "engines"}
    return (json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def parse_manifest(text: str | bytes) -> BundleManifest:
    """Parse and check bundle.json alone, without its files; raise BundleError naming the field."""
    data = parse_json(text, MANIFEST, BundleError)
    if not isinstance(data, dict):
        raise BundleError(MANIFEST, "JSON that is not an object", "one object")
    version = data.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        newer = type(version) is int and version > SCHEMA_VERSION
        hint = "update limner" if newer else "export the bundle again"
        raise BundleError("schema_version", repr(version), str(SCHEMA_VERSION), hint)
    manifest = from_dict(BundleManifest, data, "", BundleError)
    check_manifest(manifest)
    return manifest


def write_manifest(root: str | Path, manifest: BundleManifest) -> Bundle:
    """Hash every file under `root` into `manifest.files`, write bundle.json, and load the result back."""
    root = Path(root)
    paths = sorted(path for path in root.rglob("*") if path.is_file() and path != root / MANIFEST)
    files = {path.relative_to(root).as_posix(): FileMeta(sha256_file(path), path.stat().st_size) for path in paths}
    manifest = replace(manifest, files=files)
    check_manifest(manifest)
    write_atomically(root / MANIFEST, manifest_text(to_dict(manifest)), field=MANIFEST)
    return load_bundle(root)


def _find_root(path: str | Path) -> Path:
    root = user_path(path, "bundle")
    try:
        if root.name == MANIFEST and not root.is_dir():
            root = root.parent
        if root.is_dir():
            return root.resolve()
    except OSError as reason:
        given = f"{reason.strerror or reason} for {str(root)!r}"
        raise BundleError("bundle", given, "the folder of a bundle") from reason
    raise BundleError("bundle", f"no folder at {str(root)!r}", "the folder of a bundle", "see `limner models`")


def _read_manifest(root: Path) -> bytes:
    path = root / MANIFEST
    if not path.is_file():
        raise BundleError(
            "bundle",
            f"no {MANIFEST} in {str(root)!r}",
            f"a folder with a {MANIFEST}",
            "see `limner models`",
        )
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(
                MANIFEST,
                f"{path.stat().st_size} bytes",
                f"at most {MAX_MANIFEST_BYTES} bytes",
            )
        return path.read_bytes()
    except OSError as reason:
        raise BundleError(MANIFEST, f"{reason.strerror or reason}", "a readable file") from reason


def _check_file(root: Path, relative: str, meta: FileMeta, verify_hash: bool) -> Stamp:
    """Return the stamp that the file had before it was read."""
    path = root / relative
    try:
        if not path.resolve().is_relative_to(root):
            raise BundleError(relative, "a link that leaves the bundle", "a file inside the bundle")
        if not path.is_file():
            raise BundleError(
                relative,
                "no such file in the bundle",
                "every file listed in bundle.json",
                "copy it again",
            )
        stamp = stamp_of(path)
        if stamp.size != meta.size:
            raise BundleError(
                relative,
                f"{stamp.size} bytes",
                f"{meta.size} bytes as bundle.json says",
                "copy it again",
            )
        if verify_hash and (digest := sha256_file(path)) != meta.sha256:
            given, allowed = (
                f"content with sha256 {digest[:12]}...",
                f"{meta.sha256[:12]}... as bundle.json says",
            )
            raise BundleError(relative, given, allowed, "the file was altered: copy it again")
        return stamp
    except OSError as reason:
        raise BundleError(relative, f"{reason.strerror or reason}", "a readable file") from reason
