"""The graphs of a StyleGAN bundle: what each computes, how it is exported, and what it is compared with."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limner.export.onnx.simplify import simplify
from limner.export.stylegan2.clip_tower import FastClipImage
from limner.export.stylegan2.features import INPUTS as FEATURE_INPUTS
from limner.export.stylegan2.features import PixelLoss, PlainFeatures, feature_layer, feature_shape
from limner.export.stylegan2.gradient_graph import INPUTS, LatentLoss, Network, trace
from limner.export.stylegan2.networks import Networks
from limner.export.stylegan2.synthesis import FastSynthesis
from limner.runtime.bundle.mappers import graph_name
from limner.runtime.bundle.parts import TensorMeta
from limner.runtime.errors import LimnerError
from limner.training.models.stylegan2 import Generator

BATCH, TOKENS = "batch", "tokens"
TRACED = {BATCH: 7, TOKENS: 5}  # sizes of the example: 1 would be taken for a constant, and others are seldom these
OPSET = 20
Tensors = tuple[Tensor, ...]
Sample = Callable[[int, torch.Generator], Tensors]  # batch, random source -> inputs


@dataclass(frozen=True, eq=False)
class GraphSpec:
    """One graph: the function that is exported, and the plain torch one that it must agree with."""

    name: str
    inputs: tuple[TensorMeta, ...]
    outputs: tuple[TensorMeta, ...]
    function: Callable[..., Tensors]  # what is exported
    reference: Callable[..., Tensors]  # what the result is compared with
    sample: Sample
    differentiates: bool = False
    modules: tuple[nn.Module, ...] = ()  # what the reference runs, if its gradient can be had in float64


class Sampler:
    """Inputs like those that the graphs meet: latents of the generator, its pictures, ids of texts."""

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        self.generator = networks.generator
        self._images: dict[tuple[int, bytes], tuple[Tensor, Tensor]] = {}  # batch, state before -> image, state after

    def z(self, batch: int, rng: torch.Generator) -> Tensors:
        return (torch.randn(batch, self.generator.config.z_dim, generator=rng),)

    def w_plus(self, batch: int, rng: torch.Generator) -> Tensors:
        """Each row of w_plus from a mapping of its own, truncation 0.7."""
        rows = batch * self.generator.num_ws
        with torch.no_grad():
            w = self.generator.truncate(self.generator.mapping(*self.z(rows, rng)), 0.7)
        return (w.unflatten(0, (batch, self.generator.num_ws)),)

    def styles(self, batch: int, rng: torch.Generator) -> Tensors:
        with torch.no_grad():
            return (self.generator.affine(self.w_plus(batch, rng)[0]),)

    def image(self, batch: int, rng: torch.Generator) -> Tensors:
        """Pictures of the generator; several graphs ask for the same ones, and at 1024 px each takes seconds."""
        key = (batch, rng.get_state().numpy().tobytes())
        if key not in self._images:
            with torch.no_grad():
                made = self.generator.synthesis(self.w_plus(batch, rng)[0]).clamp(-1, 1)
            self._images[key] = (made, rng.get_state())
        image, state = self._images[key]
        rng.set_state(state)
        return (image,)

    def input_ids(self, batch: int, rng: torch.Generator) -> Tensors:
        """Start, 3 to 20 words, end, padding up to the longest text or to the end."""
        config = self.networks.clip.config.text_config
        length, words = config.max_position_embeddings, config.vocab_size - 2
        ids, longest = torch.full((batch, length), int(config.pad_token_id)), 0
        for row in ids:
            count = int(torch.randint(3, min(20, length - 2), (1,), generator=rng))
            row[0] = config.bos_token_id
            row[1 : count + 1] = torch.randint(0, words, (count,), generator=rng)
            row[count + 1] = config.eos_token_id
            longest = max(longest, count + 2)
        return (ids if batch % 2 else ids[:, :longest].contiguous(),)

    def latent_gradient(self, batch: int, rng: torch.Generator) -> Tensors:
        """A point some steps away from its source, and targets of other pictures."""
        (w_plus_source,), (target_image,) = self.w_plus(batch, rng), self.image(batch, rng)
        spread = w_plus_source.std()
        w_plus = w_plus_source + 0.2 * spread * torch.randn(w_plus_source.shape, generator=rng)
        width = self.networks.clip.config.projection_dim
        text_features = F.normalize(torch.randn(batch, width, generator=rng), dim=1)
        with torch.no_grad():
            identity_source = self.networks.identity(target_image)
        return w_plus, w_plus_source, text_features, identity_source, target_image, torch.tensor([1.0, 0.008, 0.1, 0.5])

    def style_gradient(self, batch: int, rng: torch.Generator) -> Tensors:
        """The same in S."""
        w_plus, w_plus_source, *targets = self.latent_gradient(batch, rng)
        with torch.no_grad():
            return self.generator.affine(w_plus), self.generator.affine(w_plus_source), *targets

    def features(self, batch: int, rng: torch.Generator) -> Tensors:
        """Style channels, and an offset of a third of the feature map's size."""
        (styles,), shape = self.styles(batch, rng), feature_shape(self.generator)
        with torch.no_grad():
            _, features = PlainFeatures(self.generator).with_offset(styles, torch.zeros(batch, *shape))
        return styles, 0.3 * features.std() * torch.randn(batch, *shape, generator=rng)

    def feature_gradient(self, batch: int, rng: torch.Generator) -> Tensors:
        """The same, and other pictures to come to."""
        (styles, offset), (target_image,) = self.features(batch, rng), self.image(batch, rng)
        return offset, styles, target_image, torch.ones(1)


