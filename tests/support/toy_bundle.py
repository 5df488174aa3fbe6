"""A bundle of toy networks with the real names, shapes and file formats, small enough to build in every test
run.

The generator is image = tanh(styles G + offset K), styles = w_plus A, features = styles F + offset; CLIP and
identity are one matrix each. So every gradient has a closed form, which is written here twice: as an ONNX graph
(what the bundle carries) and in numpy float64 (`reference_gradient`, what the tests compare with).
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from limner.runtime.bundle.loading import Bundle, write_manifest
from limner.runtime.bundle.manifest import BundleManifest, ClipMeta, EncoderMeta, IdentityMeta, LicenceMeta
from limner.runtime.bundle.parts import GeneratorMeta, GraphMeta, LayerMeta, TensorMeta

SIZE, NUM_WS, W_DIM, Z_DIM, CLIP_DIM, IDENTITY_DIM, CONTEXT = 16, 6, 8, 8, 12, 10, 200
LAYERS = (
    LayerMeta("conv1", 4, 6, "conv", 0),
    LayerMeta("to_rgb1", 4, 3, "to_rgb", 1),
    LayerMeta("convs.0", 8, 6, "conv", 1),
    LayerMeta("convs.1", 8, 5, "conv", 2),
    LayerMeta("to_rgbs.0", 8, 3, "to_rgb", 3),
    LayerMeta("convs.2", 16, 5, "conv", 3),
    LayerMeta("convs.3", 16, 4, "conv", 4),
    LayerMeta("to_rgbs.1", 16, 3, "to_rgb", 5),
)
STYLES = sum(layer.channels for layer in LAYERS)
PIXELS = 3 * SIZE * SIZE
FLAT = NUM_WS * W_DIM
FEATURES = (2, 4, 4)
EDITABLE = np.concatenate([np.full(layer.channels, layer.kind == "conv") for layer in LAYERS])


@dataclass(frozen=True)
class ToyWeights:
    """The matrices of the toy networks, float32."""

    mapping: NDArray[np.float32]  # [Z,D]
    affine: NDArray[np.float32]  # [L*D,S]
    synthesis: NDArray[np.float32]  # [S,3HW]
    features: NDArray[np.float32]  # [S,32]
    offset: NDArray[np.float32]  # [32,3HW]
    encoder: NDArray[np.float32]  # [3HW,L*D]
    clip: NDArray[np.float32]  # [3HW,C]
    identity: NDArray[np.float32]  # [3HW,I]
    words: NDArray[np.float32]  # [V,C]
    latent_avg: NDArray[np.float32]  # [D]
    relevance: NDArray[np.float32]  # [S,C]
    style_std: NDArray[np.float32]  # [S]
    mapped_basis: NDArray[np.float32]  # [D,D]


def toy_weights(vocabulary: int) -> ToyWeights:
    """Draw the weights; the same every time."""
    random = np.random.RandomState(0)

    def draw(*shape: int, scale: float) -> NDArray[np.float32]:
        return (random.randn(*shape) * scale).astype(np.float32)

    affine, synthesis = draw(FLAT, STYLES, scale=FLAT**-0.5), draw(STYLES, PIXELS, scale=0.3 * STYLES**-0.5)
    relevance = draw(STYLES, CLIP_DIM, scale=1.0)
    relevance /= np.linalg.norm(relevance, axis=1, keepdims=True)
    relevance[~EDITABLE] = 0
    return ToyWeights(
        mapping=draw(Z_DIM, W_DIM, scale=Z_DIM**-0.5),
        affine=affine,
        synthesis=synthesis,
        features=np.random.RandomState(1).randn(STYLES, 32).astype(np.float32),
        offset=(np.random.RandomState(2).randn(32, PIXELS) * 0.1).astype(np.float32),
        encoder=np.linalg.pinv(affine.astype(np.float64) @ synthesis).astype(np.float32),
        clip=draw(PIXELS, CLIP_DIM, scale=PIXELS**-0.5),
        identity=draw(PIXELS, IDENTITY_DIM, scale=PIXELS**-0.5),
        words=draw(vocabulary, CLIP_DIM, scale=1.0),
        latent_avg=draw(W_DIM, scale=0.1),
        relevance=relevance,
        style_std=np.abs(draw(STYLES, scale=0.5)) + np.float32(0.1),
        mapped_basis=draw(W_DIM, W_DIM, scale=0.5),
    )


class Graph:
    """A few lines of notation over onnx.helper."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(self, operation: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        output = to or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, list(inputs), [output], **attributes))
        return output

    def constant(self, value: Any) -> str:
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def image(self, w_plus: str, weights: ToyWeights, to: str = "") -> tuple[str, str]:
        """Return (flat image, image)."""
        flat = self("Reshape", w_plus, self.constant(np.array([-1, FLAT])))
        return self.image_from_styles(self("MatMul", flat, self.constant(weights.affine)), weights, to)

    def image_from_styles(self, styles: str, weights: ToyWeights, to: str = "") -> tuple[str, str]:
        pixels = self("Tanh", self("MatMul", styles, self.constant(weights.synthesis)))
        shape = self.constant(np.array([-1, 3, SIZE, SIZE]))
        return pixels, self("Reshape", pixels, shape, to=to)

    def image_with_offset(self, weights: ToyWeights, to: str) -> str:
        """Write the image of style_channels and feature_offset; return the flat one."""
        added = self("MatMul", self("Reshape", "feature_offset", self.constant(np.array([-1, 32]))),
                     self.constant(weights.offset))  # fmt: skip
        drawn = self("Add", self("MatMul", "style_channels", self.constant(weights.synthesis)), added)
        pixels = self("Tanh", drawn)
        self("Reshape", pixels, self.constant(np.array([-1, 3, SIZE, SIZE])), to=to)
        return pixels

    def flat(self, image: str) -> str:
        return self("Reshape", image, self.constant(np.array([-1, PIXELS])))

    def unit(self, features: str, to: str = "") -> tuple[str, str]:
        """Return (unit features, length [N,1])."""
        length = self("ReduceL2", features, self.constant(np.array([1])), keepdims=1)
        return self("Div", features, length, to=to), length

    def total(self, value: str, keepdims: int = 0, to: str = "") -> str:
        return self("ReduceSum", value, self.constant(np.array([1])), keepdims=keepdims, to=to)

    def cosine_loss(self, pixels: str, matrix: NDArray[np.float32], target: str, to: str) -> str:
        """Write 1 - cos to `to` [N]; return its gradient with respect to the flat image [N,3HW]."""
        features, length = self.unit(self("MatMul", pixels, self.constant(matrix)))
        cosine = self.total(self("Mul", features, target), keepdims=1)
        one = self.constant(np.array([1.0]))
        shape = self.constant(np.array([-1]))
        self("Reshape", self("Sub", one, cosine), shape, to=to)
        across = self("Sub", self("Mul", cosine, features), target)
        return self("MatMul", self("Div", across, length), self.constant(matrix.T.copy()))


