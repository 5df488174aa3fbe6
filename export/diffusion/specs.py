"""The graphs of a diffusion bundle: what each computes, how it is tried, and what it must agree with.

`limner.runtime.diffusion.networks` states the same inputs and outputs from the other side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limner.export.diffusion.cached import deep_channels
from limner.export.diffusion.control import CONTROL_INPUTS, ControlUNet
from limner.export.diffusion.folder import TIME_IDS, DiffusionFolder
from limner.export.diffusion.layers import CROSS, SELF, ControlledLayers, stride
from limner.export.diffusion.parts import LatentDecoder, LatentEncoder, PairStates, SpatialAttention, TextStates
from limner.export.diffusion.surgery import operate
from limner.export.diffusion.trace import export_module
from limner.export.stylegan2.graphs import BATCH, OPSET, GraphSpec, Sample, Tensors
from limner.runtime.bundle.parts import TensorMeta
from limner.runtime.diffusion.caching import CACHED, DEEP

if TYPE_CHECKING:
    import onnx_ir as ir
    from diffusers import AutoencoderKL, UNet2DConditionModel

TOKENS = 77
TRACE_BATCH, TRACE_WORDS = 5, 3
H, W, MAP_H, MAP_W, WORDS = "height", "width", "map_height", "map_width", "words"


@dataclass(frozen=True, eq=False)
class TracedGraph:
    """One graph: the module that is exported, and the cases that it is compared in, the first one's name bare."""

    module: nn.Module | None  # None of a graph that is cut out of another one
    spec: GraphSpec  # its function is the module, its sample the example that is traced
    more: tuple[GraphSpec, ...] = ()  # other cases: same inputs, some of the outputs, another reference

    def export(self, opset: int = OPSET) -> ir.Model:
        assert self.module is not None
        example = self.spec.sample(TRACE_BATCH, torch.Generator().manual_seed(0))
        return export_module(self.module, example, self.spec.inputs, self.spec.outputs, opset)


def folder_graphs(folder: DiffusionFolder, layers: ControlledLayers) -> dict[str, TracedGraph]:
    """The graphs of a bundle by name; unet_cached comes behind the one that it is cut out of."""
    return {
        "text_encoder": text_graph(folder),
        **vae_graphs(folder.vae, 2 * stride(folder.unet)),
        "unet": unet_graph(folder.unet, layers, folder.tokens),
        CACHED: cached_graph(folder.unet, layers, folder.tokens),
    }


def text_graph(folder: DiffusionFolder) -> TracedGraph:
    encoder = folder.text_encoder
    length, width = folder.tokens, int(encoder.config.hidden_size)
    vocabulary = int(encoder.config.vocab_size)

    def sample(batch: int, rng: torch.Generator) -> Tensors:
        ids = torch.full((batch, length), folder.pad)
        for row in ids:
            count = int(torch.randint(1, length - 2, (1,), generator=rng))
            row[: count + 1] = torch.randint(0, vocabulary, (count + 1,), generator=rng)
            row[count + 1] = folder.eos
        return (ids,)

    if folder.text_encoder_2 is not None:
        return pair_graph(folder, sample)
    module = TextStates(encoder, length).eval()
    return TracedGraph(module, GraphSpec(
        "text_encoder", (TensorMeta("input_ids", "int64", (BATCH, length)),),
        (TensorMeta("token_states", "float32", (BATCH, length, width)),),
        lambda ids: (module(ids),), lambda ids: (encoder(ids).last_hidden_state,), sample,
    ))  # fmt: skip