def build_specs(networks: Networks) -> dict[str, GraphSpec]:
    """All graphs of a bundle by name."""
    generator, sampler = networks.generator, Sampler(networks)
    config = generator.config
    image_shape: tuple[int | str, ...] = (BATCH, 3, config.size, config.size)
    z = TensorMeta("z", "float32", (BATCH, config.z_dim))
    w = TensorMeta("w", "float32", (BATCH, config.w_dim))
    w_plus = TensorMeta("w_plus", "float32", (BATCH, generator.num_ws, config.w_dim))
    styles = TensorMeta("style_channels", "float32", (BATCH, generator.num_style_channels))
    image = TensorMeta("image", "float32", image_shape)
    with torch.no_grad():
        identity_width = networks.identity(torch.zeros(1, 3, config.size, config.size)).shape[1]
    identity = TensorMeta("identity_features", "float32", (BATCH, identity_width))
    clip_width = networks.clip.config.projection_dim
    image_features = TensorMeta("image_features", "float32", (BATCH, clip_width))
    text_features = TensorMeta("text_features", "float32", (BATCH, clip_width))
    ids = TensorMeta("input_ids", "int64", (BATCH, TOKENS))
    fast = FastSynthesis(generator, feature_layer(generator)).eval().requires_grad_(False)
    clip_image = FastClipImage(networks.clip_image).eval().requires_grad_(False)
    plain: list[tuple[str, TensorMeta, TensorMeta, Network, Network, Sample]] = [
        ("mapping", z, w, generator.mapping, generator.mapping, sampler.z),
        ("affine", w_plus, styles, generator.affine, generator.affine, sampler.w_plus),
        ("synthesis_w", w_plus, image, fast.from_w_plus, generator.synthesis, sampler.w_plus),
        ("synthesis_s", styles, image, fast, generator.synthesis_from_styles, sampler.styles),
        ("encoder", image, w_plus, networks.encoder, networks.encoder, sampler.image),
        ("identity", image, identity, networks.identity, networks.identity, sampler.image),
        ("clip_image", image, image_features, clip_image, networks.clip_image, sampler.image),
        ("clip_text", ids, text_features, networks.clip_text, networks.clip_text, sampler.input_ids),
    ]
    specs = {
        name: GraphSpec(name, (given,), (made,), _tuple(function), _tuple(reference), sample)
        for name, given, made, function, reference, sample in plain
    }
    targets = (text_features, identity, image)
    specs["latent_gradient"] = _gradient_spec(networks, fast, clip_image, sampler.latent_gradient, w_plus, *targets)
    specs["style_gradient"] = _gradient_spec(networks, fast, clip_image, sampler.style_gradient, styles, *targets)
    specs |= _feature_specs(generator, fast, sampler, styles, image)
    for name, mapper in networks.mappers.items():
        latent, sample = (w_plus, sampler.w_plus) if mapper.config.space == "w_plus" else (styles, sampler.styles)
        made, function = TensorMeta("step", "float32", latent.shape), _tuple(mapper)
        specs[graph_name(name)] = GraphSpec(graph_name(name), (latent,), (made,), function, function, sample)
    return specs