def latent_gradient(graph: Graph, weights: ToyWeights, in_styles: bool = False) -> None:
    """The graph of the four losses and the gradient of their weighted sum, in W+ or in S."""
    latent = "style_channels" if in_styles else "w_plus"
    draw = graph.image_from_styles if in_styles else graph.image
    pixels, _ = draw(latent, weights, to="image")
    clip = graph.cosine_loss(pixels, weights.clip, "text_features", "loss_clip")
    identity = graph.cosine_loss(pixels, weights.identity, "identity_source", "loss_identity")
    moved = graph("Sub", latent, f"{latent}_source")
    axes = graph.constant(np.array([1] if in_styles else [1, 2]))
    graph("ReduceSum", graph("Mul", moved, moved), axes, keepdims=0, to="loss_l2")
    off = graph("Sub", pixels, graph.flat("target_image"))
    graph("ReduceMean", graph("Mul", off, off), graph.constant(np.array([1])), keepdims=0, to="loss_pixel")
    k_clip, k_l2, k_identity, k_pixel = (
        graph("Gather", "loss_weights", graph.constant(np.array(i)), axis=0) for i in range(4)
    )
    to_image = graph("Mul", k_clip, clip)
    to_image = graph("Add", to_image, graph("Mul", k_identity, identity))
    pixel = graph("Mul", off, graph.constant(np.array(2.0 / PIXELS)))
    to_image = graph("Add", to_image, graph("Mul", k_pixel, pixel))
    slope = graph("Sub", graph.constant(np.array(1.0)), graph("Mul", pixels, pixels))
    ahead = weights.synthesis.astype(np.float64) if in_styles else weights.affine.astype(np.float64) @ weights.synthesis
    to_w = graph("MatMul", graph("Mul", to_image, slope), graph.constant(ahead.T))
    if not in_styles:
        to_w = graph("Reshape", to_w, graph.constant(np.array([-1, NUM_WS, W_DIM])))
    pull = graph("Mul", graph("Mul", k_l2, graph.constant(np.array(2.0))), moved)
    graph("Add", to_w, pull, to="gradient")


