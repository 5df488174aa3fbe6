"""Files in the formats in which weights were published, with random weights, at any size.

Names and shapes are written out from the published code, not taken from our networks. The defaults are small; `FULL`
names the sizes of the real files.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
import pickle
import sys
import types
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

State = dict[str, Tensor]
FFHQ = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}


class Draw:
    """Random weights of given shapes."""

    def __init__(self, seed: int) -> None:
        self.rng = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0, mean: float = 0.0) -> Tensor:
        return torch.randn(*shape, generator=self.rng) * scale + mean

    def weight(self, *shape: int) -> Tensor:
        """Of an ordinary layer, so that variances stay."""
        return self.normal(*shape, scale=1 / math.sqrt(math.prod(shape[1:])))

    def positive(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.rng) + 0.5


# --- StyleGAN2 ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GeneratorSizes:
    """Of one generator."""

    channels: Mapping[int, int] = field(default_factory=lambda: {4: 12, 8: 10, 16: 8, 32: 6})
    z_dim: int = 20
    w_dim: int = 16
    n_mlp: int = 3

    @property
    def layers(self) -> int:
        return 2 * len(self.channels)


FULL_GENERATOR = GeneratorSizes(FFHQ, 512, 512, 8)


def kernel() -> Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / 16


def rosinality_generator(sizes: GeneratorSizes = GeneratorSizes(), seed: int = 0) -> State:
    """The g_ema of rosinality's files: what state_dict() of its Generator holds, in its order."""
    draw, state = Draw(seed), {}
    for k in range(sizes.n_mlp):
        n_in = sizes.z_dim if k == 0 else sizes.w_dim
        state[f"style.{k + 1}.weight"] = draw.normal(sizes.w_dim, n_in, scale=100)
        state[f"style.{k + 1}.bias"] = draw.normal(sizes.w_dim, scale=10)

    def modulated(name: str, n_in: int, n_out: int, k: int) -> None:
        state[f"{name}.conv.weight"] = draw.normal(1, n_out, n_in, k, k)
        state[f"{name}.conv.modulation.weight"] = draw.normal(n_in, sizes.w_dim, scale=0.3)
        state[f"{name}.conv.modulation.bias"] = draw.normal(n_in, scale=0.2, mean=1)

    def styled(name: str, n_in: int, n_out: int, up: bool) -> None:
        modulated(name, n_in, n_out, 3)
        if up:
            state[f"{name}.conv.blur.kernel"] = kernel()
        state[f"{name}.noise.weight"] = draw.normal(1, scale=0.3)
        state[f"{name}.activate.bias"] = draw.normal(n_out, scale=0.2)

    def rgb(name: str, n_in: int, up: bool) -> None:
        modulated(name, n_in, 3, 1)
        state[f"{name}.bias"] = draw.normal(1, 3, 1, 1, scale=0.1)
        if up:
            state[f"{name}.upsample.kernel"] = kernel()

    (first, n_in), *rest = sizes.channels.items()
    state["input.input"] = draw.normal(1, n_in, first, first)
    styled("conv1", n_in, n_in, False)
    rgb("to_rgb1", n_in, False)
    state["noises.noise_0"] = draw.normal(1, 1, first, first)
    for k, (resolution, n_out) in enumerate(rest):
        styled(f"convs.{2 * k}", n_in, n_out, True)
        styled(f"convs.{2 * k + 1}", n_out, n_out, False)
        rgb(f"to_rgbs.{k}", n_out, True)
        for j in (1, 2):
            state[f"noises.noise_{2 * k + j}"] = draw.normal(1, 1, resolution, resolution)
        n_in = n_out
    return state


def write_rosinality(path: Path, sizes: GeneratorSizes = GeneratorSizes(), seed: int = 0, zipped: bool = True) -> State:
    """rosinality's .pt; not `zipped` is the format of torch before 1.6, in which the best known files are."""
    state = rosinality_generator(sizes, seed)
    latent_avg = Draw(seed + 1).normal(sizes.w_dim, scale=0.1)
    torch.save({"g_ema": state, "latent_avg": latent_avg}, path, _use_new_zipfile_serialization=zipped)
    return {**state, "latent_avg": latent_avg}


