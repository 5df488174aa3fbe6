"""A bundle small enough to read: two graphs, weights.bin, a tokenizer of letters, constants, relevance."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from limner.runtime.bundle.loading import write_manifest
from limner.runtime.bundle.manifest import BundleManifest, ClipMeta, LicenceMeta
from limner.runtime.bundle.parts import GeneratorMeta, GraphMeta, LayerMeta, ParityMeta, TensorMeta

Z, W, LEVELS, CHANNELS, EMBEDDING = 4, 4, 4, 6, 3
WEIGHT = np.arange(Z * W, dtype=np.float32).reshape(Z, W) / 10


@pytest.fixture
def make_bundle_folder(tmp_path: Path) -> Callable[[], Path]:
    """Returns a function that writes the small bundle into a new folder and returns its path."""

    def make() -> Path:
        folder = tmp_path / f"bundle{len(list(tmp_path.iterdir()))}"
        (folder / "tokenizer").mkdir(parents=True)
        write_graphs(folder)
        write_tokenizer(folder / "tokenizer")
        save_file({"latent_avg": np.ones(W, np.float32)}, folder / "constants.safetensors")
        relevance: dict[str, np.ndarray] = {"relevance": np.zeros((CHANNELS, EMBEDDING), np.float16)}
        relevance |= {name: np.ones(CHANNELS, np.float32) for name in ("style_mean", "style_std")}
        save_file(relevance, folder / "relevance.safetensors")
        write_manifest(folder, manifest())
        return folder

    return make


@pytest.fixture
def bundle_folder(make_bundle_folder: Callable[[], Path]) -> Path:
    return make_bundle_folder()


@pytest.fixture
def mapping_weight() -> np.ndarray:
    """The weight of the small bundle's "mapping" graph: w = z @ weight."""
    return WEIGHT


@pytest.fixture
def save_graph() -> Callable[..., None]:
    """The function that writes a graph of a few nodes."""
    return save_small_graph


def manifest() -> BundleManifest:
    layers = (LayerMeta("conv1", 4, 4, "conv", 0), LayerMeta("to_rgb1", 4, 2, "to_rgb", 1))
    parity = ParityMeta(max_rel_error=1e-6, tolerance=1e-4, cases=1, outputs={"w": 1e-6})
    mapping_inputs = (TensorMeta("z", "float32", ("batch", Z)),)
    mapping_outputs = (TensorMeta("w", "float32", ("batch", W)),)
    pair_inputs = (TensorMeta("a", "float32", ("batch", W)), TensorMeta("b", "float32", ("batch", W)))
    pair_outputs = (TensorMeta("root", "float32", ("batch", W)), TensorMeta("sum", "float32", ("batch", W)))
    return BundleManifest(
        name="small",
        created_by="limner test",
        generator=GeneratorMeta(8, Z, W, LEVELS, CHANNELS, layers),
        clip=ClipMeta(embedding=EMBEDDING, context_length=8, eos=1, pad=1, image_size=8),
        graphs={
            "mapping": GraphMeta("mapping.onnx", mapping_inputs, mapping_outputs, ("weights.bin",), parity),
            "pair": GraphMeta("pair.onnx", pair_inputs, pair_outputs),
        },
        licences=(LicenceMeta("all", "CC0", "the tests", "made here"),),
        relevance="relevance.safetensors",
    )


def write_graphs(folder: Path) -> None:
    """mapping: w = z @ WEIGHT, the weight in weights.bin; pair: root = sqrt(a), sum = a + b."""
    (folder / "weights.bin").write_bytes(WEIGHT.tobytes())
    weight = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=WEIGHT.shape)
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", str(WEIGHT.nbytes))):
        weight.external_data.add(key=key, value=value)
    matmul = helper.make_node("MatMul", ["z", "weight"], ["w"])
    save_small_graph(folder / "mapping.onnx", [matmul], {"z": Z}, {"w": W}, [weight])
    nodes = [helper.make_node("Sqrt", ["a"], ["root"]), helper.make_node("Add", ["a", "b"], ["sum"])]
    save_small_graph(folder / "pair.onnx", nodes, {"a": W, "b": W}, {"root": W, "sum": W}, [])


def save_small_graph(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, int],  # name -> width; every tensor is float32 [batch, width]
    outputs: dict[str, int],
    initializers: list[TensorProto],
) -> None:
    def values(widths: dict[str, int]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, 1, ["batch", width]) for name, width in widths.items()]

    graph = helper.make_graph(nodes, "small", values(inputs), values(outputs), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())


def write_tokenizer(folder: Path) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