def feature_gradient(graph: Graph, weights: ToyWeights) -> None:
    """The gradient of the pixel term by the offset."""
    pixels = graph.image_with_offset(weights, to="image")
    off = graph("Sub", pixels, graph.flat("target_image"))
    graph("ReduceMean", graph("Mul", off, off), graph.constant(np.array([1])), keepdims=0, to="loss_pixel")
    slope = graph("Sub", graph.constant(np.array(1.0)), graph("Mul", pixels, pixels))
    scaled = graph("Mul", graph("Mul", off, graph.constant(np.array(2.0 / PIXELS))), "loss_weights")
    to_offset = graph("MatMul", graph("Mul", scaled, slope), graph.constant(weights.offset.T.copy()))
    graph("Reshape", to_offset, graph.constant(np.array([-1, *FEATURES])), to="gradient")


def reference_gradient(
    weights: ToyWeights,
    w: NDArray[np.float64],  # [N,L,D]
    w0: NDArray[np.float64],
    text: NDArray[np.float64],
    identity0: NDArray[np.float64],
    target: NDArray[np.float64],
    k: NDArray[np.float64],
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """The same in numpy float64: (losses, gradient)."""
    matrix = weights.affine.astype(np.float64) @ weights.synthesis
    x = np.tanh(w.reshape(len(w), -1) @ matrix)
    to_x = np.zeros_like(x)
    losses = {}
    for name, k_term, projection, goal in (
        ("loss_clip", k[0], weights.clip, text),
        ("loss_identity", k[2], weights.identity, identity0),
    ):
        f = x @ projection
        length = np.linalg.norm(f, axis=1, keepdims=True)
        cosine = ((f / length) * goal).sum(1, keepdims=True)
        losses[name] = 1 - cosine[:, 0]
        to_x += k_term * ((cosine * f / length - goal) / length) @ projection.T
    off = x - target.reshape(len(w), -1)
    losses["loss_pixel"] = (off**2).mean(1)
    losses["loss_l2"] = ((w - w0) ** 2).sum((1, 2))
    to_x += k[3] * 2 * off / PIXELS
    gradient = ((to_x * (1 - x**2)) @ matrix.T).reshape(w.shape) + k[1] * 2 * (w - w0)
    return losses, gradient


def build_toy_bundle(root: Path, manifest_changes: dict[str, Any] | None = None) -> tuple[Bundle, ToyWeights]:
    """Write the bundle into `root` and load it."""
    root.mkdir(parents=True, exist_ok=True)
    tokens = _write_tokenizer(root)
    weights = toy_weights(len(tokens))
    constants = {"latent_avg": weights.latent_avg, "mapped_basis": weights.mapped_basis}
    save_file(constants, root / "constants.safetensors")
    means = np.zeros(STYLES, np.float32)
    tensors = {"relevance": weights.relevance, "style_mean": means, "style_std": weights.style_std}
    save_file(tensors, root / "relevance.safetensors")
    end = tokens["<|endoftext|>"]
    manifest = BundleManifest(
        name="toy",
        created_by="the tests",
        generator=GeneratorMeta(SIZE, Z_DIM, W_DIM, NUM_WS, STYLES, LAYERS),
        clip=ClipMeta(CLIP_DIM, CONTEXT, end, end, SIZE),
        graphs=_write_graphs(root, weights),
        licences=(LicenceMeta("all", "CC0", "nobody", "drawn at random"),),
        identity=IdentityMeta(IDENTITY_DIM),
        encoder=EncoderMeta(),
        relevance="relevance.safetensors",
    )
    return write_manifest(root, replace(manifest, **(manifest_changes or {}))), weights


@pytest.fixture(scope="session", name="toy")
def toy_fixture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, ToyWeights]:
    """The bundle and its weights, built once."""
    return build_toy_bundle(tmp_path_factory.mktemp("toy") / "bundle")