class Persistent(nn.Module):
    """Pickled as NVIDIA's persistent classes are (torch_utils/persistence.py): its source and its attributes."""

    source = ""

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {"type": "class", "version": 6, "module_src": self.source, "class_name": self.pickled_as,
                "state": dict(self.__dict__)}  # fmt: skip
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)

    def __init__(self, pickled_as: str, **attributes: Any) -> None:
        super().__init__()
        self.pickled_as = pickled_as
        for name, value in attributes.items():
            setattr(self, name, value)


@contextmanager
def nvidia_modules() -> Iterator[type[dict[str, Any]]]:
    """Stand-ins of the modules that NVIDIA's pickles name; gives EasyDict."""

    def _reconstruct_persistent_obj(meta: Any) -> None:
        raise AssertionError("a persistent object was made")

    class EasyDict(dict):  # type: ignore[type-arg]
        pass

    names = ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")
    made = {name: types.ModuleType(name) for name in names}
    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"
    made["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    made["dnnlib.util"].EasyDict = EasyDict  # type: ignore[attr-defined]
    sys.modules.update(made)
    try:
        yield EasyDict
    finally:
        for name in names:
            del sys.modules[name]


def nvidia_generator(sizes: GeneratorSizes = GeneratorSizes(), seed: int = 0) -> Persistent:
    """The G_ema of stylegan2-ada-pytorch (training/networks.py)."""
    draw = Draw(seed)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])

    def linear(n_in: int, n_out: int, lr: float = 1, mean: float = 0.0, scale: float = 1.0) -> Persistent:
        layer = Persistent("FullyConnectedLayer", activation="lrelu", weight_gain=np.float64(lr / math.sqrt(n_in)),
                           bias_gain=lr)  # fmt: skip
        layer.weight = nn.Parameter(draw.normal(n_out, n_in, scale=scale / lr), requires_grad=False)
        layer.bias = nn.Parameter(draw.normal(n_out, scale=0.1 / lr, mean=mean), requires_grad=False)
        return layer

    def synthesis_layer(n_in: int, n_out: int, resolution: int, up: int) -> Persistent:
        layer = Persistent("SynthesisLayer", resolution=resolution, up=up, use_noise=True, activation="lrelu",
                           conv_clamp=256, padding=1, act_gain=np.sqrt(2))  # fmt: skip
        layer.register_buffer("resample_filter", torch.outer(taps, taps) / 64)
        layer.affine = linear(sizes.w_dim, n_in, mean=1, scale=0.3)
        layer.weight = nn.Parameter(draw.normal(n_out, n_in, 3, 3))
        layer.register_buffer("noise_const", draw.normal(resolution, resolution))
        layer.noise_strength = nn.Parameter(draw.normal(1, scale=0.3)[0])
        layer.bias = nn.Parameter(draw.normal(n_out, scale=0.2))
        return layer

    def to_rgb(n_in: int) -> Persistent:
        layer = Persistent("ToRGBLayer", conv_clamp=256, weight_gain=1 / math.sqrt(n_in))
        layer.affine = linear(sizes.w_dim, n_in, mean=1, scale=0.3)
        layer.weight, layer.bias = nn.Parameter(draw.normal(3, n_in, 1, 1)), nn.Parameter(draw.normal(3, scale=0.1))
        return layer

    mapping = Persistent("MappingNetwork", z_dim=sizes.z_dim, c_dim=0, w_dim=sizes.w_dim, num_ws=sizes.layers)
    for k in range(sizes.n_mlp):
        setattr(mapping, f"fc{k}", linear(sizes.z_dim if k == 0 else sizes.w_dim, sizes.w_dim, 0.01))
    mapping.register_buffer("w_avg", draw.normal(sizes.w_dim, scale=0.1))
    synthesis = Persistent("SynthesisNetwork", w_dim=sizes.w_dim, img_resolution=max(sizes.channels), img_channels=3)
    n_in = 0
    for resolution, n_out in sizes.channels.items():
        block = Persistent("SynthesisBlock", in_channels=n_in, resolution=resolution, architecture="skip")
        block.register_buffer("resample_filter", torch.outer(taps, taps) / 64)
        if n_in == 0:
            block.const = nn.Parameter(draw.normal(n_out, resolution, resolution))
        else:
            block.conv0 = synthesis_layer(n_in, n_out, resolution, 2)
        block.conv1, block.torgb = synthesis_layer(n_out, n_out, resolution, 1), to_rgb(n_out)
        setattr(synthesis, f"b{resolution}", block)
        n_in = n_out
    generator = Persistent("Generator", z_dim=sizes.z_dim, c_dim=0, w_dim=sizes.w_dim, img_channels=3)
    generator.synthesis, generator.mapping = synthesis, mapping
    return generator