def _gradient_spec(
    networks: Networks,
    fast: FastSynthesis,
    clip_image: FastClipImage,
    sample: Sample,
    latent: TensorMeta,  # w_plus, or style_channels
    text_features: TensorMeta,
    identity: TensorMeta,
    image: TensorMeta,
) -> GraphSpec:
    """The gradient graph in W+, "latent_gradient", or in S, "style_gradient"."""
    in_styles = latent.name == "style_channels"
    names = [latent.name, f"{latent.name}_source", *INPUTS[2:]]
    shapes = [latent.shape, latent.shape, text_features.shape, identity.shape, image.shape, (4,)]
    outputs = [TensorMeta(f"loss_{term}", "float32", (BATCH,)) for term in ("clip", "l2", "identity", "pixel")]
    outputs += [TensorMeta("gradient", "float32", latent.shape), image]
    generator = networks.generator
    exported = LatentLoss(fast if in_styles else fast.from_w_plus, clip_image, networks.identity)
    plain = generator.synthesis_from_styles if in_styles else generator.synthesis
    reference = LatentLoss(plain, networks.clip_image, networks.identity)
    return GraphSpec(
        name="style_gradient" if in_styles else "latent_gradient",
        inputs=tuple(TensorMeta(name, "float32", shape) for name, shape in zip(names, shapes, strict=True)),
        outputs=tuple(outputs),
        function=exported.gradient,
        reference=reference.gradient_by_autograd,
        sample=sample,
        differentiates=True,
        modules=(generator, networks.clip_image, networks.identity),
    )


def _feature_specs(
    generator: Generator, fast: FastSynthesis, sampler: Sampler, styles: TensorMeta, image: TensorMeta
) -> dict[str, GraphSpec]:
    """The two graphs of feature refinement, "synthesis_features" and "feature_gradient"."""
    shape: tuple[int | str, ...] = (BATCH, *feature_shape(generator))
    offset, plain = TensorMeta("feature_offset", "float32", shape), PlainFeatures(generator)
    drawn = GraphSpec(
        name="synthesis_features",
        inputs=(styles, offset),
        outputs=(image, TensorMeta("features", "float32", shape)),
        function=fast.with_offset,
        reference=plain.with_offset,
        sample=sampler.features,
    )
    shapes = (shape, styles.shape, image.shape, (1,))
    gradient = GraphSpec(
        name="feature_gradient",
        inputs=tuple(TensorMeta(name, "float32", one) for name, one in zip(FEATURE_INPUTS, shapes, strict=True)),
        outputs=(TensorMeta("loss_pixel", "float32", (BATCH,)), TensorMeta("gradient", "float32", shape), image),
        function=PixelLoss(fast).gradient,
        reference=plain.gradient,
        sample=sampler.feature_gradient,
        differentiates=True,
        modules=(generator,),
    )
    return {one.name: one for one in (drawn, gradient)}


def _tuple(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensors]:
    return lambda *arrays: (function(*arrays),)


def export_graph(spec: GraphSpec, opset: int = OPSET) -> ir.Model:
    """The spec's function as a simplified ONNX model with a free batch axis. LimnerError if the batch got fixed."""
    inputs = tuple(_example(tensor) for tensor in spec.inputs)
    free = tuple(tuple(i for i, size in enumerate(tensor.shape) if size in TRACED) for tensor in spec.inputs)
    module = trace(spec.function, inputs, free, spec.differentiates)
    dims = {name: torch.export.Dim(name) for name in TRACED}
    axes = tuple({i: dims[str(tensor.shape[i])] for i in own} or None
                 for tensor, own in zip(spec.inputs, free, strict=True))  # fmt: skip
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            inputs,
            dynamo=True,
            opset_version=opset,
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            dynamic_shapes=axes,
            optimize=False,
            verbose=False,
        )
    if program is None:
        raise LimnerError(f"graph {spec.name!r} could not be exported")
    model = simplify(program.model)
    check_interface(spec, model)
    return model


def _example(tensor: TensorMeta) -> Tensor:
    """Zeros of the right shape: tracing reads no values, and pictures would have to be made."""
    sizes = [TRACED[size] if isinstance(size, str) else size for size in tensor.shape]
    return torch.zeros(sizes, dtype=torch.int64 if tensor.dtype == "int64" else torch.float32)


def check_interface(spec: GraphSpec, model: ir.Model) -> None:
    """Compare names and shapes of the graph with the spec's; a batch that became a number is an error."""
    for kind, expected, values in (
        ("input", spec.inputs, model.graph.inputs),
        ("output", spec.outputs, model.graph.outputs),
    ):
        names = [value.name for value in values]
        if names != [tensor.name for tensor in expected]:
            raise LimnerError(f"graph {spec.name!r} has the {kind}s {names}, not {[t.name for t in expected]}")
        for tensor, value in zip(expected, values, strict=True):
            shape = [size.value if isinstance(size, ir.SymbolicDim) else size for size in value.shape or ()]
            if shape != list(tensor.shape):
                raise LimnerError(
                    f"graph {spec.name!r}: {kind} {tensor.name} has shape {shape}, not {list(tensor.shape)}"
                )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and its remarks on packages that are not needed off the terminal."""
    logger: Any = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