def pair_graph(folder: DiffusionFolder, first: Sample) -> TracedGraph:
    """SDXL's two text encoders: the second reads the same tokens, filled up otherwise."""
    encoder, second = folder.text_encoder, folder.text_encoder_2
    assert second is not None
    length = folder.tokens

    def sample(batch: int, rng: torch.Generator) -> Tensors:
        (ids,) = first(batch, rng)
        ends = (ids == folder.eos).int().argmax(1, keepdim=True)
        return ids, torch.where(torch.arange(length) > ends, folder.second_pad, ids)

    def states(ids: Tensor, ids_2: Tensor) -> Tensors:
        found = encoder(ids, output_hidden_states=True), second(ids_2, output_hidden_states=True)
        return torch.cat([one.hidden_states[-2] for one in found], -1), found[1].text_embeds

    module = PairStates(encoder, second, folder.eos, length).eval()
    inputs = tuple(TensorMeta(name, "int64", (BATCH, length)) for name in ("input_ids", "input_ids_2"))
    outputs = (TensorMeta("token_states", "float32", (BATCH, length, folder.text_width)),
               TensorMeta("text_embeds", "float32", (BATCH, folder.pooled)))  # fmt: skip
    return TracedGraph(module, GraphSpec("text_encoder", inputs, outputs, module, states, sample))