def write_nvidia(path: Path, sizes: GeneratorSizes = GeneratorSizes(), seed: int = 0, source: str = "",
                 generator: Persistent | None = None) -> State:  # fmt: skip
    """stylegan2-ada-pytorch's .pkl, its classes' source being `source`. Returns the generator's state dict."""
    made = nvidia_generator(sizes, seed) if generator is None else generator
    with nvidia_modules() as easy_dict:
        Persistent.source = source
        training_set = easy_dict(class_name="training.dataset.ImageFolderDataset", use_labels=False)
        data = {"G": None, "D": Persistent("Discriminator", c_dim=0), "G_ema": made, "augment_pipe": None,
                "training_set_kwargs": training_set}  # fmt: skip
        path.write_bytes(pickle.dumps(data, protocol=4))
    return {key: value.detach().clone() for key, value in made.state_dict().items()}


# --- IR-SE: identity and e4e ----------------------------------------------------------------------------


@dataclass(frozen=True)
class BodySizes:
    """Of one IR-SE body."""

    stem: int = 8
    widths: Sequence[int] = (8, 12, 16)
    units: Sequence[int] = (2, 1, 2)
    reduction: int = 4


FULL_BODY = BodySizes(64, (64, 128, 256, 512), (3, 4, 14, 3), 16)


def _norm(draw: Draw, state: State, name: str, width: int, counter: bool = True) -> None:
    state[f"{name}.weight"], state[f"{name}.bias"] = draw.positive(width), draw.normal(width, scale=0.2)
    state[f"{name}.running_mean"], state[f"{name}.running_var"] = draw.normal(width, scale=0.2), draw.positive(width)
    if counter:
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)


