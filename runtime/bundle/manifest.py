"""The dataclasses of bundle.json, schema version 1, and the rules between their fields.

The format in words: `limner.runtime.bundle.loading`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from limner.runtime.bundle.engines import EngineMeta, RangeMeta, check_engine, check_range
from limner.runtime.bundle.mappers import MapperMeta, check_mappers
from limner.runtime.bundle.parts import GeneratorMeta, GraphMeta
from limner.runtime.errors import BundleError

MANIFEST = "bundle.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ClipMeta:
    """The image and text towers: `embedding` channels; token ids that `pad` fills up to `context_length`."""

    embedding: int
    context_length: int
    eos: int
    pad: int
    image_size: int
    preprocess: Literal["correct", "published"] = "correct"


@dataclass(frozen=True)
class DiffusionMeta:
    """A latent diffusion model: latents [N,latent_channels,h,w], h = height / vae_factor, w likewise.

    Its graphs are text_encoder, vae_encoder, vae_decoder and unet; `limner.runtime.diffusion.networks` states
    their inputs and outputs. The text encoder's tokens are those of `clip`.
    """

    scaling_factor: float  # latents = scaling_factor * what the VAE encoder gives
    prediction_type: Literal["epsilon", "v_prediction", "sample"]
    latent_channels: int
    sample_size: int  # the latents' side that the model was trained at
    vae_factor: int = 8  # pixels per latent
    multiple: int = 8  # height and width in pixels are multiples of this: vae_factor times the UNet's own
    scheduler: str = "scheduler/scheduler_config.json"  # diffusers' file
    edited_layers: tuple[str, ...] = ()  # the UNet's attention layers that the control inputs reach
    blend_layers: tuple[str, ...] = ()  # those of them whose maps `blend_maps` averages
    pooled: int = 0  # channels of the pooled text that an SDXL-shaped UNet takes beside the token states; 0 is none
    second_pad: int = 0  # token that fills up the texts of the second text encoder, with `pooled`
    zero_empty: bool = False  # an empty text is all zeros
    sample_width: int = 0  # of the latents, where it differs from sample_size, which is then their height
    latents_mean: tuple[float, ...] = ()  # one a channel, none for zeros: latents = scaling_factor (z - mean) / std
    latents_std: tuple[float, ...] = ()  # one a channel, none for ones

    @property
    def image_size(self) -> int:
        """The side in pixels of the pictures that the model was trained on; the height, if they are not square."""
        return self.sample_size * self.vae_factor

    @property
    def image_width(self) -> int:
        """The width in pixels of the pictures that the model was trained on."""
        return (self.sample_width or self.sample_size) * self.vae_factor


@dataclass(frozen=True)
class IdentityMeta:
    """The identity network: unit vectors of `embedding` channels."""

    embedding: int


@dataclass(frozen=True)
class EncoderMeta:
    """The encoder picture -> w_plus; it takes the generator's own size."""


@dataclass(frozen=True)
class TokenizerMeta:
    """The byte-pair tokenizer's two files."""

    vocab: str = "tokenizer/vocab.json"
    merges: str = "tokenizer/merges.txt"
    added: str = ""  # added_tokens.json: tokens beyond the vocabulary, each with its id and flags; empty for none
    words: str = ""  # words.txt: the words of the captions that the models were trained on; empty for any words


@dataclass(frozen=True)
class LimitsMeta:
    """What an edit says of itself beyond its picture, measured on validation pictures; null is never said."""

    unchanged: float | None = None  # `pixel` of an edit below which nobody sees a change
    unlike: float | None = None  # `likeness` of a source below which it is nothing like the model's pictures


@dataclass(frozen=True)
class LicenceMeta:
    """Where one part (a model, a data set, a style of pictures) comes from and on what terms."""

    part: str
    licence: str
    creator: str
    source: str


@dataclass(frozen=True)
class FileMeta:
    """The content hash and the size in bytes of one file."""

    sha256: str
    size: int