def _write_tokenizer(root: Path) -> dict[str, int]:
    """Bytes only, no merges: a token a letter."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    rest = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(rest))]
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokens = {name: index for index, name in enumerate(names)}
    folder = root / "tokenizer"
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(tokens), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return tokens


IMAGE = ("batch", 3, SIZE, SIZE)
W_PLUS = ("batch", NUM_WS, W_DIM)
INTERFACES: dict[str, tuple[dict[str, tuple[int | str, ...]], dict[str, tuple[int | str, ...]]]] = {
    "mapping": ({"z": ("batch", Z_DIM)}, {"w": ("batch", W_DIM)}),
    "affine": ({"w_plus": W_PLUS}, {"style_channels": ("batch", STYLES)}),
    "synthesis_w": ({"w_plus": W_PLUS}, {"image": IMAGE}),
    "synthesis_s": ({"style_channels": ("batch", STYLES)}, {"image": IMAGE}),
    "encoder": ({"image": IMAGE}, {"w_plus": W_PLUS}),
    "identity": ({"image": IMAGE}, {"identity_features": ("batch", IDENTITY_DIM)}),
    "clip_image": ({"image": IMAGE}, {"image_features": ("batch", CLIP_DIM)}),
    "clip_text": ({"input_ids": ("batch", CONTEXT)}, {"text_features": ("batch", CLIP_DIM)}),
    "latent_gradient": (
        {
            "w_plus": W_PLUS,
            "w_plus_source": W_PLUS,
            "text_features": ("batch", CLIP_DIM),
            "identity_source": ("batch", IDENTITY_DIM),
            "target_image": IMAGE,
            "loss_weights": (4,),
        },
        {
            "loss_clip": ("batch",),
            "loss_l2": ("batch",),
            "loss_identity": ("batch",),
            "loss_pixel": ("batch",),
            "gradient": W_PLUS,
            "image": IMAGE,
        },
    ),
}

INTERFACES["style_gradient"] = tuple(  # type: ignore[assignment]
    {key.replace("w_plus", "style_channels"): ("batch", STYLES) if shape == W_PLUS else shape
     for key, shape in side.items()}
    for side in INTERFACES["latent_gradient"]
)  # fmt: skip
OFFSET = {"style_channels": ("batch", STYLES), "feature_offset": ("batch", *FEATURES)}
INTERFACES["synthesis_features"] = (OFFSET, {"image": IMAGE, "features": ("batch", *FEATURES)})
INTERFACES["feature_gradient"] = (
    OFFSET | {"target_image": IMAGE, "loss_weights": (1,)},
    {"loss_pixel": ("batch",), "gradient": ("batch", *FEATURES), "image": IMAGE},
)


def _write_graphs(root: Path, weights: ToyWeights) -> dict[str, GraphMeta]:
    metas = {}
    for name, (inputs, outputs) in INTERFACES.items():
        graph = Graph()
        _fill(name, graph, weights)
        ids = {"input_ids"}
        proto = helper.make_graph(
            graph.nodes,
            name,
            [helper.make_tensor_value_info(key, _onnx_type(key in ids), shape) for key, shape in inputs.items()],
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in outputs.items()],
            graph.constants,
        )
        model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        onnx.save(model, root / f"{name}.onnx")
        metas[name] = GraphMeta(
            file=f"{name}.onnx",
            inputs=tuple(TensorMeta(key, "int64" if key in ids else "float32", shape) for key, shape in inputs.items()),
            outputs=tuple(TensorMeta(key, "float32", shape) for key, shape in outputs.items()),
        )
    return metas


def _fill(name: str, graph: Graph, weights: ToyWeights) -> None:
    if name == "mapping":
        graph("MatMul", "z", graph.constant(weights.mapping), to="w")
    elif name == "affine":
        flat = graph("Reshape", "w_plus", graph.constant(np.array([-1, FLAT])))
        graph("MatMul", flat, graph.constant(weights.affine), to="style_channels")
    elif name == "synthesis_w":
        graph.image("w_plus", weights, to="image")
    elif name == "synthesis_s":
        graph.image_from_styles("style_channels", weights, to="image")
    elif name == "encoder":
        flat = graph("MatMul", graph.flat("image"), graph.constant(weights.encoder))
        graph("Reshape", flat, graph.constant(np.array([-1, NUM_WS, W_DIM])), to="w_plus")
    elif name == "identity":
        graph.unit(graph("MatMul", graph.flat("image"), graph.constant(weights.identity)), "identity_features")
    elif name == "clip_image":
        graph.unit(graph("MatMul", graph.flat("image"), graph.constant(weights.clip)), to="image_features")
    elif name == "clip_text":
        words = graph("Gather", graph.constant(weights.words), "input_ids", axis=0)
        mean = graph("ReduceMean", words, graph.constant(np.array([1])), keepdims=0)
        graph.unit(mean, to="text_features")
    elif name == "synthesis_features":
        graph.image_with_offset(weights, to="image")
        own = graph("MatMul", "style_channels", graph.constant(weights.features))
        graph("Add", graph("Reshape", own, graph.constant(np.array([-1, *FEATURES]))), "feature_offset", to="features")
    elif name == "feature_gradient":
        feature_gradient(graph, weights)
    else:
        latent_gradient(graph, weights, name == "style_gradient")


def _onnx_type(is_ids: bool) -> int:
    return int(TensorProto.INT64 if is_ids else TensorProto.FLOAT)