def irse_body(sizes: BodySizes, draw: Draw) -> State:
    state: State = {"input_layer.0.weight": draw.weight(sizes.stem, 3, 3, 3)}
    _norm(draw, state, "input_layer.1", sizes.stem)
    state["input_layer.2.weight"] = draw.positive(sizes.stem) * 0.25
    width_in, i = sizes.stem, 0
    for width, units in zip(sizes.widths, sizes.units, strict=True):
        for _ in range(units):
            key = f"body.{i}"
            if width_in != width:
                state[f"{key}.shortcut_layer.0.weight"] = draw.weight(width, width_in, 1, 1)
                _norm(draw, state, f"{key}.shortcut_layer.1", width)
            _norm(draw, state, f"{key}.res_layer.0", width_in)
            state[f"{key}.res_layer.1.weight"] = draw.weight(width, width_in, 3, 3)
            state[f"{key}.res_layer.2.weight"] = draw.positive(width) * 0.25
            state[f"{key}.res_layer.3.weight"] = draw.weight(width, width, 3, 3)
            _norm(draw, state, f"{key}.res_layer.4", width)
            state[f"{key}.res_layer.5.fc1.weight"] = draw.weight(width // sizes.reduction, width, 1, 1)
            state[f"{key}.res_layer.5.fc2.weight"] = draw.weight(width, width // sizes.reduction, 1, 1)
            width_in, i = width, i + 1
    return state


@dataclass(frozen=True)
class IdentitySizes:
    body: BodySizes = BodySizes(8, (8, 12, 16, 20), (1, 2, 1, 1), 4)
    embedding: int = 10
    side: int = 7


FULL_IDENTITY = IdentitySizes(FULL_BODY, 512)


def write_identity(path: Path, sizes: IdentitySizes = IdentitySizes(), seed: int = 0, zipped: bool = False,
                   counters: bool = True) -> State:  # fmt: skip
    """model_ir_se50.pth; without `counters` as torch before 0.4.1 wrote it."""
    draw = Draw(seed)
    state = irse_body(sizes.body, draw)
    width = sizes.body.widths[-1]
    _norm(draw, state, "output_layer.0", width)
    state["output_layer.3.weight"] = draw.weight(sizes.embedding, width * sizes.side**2)
    state["output_layer.3.bias"] = draw.normal(sizes.embedding, scale=0.1)
    _norm(draw, state, "output_layer.4", sizes.embedding)
    if not counters:
        state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(OrderedDict(state), path, _use_new_zipfile_serialization=zipped)
    return state


@dataclass(frozen=True)
class EncoderSizes:
    body: BodySizes = BodySizes()
    side: int = 4  # of the coarse features
    width: int = 16  # of the style blocks, w_dim
    coarse: int = 3
    middle: int = 7


FULL_ENCODER = EncoderSizes(FULL_BODY, 16, 512)


def encoder_state(sizes: EncoderSizes, layers: int, seed: int = 0) -> State:
    draw = Draw(seed)
    state, widths = irse_body(sizes.body, draw), sizes.body.widths
    for i in range(layers):
        side = sizes.side * (1 if i < sizes.coarse else 2 if i < sizes.middle else 4)
        for k in range(int(math.log2(side))):
            n_in = widths[-1] if k == 0 else sizes.width
            state[f"styles.{i}.convs.{2 * k}.weight"] = draw.weight(sizes.width, n_in, 3, 3)
            state[f"styles.{i}.convs.{2 * k}.bias"] = draw.normal(sizes.width, scale=0.1)
        state[f"styles.{i}.linear.weight"] = draw.normal(sizes.width, sizes.width)
        state[f"styles.{i}.linear.bias"] = draw.normal(sizes.width, scale=0.1)
    for name, n_in in (("latlayer1", widths[-2]), ("latlayer2", widths[-3])):
        state[f"{name}.weight"] = draw.weight(widths[-1], n_in, 1, 1)
        state[f"{name}.bias"] = draw.normal(widths[-1], scale=0.1)
    return state


def write_e4e(path: Path, sizes: EncoderSizes = EncoderSizes(), generator: GeneratorSizes = GeneratorSizes(),
              seed: int = 0, decoder: State | None = None, **opts: Any) -> State:  # fmt: skip
    """e4e_ffhq_encode.pt. Returns its encoder, with latent_avg."""
    encoder = encoder_state(sizes, generator.layers, seed)
    decoder = rosinality_generator(generator, seed) if decoder is None else decoder
    latent_avg = Draw(seed + 1).normal(1, generator.w_dim, scale=0.1).repeat(generator.layers, 1)
    whole = {f"encoder.{k}": v for k, v in encoder.items()} | {f"decoder.{k}": v for k, v in decoder.items()}
    given = {"encoder_type": "Encoder4Editing", "start_from_latent_avg": True,
             "stylegan_size": max(generator.channels), "device": "cuda:0", "learning_rate": 0.0001, **opts}  # fmt: skip
    torch.save({"state_dict": whole, "latent_avg": latent_avg, "opts": given}, path)
    return {**encoder, "latent_avg": latent_avg}


# --- CLIP -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClipSizes:
    image: int = 32
    patch: int = 8
    vision_width: int = 128
    vision_layers: int = 2
    text_width: int = 64
    text_layers: int = 2
    embedding: int = 24
    vocabulary: int = 540
    context: int = 77


FULL_CLIP = ClipSizes(224, 32, 768, 12, 512, 12, 512, 49408)


def clip_state(sizes: ClipSizes = ClipSizes(), seed: int = 0) -> State:
    """The state dict of openai/CLIP's CLIP with a vision transformer, fp32."""
    draw, state = Draw(seed), {}

    def transformer(prefix: str, width: int, layers: int) -> None:
        for i in range(layers):
            key = f"{prefix}transformer.resblocks.{i}"
            state[f"{key}.attn.in_proj_weight"] = draw.weight(3 * width, width)
            state[f"{key}.attn.in_proj_bias"] = draw.normal(3 * width, scale=0.1)
            for name, n_out, n_in in (("attn.out_proj", width, width), ("mlp.c_fc", 4 * width, width),
                                      ("mlp.c_proj", width, 4 * width)):  # fmt: skip
                state[f"{key}.{name}.weight"] = draw.weight(n_out, n_in)
                state[f"{key}.{name}.bias"] = draw.normal(n_out, scale=0.1)
            for name in ("ln_1", "ln_2"):
                norm(f"{key}.{name}", width)

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = draw.positive(width), draw.normal(width, scale=0.1)

    state["positional_embedding"] = draw.normal(sizes.context, sizes.text_width, scale=0.1)
    state["text_projection"] = draw.normal(sizes.text_width, sizes.embedding, scale=0.1)
    state["logit_scale"] = torch.tensor(4.6052)
    state["visual.class_embedding"] = draw.normal(sizes.vision_width, scale=0.1)
    places = (sizes.image // sizes.patch) ** 2 + 1
    state["visual.positional_embedding"] = draw.normal(places, sizes.vision_width, scale=0.1)
    state["visual.proj"] = draw.normal(sizes.vision_width, sizes.embedding, scale=0.1)
    state["visual.conv1.weight"] = draw.weight(sizes.vision_width, 3, sizes.patch, sizes.patch)
    norm("visual.ln_pre", sizes.vision_width)
    transformer("visual.", sizes.vision_width, sizes.vision_layers)
    norm("visual.ln_post", sizes.vision_width)
    transformer("", sizes.text_width, sizes.text_layers)
    state["token_embedding.weight"] = draw.normal(sizes.vocabulary, sizes.text_width, scale=0.1)
    norm("ln_final", sizes.text_width)
    return state


class Node(nn.Module):
    """A module of parameters and modules by dotted names, with a forward so that TorchScript keeps it."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def _tree(state: State) -> Node:
    root = Node()
    for key, value in state.items():
        *parents, last = key.split(".")
        node: nn.Module = root
        for name in parents:
            if name not in node._modules:
                node.add_module(name, Node())
            node = node._modules[name]  # type: ignore[assignment]
        node.register_parameter(last, nn.Parameter(value, requires_grad=False))
    for name, number in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 540)):
        root.register_buffer(name, torch.tensor(number))
    return root


def write_openai_clip(path: Path, sizes: ClipSizes = ClipSizes(), seed: int = 0, state: State | None = None) -> State:
    """ViT-B-32.pt: a TorchScript archive, most weights fp16. Returns its state dict."""
    state = clip_state(sizes, seed) if state is None else state
    half = {key: value if "ln_" in key or "embedding" in key or key == "logit_scale" else value.half()
            for key, value in state.items()}  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the format is as old as the files
        torch.jit.save(torch.jit.trace(_tree(half), torch.zeros(1)), str(path))
    return half


def write_bpe(path: Path, vocabulary: int) -> None:
    """bpe_simple_vocab_16e6.txt.gz with made-up merges, more than the model has, as the real one."""
    symbols = [chr(c) for c in range(97, 123)]
    merges: list[str] = []
    words = list(symbols)
    for left in words:
        for right in symbols:
            if len(merges) < vocabulary:
                merges.append(f"{left} {right}")
                words.append(left + right)
        if len(merges) >= vocabulary:
            break
    path.write_bytes(gzip.compress("\n".join(["bpe_simple_vocab", *merges, ""]).encode()))


def write_hugging_face_clip(folder: Path, sizes: ClipSizes = ClipSizes(), seed: int = 0, binary: bool = False) -> State:
    """A folder of transformers' CLIPModel with a tokenizer, its config naming the end token 2 as OpenAI's do."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(seed)
    text = {"vocab_size": sizes.vocabulary, "hidden_size": sizes.text_width, "num_hidden_layers": sizes.text_layers,
            "num_attention_heads": sizes.text_width // 64, "intermediate_size": 4 * sizes.text_width,
            "max_position_embeddings": sizes.context, "eos_token_id": 2}  # fmt: skip
    vision = {"hidden_size": sizes.vision_width, "num_hidden_layers": sizes.vision_layers,
              "num_attention_heads": sizes.vision_width // 64, "intermediate_size": 4 * sizes.vision_width,
              "image_size": sizes.image, "patch_size": sizes.patch}  # fmt: skip
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=sizes.embedding))
    for name, parameter in model.named_parameters():
        if "norm" in name or "layrnorm" in name or name.endswith("bias"):
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    if binary:
        (folder / "model.safetensors").unlink()
        positions = torch.arange(sizes.context).expand(1, -1)
        torch.save(
            {**model.state_dict(), "text_model.embeddings.position_ids": positions}, folder / "pytorch_model.bin"
        )
    write_vocabulary(folder, sizes.vocabulary)
    return dict(model.state_dict())


def write_vocabulary(folder: Path, vocabulary: int) -> None:
    words = [*(f"w{i}" for i in range(vocabulary - 2)), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")


# --- StyleCLIP ------------------------------------------------------------------------------------------

LEVELS = ("course_mapping", "medium_mapping", "fine_mapping")


def write_mapper(path: Path, kind: str = "LevelsMapper", levels: Sequence[str] = LEVELS,
                 generator: GeneratorSizes = GeneratorSizes(), decoder: State | None = None, seed: int = 0,
                 **opts: Any) -> State:  # fmt: skip
    """A published mapper such as afro.pt. Returns its own weights."""
    draw, state = Draw(seed), {}
    names = levels if kind == "LevelsMapper" else ("mapping",)
    for name in names:
        for k in range(1, 5):
            state[f"{name}.mapping.{k}.weight"] = draw.normal(generator.w_dim, generator.w_dim, scale=100)
            state[f"{name}.mapping.{k}.bias"] = draw.normal(generator.w_dim, scale=10)
    decoder = rosinality_generator(generator) if decoder is None else decoder
    whole = {f"mapper.{k}": v for k, v in state.items()} | {f"decoder.{k}": v for k, v in decoder.items()}
    switches = {f"no_{word}_mapper": name not in levels
                for word, name in zip(("coarse", "medium", "fine"), LEVELS, strict=True)}  # fmt: skip
    given = {"exp_dir": "results/x", "mapper_type": kind, "description": "a person with an afro", **switches,
             "stylegan_size": max(generator.channels), **opts}  # fmt: skip
    torch.save({"state_dict": whole, "opts": given}, path)
    return state


def write_directions(folder: Path, generator: GeneratorSizes = GeneratorSizes(), features: int = 24,
                     rows: int | None = None, seed: int = 0) -> tuple[Any, list[Any], list[Any]]:  # fmt: skip
    """fs3.npy and S_mean_std in a folder. Returns both: rows, means, deviations of all layers."""
    rng = np.random.default_rng(seed)
    convs, layers = style_layers(generator)
    fs3 = rng.normal(size=(sum(convs), features))
    fs3 = (fs3 / np.linalg.norm(fs3, axis=1, keepdims=True)).astype(np.float32)[:rows]
    mean = [rng.normal(size=n).astype(np.float32) for n in layers]
    std = [rng.uniform(0.1, 1, size=n).astype(np.float32) for n in layers]
    np.save(folder / "fs3.npy", fs3)
    (folder / "S_mean_std").write_bytes(pickle.dumps([mean, std]))
    return fs3, mean, std


def style_layers(generator: GeneratorSizes) -> tuple[list[int], list[int]]:
    """Style channels of the layers that are not to-RGB, and of all, in order."""
    widths = list(generator.channels.values())
    convs, layers = [widths[0]], [widths[0], widths[0]]
    for n_in, n_out in itertools.pairwise(widths):
        convs += [n_in, n_out]
        layers += [n_in, n_out, n_out]
    return convs, layers


# --- a whole set ----------------------------------------------------------------------------------------

SMALL_SIZES = (GeneratorSizes(), IdentitySizes(), EncoderSizes(), ClipSizes())
FULL_SIZES = (FULL_GENERATOR, FULL_IDENTITY, FULL_ENCODER, FULL_CLIP)
FILES = ("stylegan2-ffhq-config-f.pt", "ViT-B-32.pt", "model_ir_se50.pth", "e4e_ffhq_encode.pt", "afro.pt", "fs3.npy")


def write_set(folder: Path, full: bool = False) -> None:
    """FILES, with the tokenizer's and the directions' files beside them, for one generator."""
    generator, identity, encoder, clip = FULL_SIZES if full else SMALL_SIZES
    stylegan2, vit, irse, e4e, afro, _ = (folder / name for name in FILES)
    decoder = write_rosinality(stylegan2, generator, zipped=False)
    decoder.pop("latent_avg")
    write_openai_clip(vit, clip)
    write_bpe(folder / "bpe_simple_vocab_16e6.txt.gz", clip.vocabulary)
    write_identity(irse, identity)
    write_e4e(e4e, encoder, generator, decoder=decoder)
    write_mapper(afro, levels=LEVELS[:2], generator=generator, decoder=decoder)
    write_directions(folder, generator, clip.embedding)


if __name__ == "__main__":
    write_set(Path(sys.argv[1]), full=sys.argv[2:] != ["small"])