def vae_graphs(vae: AutoencoderKL, side: int) -> dict[str, TracedGraph]:
    """Encoder and decoder; compared on latents of about `side`."""
    channels, factor = int(vae.config.latent_channels), 2 ** (len(vae.config.block_out_channels) - 1)
    image = TensorMeta("image", "float32", (BATCH, 3, H, W))
    shape: tuple[int | str, ...] = (BATCH, channels, f"latent_{H}", f"latent_{W}")
    mean, logvar, latents = (TensorMeta(n, "float32", shape) for n in ("latent_mean", "latent_logvar", "latents"))
    encoder, decoder = LatentEncoder(vae).eval(), LatentDecoder(vae).eval()

    def pictures(batch: int, rng: torch.Generator) -> Tensors:
        height, width = (factor * size for size in sides(side, 1, batch))
        coarse = torch.rand(batch, 3, height // factor, width // factor, generator=rng) * 2 - 1
        fine = torch.nn.functional.interpolate(coarse, scale_factor=factor, mode="bilinear")
        return ((fine + 0.1 * torch.randn(fine.shape, generator=rng)).clamp(-1, 1),)

    def draws(batch: int, rng: torch.Generator) -> Tensors:
        return (torch.randn(batch, channels, *sides(side, 1, batch), generator=rng) / vae.config.scaling_factor,)

    def encoded(picture: Tensor) -> Tensors:
        found = vae.encode(picture).latent_dist
        return found.mean, found.logvar

    return {
        "vae_encoder": TracedGraph(Written(encoder, vae), GraphSpec(
            "vae_encoder", (image,), (mean, logvar), lambda x: encoder(x), encoded, pictures)),
        "vae_decoder": TracedGraph(Written(decoder, vae), GraphSpec(
            "vae_decoder", (latents,), (image,), lambda z: (decoder(z),), lambda z: (vae.decode(z).sample,), draws)),
    }  # fmt: skip


class Written(nn.Module):
    """A half of the autoencoder while its attention is written out."""

    def __init__(self, part: nn.Module, vae: AutoencoderKL) -> None:
        super().__init__()
        self.part, self.vae = part, vae

    def forward(self, x: Tensor) -> Any:
        before = self.vae.attn_processors
        self.vae.set_attn_processor(SpatialAttention())
        try:
            return self.part(x)
        finally:
            self.vae.set_attn_processor(before)


def unet_graph(unet: UNet2DConditionModel, layers: ControlledLayers, tokens: int = TOKENS) -> TracedGraph:
    """The control UNet: against surgery on attention maps, and with identity control against diffusers' own UNet."""
    inputs = unet_inputs(unet, tokens)
    controls = len(CONTROL_INPUTS)
    noise, deep = noise_output(unet), deep_tensor(unet)
    maps = TensorMeta("blend_maps", "float32", (BATCH, WORDS, MAP_H, MAP_W))
    module = ControlUNet(unet, layers).eval()

    def surgery(sample: Tensor, timestep: Tensor, states: Tensor, *rest: Tensor) -> Tensors:
        control = dict(zip(CONTROL_INPUTS, rest[:controls], strict=True))
        return operate(unet, layers, sample, timestep, states, control, _added(rest[controls:]))

    def plain(sample: Tensor, timestep: Tensor, states: Tensor, *rest: Tensor) -> Tensors:
        kwargs = {"added_cond_kwargs": _added(rest[controls:])}
        return (unet(sample, timestep, states, return_dict=False, **kwargs)[0],)

    sample, same = unet_sample(unet, tokens, random_control), unet_sample(unet, tokens, identity_control)
    first = GraphSpec("unet", inputs, (noise, maps, deep), module, surgery, sample)
    second = GraphSpec("unet", inputs, (noise,), module, plain, same)
    return TracedGraph(module, first, (second,))


def cached_graph(unet: UNet2DConditionModel, layers: ControlledLayers, tokens: int = TOKENS) -> TracedGraph:
    """The last layers of the control UNet, against the whole one with its deep features replaced."""
    every = unet_inputs(unet, tokens)
    names = [tensor.name for tensor in every]
    controls = len(CONTROL_INPUTS)
    whole = unet_sample(unet, tokens, random_control)
    unread = {"encoder_hidden_states", *CONTROL_INPUTS} - last_reads(unet, layers)
    read = [k for k, name in enumerate(names) if name not in unread]

    def cases(batch: int, rng: torch.Generator) -> Tensors:
        given = whole(batch, rng)
        deep = torch.randn(batch, deep_channels(unet), *given[0].shape[2:], generator=rng)
        return (*(given[k] for k in read), deep)

    def surgery(*given: Tensor) -> Tensors:
        batch = len(given[0])
        found = dict(zip([names[k] for k in read], given[:-1], strict=True))
        idle = dict(zip(CONTROL_INPUTS, identity_control(batch, torch.Generator(), tokens=tokens), strict=True))
        states = found.get("encoder_hidden_states")
        if states is None:
            states = torch.zeros(batch, tokens, int(unet.config.cross_attention_dim))
        control = {name: found.get(name, idle[name]) for name in CONTROL_INPUTS}
        more = _added(tuple(found[name] for name in names[3 + controls :]))
        return (operate(unet, layers, given[0], given[1], states, control, more, given[-1])[0],)

    inputs = (*(every[k] for k in read), deep_tensor(unet))
    return TracedGraph(None, GraphSpec(CACHED, inputs, (noise_output(unet),), surgery, surgery, cases))


def last_reads(unet: UNet2DConditionModel, layers: ControlledLayers) -> set[str]:
    """Which of the text and the control the last layers read; SDXL's, which are without attention, nothing."""
    block = len(unet.up_blocks) - 1
    attentions = len(getattr(unet.up_blocks[block], "attentions", ()))
    if not attentions:
        return set()
    last = f"up_blocks.{block}.attentions.{attentions - 1}."
    edited = {name.rsplit(".", 1)[-1] for name in layers.edited if name.startswith(last)}
    read = {"encoder_hidden_states"} | ({"source_index"} if edited else set())
    read |= {"token_transfer", "token_keep"} if CROSS in edited else set()
    return read | ({"self_replace"} if SELF in edited else set())


def _added(extra: Tensors) -> dict[str, Tensor] | None:
    """What an SDXL-shaped UNet is told besides."""
    return dict(zip(("text_embeds", "time_ids"), extra, strict=True)) if extra else None


def noise_output(unet: UNet2DConditionModel) -> TensorMeta:
    return TensorMeta("noise_pred", "float32", (BATCH, int(unet.config.out_channels), H, W))


def deep_tensor(unet: UNet2DConditionModel) -> TensorMeta:
    return TensorMeta(DEEP, "float32", (BATCH, deep_channels(unet), H, W))


def unet_sample(unet: UNet2DConditionModel, tokens: int, control: Callable[..., Tensors]) -> Sample:
    """Random inputs of the UNet with a control."""

    def sample(batch: int, rng: torch.Generator) -> Tensors:
        size = sides(2 * stride(unet), stride(unet), batch)
        states = torch.randn(batch, tokens, int(unet.config.cross_attention_dim), generator=rng)
        steps = torch.randint(0, 1000, (batch,), generator=rng).float()
        latents = torch.randn(batch, int(unet.config.in_channels), *size, generator=rng)
        return latents, steps, states, *control(batch, rng, tokens=tokens), *_added_inputs(unet, batch, rng)

    return sample


def unet_inputs(unet: UNet2DConditionModel, tokens: int = TOKENS) -> tuple[TensorMeta, ...]:
    """The graph's inputs; a UNet with text_time conditioning (SDXL) has two more."""
    states = TensorMeta("encoder_hidden_states", "float32", (BATCH, tokens, int(unet.config.cross_attention_dim)))
    found = [
        TensorMeta("sample", "float32", (BATCH, int(unet.config.in_channels), H, W)),
        TensorMeta("timestep", "float32", (BATCH,)), states,
        TensorMeta("source_index", "int64", (BATCH,)), TensorMeta("token_transfer", "float32", (BATCH, tokens, tokens)),
        TensorMeta("token_keep", "float32", (BATCH, tokens)), TensorMeta("self_replace", "float32", (BATCH,)),
        TensorMeta("blend_words", "float32", (BATCH, WORDS, tokens)),
    ]  # fmt: skip
    if unet.config.addition_embed_type == "text_time":
        found += [TensorMeta("text_embeds", "float32", (BATCH, _pooled_width(unet))),
                  TensorMeta("time_ids", "float32", (BATCH, TIME_IDS))]  # fmt: skip
    return tuple(found)


def _pooled_width(unet: UNet2DConditionModel) -> int:
    return int(unet.config.projection_class_embeddings_input_dim) - TIME_IDS * int(unet.config.addition_time_embed_dim)


def _added_inputs(unet: UNet2DConditionModel, batch: int, rng: torch.Generator) -> Tensors:
    if unet.config.addition_embed_type != "text_time":
        return ()
    pooled = torch.randn(batch, _pooled_width(unet), generator=rng)
    return pooled, torch.randint(0, 1024, (batch, TIME_IDS), generator=rng).float()


def sides(side: int, step: int, case: int) -> tuple[int, int]:
    """Height and width of a case: square, and broader or higher by turns, so that no size is fixed unnoticed."""
    return side + step * (case % 3 == 0), side + step * (case % 2 == 0)


def identity_control(batch: int, rng: torch.Generator, words: int = TRACE_WORDS, tokens: int = TOKENS) -> Tensors:
    """The control inputs of the plain UNet."""
    blend = torch.rand(batch, words, tokens, generator=rng)
    return (torch.arange(batch), torch.zeros(batch, tokens, tokens), torch.ones(batch, tokens), torch.zeros(batch),
            blend)  # fmt: skip


def random_control(batch: int, rng: torch.Generator, words: int = TRACE_WORDS, tokens: int = TOKENS) -> Tensors:
    """Random sources, transfers, keeps and replacements; the first row is a source and stays as it is."""
    source = torch.randint(0, batch, (batch,), generator=rng)
    transfer = torch.rand(batch, tokens, tokens, generator=rng) * (torch.rand(batch, 1, 1, generator=rng) < 0.6)
    transfer = transfer * (2.0 / tokens)
    keep = torch.rand(batch, tokens, generator=rng) * 2
    replace = (torch.rand(batch, generator=rng) < 0.5).float()
    source[0], transfer[0], keep[0], replace[0] = 0, 0.0, 1.0, 0.0
    if batch > 1:  # at least one row is edited in every way
        transfer[-1] = torch.rand(tokens, tokens, generator=rng) * (2.0 / tokens)
        source[-1], replace[-1] = 0, 1.0
    return source, transfer, keep, replace, torch.rand(batch, words, tokens, generator=rng)