@dataclass(frozen=True)
class BundleManifest:
    """The whole of bundle.json."""

    name: str
    created_by: str
    clip: ClipMeta
    graphs: dict[str, GraphMeta]
    licences: tuple[LicenceMeta, ...]
    generator: GeneratorMeta | None = None  # of the family stylegan2
    diffusion: DiffusionMeta | None = None  # of the family diffusion
    files: dict[str, FileMeta] = field(default_factory=dict)  # filled in by `write_manifest`
    schema_version: int = SCHEMA_VERSION
    family: Literal["stylegan2", "diffusion"] = "stylegan2"
    opset: int = 20
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    weights_storage: Literal["fp32", "fp16"] = "fp16"
    identity: IdentityMeta | None = None
    encoder: EncoderMeta | None = None
    tokenizer: TokenizerMeta = TokenizerMeta()
    constants: str | None = "constants.safetensors"  # latent_avg [w_dim]; null in the family diffusion
    relevance: str | None = None  # relevance [style_channels, clip.embedding], style_mean, style_std [style_channels]
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)  # parameters a method, see `presets`
    neutrals: dict[str, str] = field(default_factory=dict)  # words to take out for a neutral text
    limits: LimitsMeta = LimitsMeta()
    ranges: dict[str, RangeMeta] = field(default_factory=dict)  # dimension chosen by the caller -> its sizes
    engines: tuple[EngineMeta, ...] = ()  # graphs compiled ahead of time
    mappers: dict[str, MapperMeta] = field(default_factory=dict)  # name -> mapper, its graph is "mapper_<name>"


def check_manifest(manifest: BundleManifest) -> None:
    """Check what the types alone do not say; raise BundleError naming the field."""
    for relative, meta in manifest.files.items():
        _check_path("files", relative)
        if len(meta.sha256) != 64 or not set(meta.sha256) <= set("0123456789abcdef"):
            raise BundleError(
                f"files.{relative}.sha256",
                repr(meta.sha256),
                "64 lower-case hexadecimal digits",
            )
        if meta.size < 0:
            raise BundleError(f"files.{relative}.size", meta.size, "0 or more bytes")
    for where, relative in _references(manifest):
        _check_path(where, relative)
        if relative not in manifest.files:
            raise BundleError(
                where,
                f"{relative!r}, which `files` does not list",
                "a file listed in `files`",
            )
    for name, graph in manifest.graphs.items():
        _check_graph(name, graph)
    for name, sizes in manifest.ranges.items():
        check_range(f"ranges.{name}", sizes)
    for index, engine in enumerate(manifest.engines):
        check_engine(f"engines[{index}]", engine, manifest.graphs)
    _check_family(manifest)
    check_mappers(manifest.mappers, manifest.graphs, manifest.generator)
    if manifest.generator is not None:
        _check_generator(manifest.generator)
    if manifest.diffusion is not None:
        _check_diffusion(manifest.diffusion)


def _references(manifest: BundleManifest) -> Iterator[tuple[str, str]]:
    """Yield (field, path) for every path that the manifest names outside `files`."""
    yield "tokenizer.vocab", manifest.tokenizer.vocab
    yield "tokenizer.merges", manifest.tokenizer.merges
    if manifest.tokenizer.added:
        yield "tokenizer.added", manifest.tokenizer.added
    if manifest.tokenizer.words:
        yield "tokenizer.words", manifest.tokenizer.words
    if manifest.constants is not None:
        yield "constants", manifest.constants
    if manifest.diffusion is not None:
        yield "diffusion.scheduler", manifest.diffusion.scheduler
    if manifest.relevance is not None:
        yield "relevance", manifest.relevance
    for name, graph in manifest.graphs.items():
        yield f"graphs.{name}.file", graph.file
        if graph.cpu:
            yield f"graphs.{name}.cpu", graph.cpu
        for index, data in enumerate(graph.data):
            yield f"graphs.{name}.data[{index}]", data
    for index, engine in enumerate(manifest.engines):
        yield f"engines[{index}].file", engine.file


def _check_path(where: str, relative: str) -> None:
    parts = relative.split("/")
    outside = PurePosixPath(relative).is_absolute() or any(part in ("", ".", "..") for part in parts)
    if outside or relative == MANIFEST or any(character in relative for character in "\\:\0"):
        raise BundleError(where, f"the path {relative!r}", "a plain relative path inside the bundle")


