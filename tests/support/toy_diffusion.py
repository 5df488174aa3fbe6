"""A diffusion bundle of a few ONNX nodes with the real names, shapes and files; one real cross-attention layer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from limner.runtime.bundle.loading import Bundle, write_manifest
from limner.runtime.bundle.manifest import BundleManifest, ClipMeta, DiffusionMeta, LicenceMeta
from limner.runtime.bundle.parts import GraphMeta, TensorMeta
from support.toy_bundle import Graph

WIDTH, TOKENS, SIZE = 6, 77, 32  # pixels; latents are 16 x 16, attention is 4 x 4
LATENTS: tuple[int | str, ...] = ("batch", 4, "h", "w")
IMAGE: tuple[int | str, ...] = ("batch", 3, "height", "width")
Shapes = dict[str, tuple[int | str, ...]]
INTERFACES: dict[str, tuple[Shapes, Shapes]] = {
    "text_encoder": ({"input_ids": ("batch", TOKENS)}, {"token_states": ("batch", TOKENS, WIDTH)}),
    "vae_encoder": ({"image": IMAGE}, {"latent_mean": LATENTS, "latent_logvar": LATENTS}),
    "vae_decoder": ({"latents": LATENTS}, {"image": IMAGE}),
    "unet": (
        {
            "sample": LATENTS,
            "timestep": ("batch",),
            "encoder_hidden_states": ("batch", TOKENS, WIDTH),
            "source_index": ("batch",),
            "token_transfer": ("batch", TOKENS, TOKENS),
            "token_keep": ("batch", TOKENS),
            "self_replace": ("batch",),
            "blend_words": ("batch", "words", TOKENS),
        },
        {"noise_pred": LATENTS, "blend_maps": ("batch", "words", "map_h", "map_w")},
    ),
}
WHOLE = {"input_ids", "source_index"}


def build_toy_diffusion_bundle(root: Path, defaults: dict[str, dict[str, Any]] | None = None) -> Bundle:
    """Write the bundle into `root` and load it."""
    (root / "tokenizer").mkdir(parents=True)
    (root / "scheduler").mkdir()
    tokens = _write_tokenizer(root / "tokenizer")
    scheduler = {"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
    scheduler |= {"beta_schedule": "scaled_linear", "steps_offset": 1, "set_alpha_to_one": False}
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    manifest = BundleManifest(
        name="toy-diffusion",
        created_by="the tests",
        clip=ClipMeta(WIDTH, TOKENS, tokens - 1, tokens - 1, SIZE),
        graphs={name: _write_graph(root, name, tokens) for name in INTERFACES},
        licences=(LicenceMeta("all", "CC0", "nobody", "drawn at random"),),
        diffusion=DiffusionMeta(0.5, "epsilon", 4, SIZE // 2, vae_factor=2, multiple=8),
        family="diffusion",
        constants=None,
        defaults=defaults or {},
    )
    return write_manifest(root, manifest)


def _write_tokenizer(folder: Path) -> int:
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return len(tokens)


def _write_graph(root: Path, name: str, tokens: int) -> GraphMeta:
    graph, (inputs, outputs) = Graph(), INTERFACES[name]
    random = np.random.RandomState(len(name))

    def draw(*shape: int, scale: float = 1.0) -> str:
        return graph.constant((random.randn(*shape) * scale).astype(np.float32))

    if name == "text_encoder":
        graph("Gather", draw(tokens, WIDTH), "input_ids", axis=0, to="token_states")
    elif name == "vae_encoder":
        graph("Conv", "image", draw(4, 3, 2, 2), kernel_shape=[2, 2], strides=[2, 2], to="latent_mean")
        graph("Neg", "latent_mean", to="latent_logvar")
    elif name == "vae_decoder":
        pixels = graph("ConvTranspose", "latents", draw(4, 3, 2, 2, scale=0.3), kernel_shape=[2, 2], strides=[2, 2])
        graph("Tanh", pixels, to="image")
    else:
        _unet(graph, draw)

    def values(shapes: Shapes) -> list[onnx.ValueInfoProto]:
        kinds = {key: TensorProto.INT64 if key in WHOLE else TensorProto.FLOAT for key in shapes}
        return [helper.make_tensor_value_info(key, kinds[key], shape) for key, shape in shapes.items()]

    proto = helper.make_graph(graph.nodes, name, values(inputs), values(outputs), graph.constants)
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, root / f"{name}.onnx")

    def metas(shapes: Shapes) -> tuple[TensorMeta, ...]:
        return tuple(TensorMeta(key, "int64" if key in WHOLE else "float32", shape) for key, shape in shapes.items())

    return GraphMeta(f"{name}.onnx", metas(inputs), metas(outputs))


def _unet(graph: Graph, draw: Any) -> None:
    """tanh(W x) + attention of 4 x 4 places on the words + a little of the timestep."""
    small = graph("AveragePool", "sample", kernel_shape=[4, 4], strides=[4, 4])  # [B,4,h_a,w_a]
    flat = graph("Reshape", small, graph.constant(np.array([0, 4, -1])))
    query = graph("Transpose", flat, perm=[0, 2, 1])  # [B,P,4]
    moved = graph("Gather", query, "source_index", axis=0)
    swap = graph("Reshape", "self_replace", graph.constant(np.array([-1, 1, 1])))
    query = graph("Add", query, graph("Mul", swap, graph("Sub", moved, query)))
    key = graph("MatMul", "encoder_hidden_states", draw(WIDTH, 4))  # [B,77,4]
    scores = graph("MatMul", query, graph("Transpose", key, perm=[0, 2, 1]))
    attention = graph("Softmax", scores, axis=-1)  # [B,P,77]
    source = graph("MatMul", graph("Gather", attention, "source_index", axis=0), "token_transfer")
    keep = graph("Unsqueeze", "token_keep", graph.constant(np.array([1])))
    attention = graph("Add", source, graph("Mul", attention, keep))
    value = graph("MatMul", "encoder_hidden_states", draw(WIDTH, 4, scale=2.0))
    mixed = graph("Transpose", graph("MatMul", attention, value), perm=[0, 2, 1])  # [B,4,P]
    mixed = graph("Reshape", mixed, graph("Shape", small))
    ones = graph.constant(np.ones((4, 1, 4, 4), np.float32))
    spread = graph("ConvTranspose", mixed, ones, kernel_shape=[4, 4], strides=[4, 4], group=4)
    body = graph("Tanh", graph("Conv", "sample", draw(4, 4, 1, 1, scale=0.5), kernel_shape=[1, 1]))
    time = graph("Reshape", "timestep", graph.constant(np.array([-1, 1, 1, 1])))
    time = graph("Mul", time, graph.constant(np.array(1e-4)))
    graph("Add", graph("Add", body, spread), time, to="noise_pred")
    maps = graph("MatMul", "blend_words", graph("Transpose", attention, perm=[0, 2, 1]))  # [B,K,P]
    sides = graph("Shape", small, start=2)
    shape = graph("Concat", graph.constant(np.array([0, 0])), sides, axis=0)
    graph("Reshape", maps, shape, to="blend_maps")