def _check_graph(name: str, graph: GraphMeta) -> None:
    for kind, tensors in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        where = f"graphs.{name}.{kind}"
        names = [tensor.name for tensor in tensors]
        if not names or len(set(names)) != len(names):
            raise BundleError(where, f"the names {names}", "one or more different names")
        for tensor in tensors:
            if any(isinstance(size, int) and size < 1 for size in tensor.shape):
                raise BundleError(
                    f"{where}.{tensor.name}.shape",
                    list(tensor.shape),
                    "sizes of 1 or more",
                )
    parity = graph.parity
    if parity is not None and not parity.max_rel_error <= parity.tolerance:
        allowed = f"at most its tolerance {parity.tolerance:g}"
        raise BundleError(f"graphs.{name}.parity.max_rel_error", f"{parity.max_rel_error:g}", allowed)


def _check_family(manifest: BundleManifest) -> None:
    """The family's own section is there, and the other one's is not."""
    sections = {"stylegan2": ("generator", manifest.generator), "diffusion": ("diffusion", manifest.diffusion)}
    for family, (name, section) in sections.items():
        if family == manifest.family and section is None:
            raise BundleError(name, "nothing", f"the section of a bundle of the family {family!r}")
        if family != manifest.family and section is not None:
            raise BundleError(name, "a section", f"none in a bundle of the family {manifest.family!r}")
    if manifest.family == "stylegan2" and manifest.constants is None:
        raise BundleError("constants", "nothing", "a file with latent_avg in a bundle of the family 'stylegan2'")


def _check_diffusion(diffusion: DiffusionMeta) -> None:
    if not diffusion.scaling_factor > 0.0:
        raise BundleError("diffusion.scaling_factor", f"{diffusion.scaling_factor:g}", "a number above 0")
    for name in ("pooled", "second_pad"):
        if getattr(diffusion, name) < 0:
            raise BundleError(f"diffusion.{name}", getattr(diffusion, name), "0 or more")
    for name in ("latent_channels", "sample_size", "vae_factor", "multiple"):
        if getattr(diffusion, name) < 1:
            raise BundleError(f"diffusion.{name}", getattr(diffusion, name), "1 or more")
    if diffusion.multiple % diffusion.vae_factor:
        raise BundleError("diffusion.multiple", diffusion.multiple, f"a multiple of vae_factor, {diffusion.vae_factor}")
    if diffusion.sample_width < 0:
        raise BundleError("diffusion.sample_width", diffusion.sample_width, "0 or more")
    for name in ("latents_mean", "latents_std"):
        values = getattr(diffusion, name)
        if values and (len(values) != diffusion.latent_channels or not all(map(math.isfinite, values))):
            raise BundleError(f"diffusion.{name}", list(values), f"{diffusion.latent_channels} numbers, or none")
    if any(value <= 0.0 for value in diffusion.latents_std):
        raise BundleError("diffusion.latents_std", list(diffusion.latents_std), "numbers above 0")
    if diffusion.image_width % diffusion.multiple:
        given = f"{diffusion.sample_width}, which is {diffusion.image_width} pixels"
        raise BundleError("diffusion.sample_width", given, f"a multiple of {diffusion.multiple} pixels")
    if diffusion.image_size % diffusion.multiple:
        given = f"{diffusion.sample_size}, which is {diffusion.image_size} pixels"
        raise BundleError("diffusion.sample_size", given, f"a multiple of {diffusion.multiple} pixels")


def _check_generator(generator: GeneratorMeta) -> None:
    power = math.log2(generator.size) if generator.size > 0 else 0.0
    if power != int(power) or power < 3:
        raise BundleError("generator.size", generator.size, "a power of two from 8")
    if generator.num_ws != 2 * int(power) - 2:
        raise BundleError(
            "generator.num_ws",
            generator.num_ws,
            f"{2 * int(power) - 2} at size {generator.size}",
        )
    total = sum(layer.channels for layer in generator.layers)
    if total != generator.style_channels:
        raise BundleError(
            "generator.style_channels",
            generator.style_channels,
            f"{total}, the sum over the layers",
        )
    for index, layer in enumerate(generator.layers):
        if not 0 <= layer.w_index < generator.num_ws:
            where = f"generator.layers[{index}].w_index"
            raise BundleError(where, layer.w_index, f"0 to {generator.num_ws - 1}")
