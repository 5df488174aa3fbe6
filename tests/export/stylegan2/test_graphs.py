"""The rewritten modules against the plain ones, and what an exported graph must look like."""

import dataclasses
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from support.tiny import tiny_networks, unsettle

from limner.export.report import parity
from limner.export.stylegan2.clip_tower import FastClipImage
from limner.export.stylegan2.features import (
    PixelLoss,
    PlainFeatures,
    feature_layer,
    feature_resolution,
    feature_shape,
)
from limner.export.stylegan2.graphs import build_specs, check_interface, export_graph
from limner.export.stylegan2.networks import Networks
from limner.export.stylegan2.synthesis import FastSynthesis, doubling_matrix
from limner.runtime.bundle.loading import Bundle
from limner.runtime.errors import LimnerError
from limner.runtime.stylegan2.networks import Models
from limner.runtime.text.tokenizer import Tokenizer
from limner.training.models.clip import ClipImageTower
from limner.training.models.stylegan2 import Generator, StyleGAN2Config, upsample_rgb

GRAPHS = ("mapping", "affine", "synthesis_w", "synthesis_s", "encoder", "identity", "clip_image", "clip_text",
          "latent_gradient", "style_gradient", "synthesis_features", "feature_gradient")  # fmt: skip


@pytest.fixture(scope="module")
def networks() -> Networks:
    return tiny_networks()


@torch.no_grad()
def silence(generator: Generator) -> None:
    """Noise that weighs nothing."""
    for name, weight in generator.named_parameters():
        if name.endswith("noise.weight"):
            weight.zero_()


@pytest.mark.parametrize("noise", [True, False])
@torch.no_grad()
def test_fast_synthesis_against_generator(noise: bool) -> None:
    torch.manual_seed(1)
    generator = Generator(StyleGAN2Config(size=32, z_dim=8, w_dim=16, n_mlp=2, channels={4: 12, 8: 8, 16: 8, 32: 4}))
    unsettle(generator)
    if not noise:
        silence(generator)
    fast = FastSynthesis(generator)
    assert fast.silent == [not noise] * 7
    w_plus = torch.randn(3, generator.num_ws, 16)
    torch.testing.assert_close(fast.from_w_plus(w_plus), generator.synthesis(w_plus), rtol=1e-4, atol=1e-5)
    styles = generator.affine(w_plus)
    torch.testing.assert_close(fast(styles), generator.synthesis_from_styles(styles), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "side"), [(4, 4), (8, 4), (16, 8), (32, 16), (64, 16), (128, 32), (256, 64), (512, 64), (1024, 64)]
)
def test_side_of_the_feature_map(size: int, side: int) -> None:
    assert feature_resolution(StyleGAN2Config(size=size)) == side


@pytest.mark.parametrize("noise", [True, False])
def test_an_offset_to_the_features_against_a_hook(noise: bool) -> None:
    """The rewritten generator adds it where the plain one does, and its gradient is autograd's."""
    torch.manual_seed(2)
    generator = Generator(StyleGAN2Config(size=32, z_dim=8, w_dim=16, n_mlp=2, channels={4: 12, 8: 8, 16: 6, 32: 4}))
    unsettle(generator)
    generator.requires_grad_(False)
    if not noise:
        silence(generator)
    assert feature_shape(generator) == (6, 16, 16) and feature_layer(generator) == "convs.3"
    fast, plain = FastSynthesis(generator, feature_layer(generator)), PlainFeatures(generator)
    styles = generator.affine(torch.randn(3, generator.num_ws, 16))
    offset, target = torch.randn(3, 6, 16, 16), torch.rand(3, 3, 32, 32)
    for found, wanted in zip(fast.with_offset(styles, offset), plain.with_offset(styles, offset), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    zero = torch.zeros_like(offset)
    torch.testing.assert_close(fast.with_offset(styles, zero)[0], generator.synthesis_from_styles(styles),
                               rtol=1e-4, atol=1e-5)  # fmt: skip
    given = (offset, styles, target, torch.tensor([0.5]))
    for found, wanted in zip(PixelLoss(fast).gradient(*given), plain.gradient(*given), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert plain.gradient(*given)[1].norm() > 0
    assert not list(generator.get_submodule("convs.3")._forward_hooks)


@torch.no_grad()
def test_fast_synthesis_of_styles_near_zero_is_finite() -> None:
    generator = tiny_networks().generator
    image = FastSynthesis(generator)(torch.zeros(1, generator.num_style_channels))
    assert torch.isfinite(image).all()


def test_doubling_matrix_is_the_enlargement() -> None:
    x = torch.randn(2, 3, 5, 5)
    double = doubling_matrix(5)
    torch.testing.assert_close(double @ x @ double.t(), upsample_rgb(x))


@pytest.mark.parametrize("preprocess", ["correct", "published"])
@torch.no_grad()
def test_fast_clip_against_tower(networks: Networks, preprocess: Any) -> None:
    tower = ClipImageTower(networks.clip, 16, preprocess)
    image = torch.rand(3, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(FastClipImage(tower)(image), tower(image), rtol=1e-4, atol=1e-6)


def test_every_graph_is_there(networks: Networks) -> None:
    assert tuple(build_specs(networks)) == GRAPHS


@pytest.mark.parametrize("graph", GRAPHS)
def test_batch_is_free_and_opset_as_asked(tiny_bundle: Bundle, graph: str) -> None:
    meta = tiny_bundle.graph(graph)
    model = onnx.load(tiny_bundle.file(meta.file), load_external_data=False)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    for value in (*model.graph.input, *model.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        assert first.dim_param == "batch" or value.name == "loss_weights"
    assert not model.functions
    assert all(node.domain == "" for node in model.graph.node)


@pytest.mark.parametrize("graph", GRAPHS)
def test_no_trace_of_the_machine(tiny_bundle: Bundle, graph: str) -> None:
    content = tiny_bundle.file(tiny_bundle.graph(graph).file).read_bytes()
    for word in (b"/home", b"/root", b"/work", b".py", b"site-packages", b"stack_trace"):
        assert word not in content


def test_gradient_graph_suits_tensorrt(tiny_bundle: Bundle) -> None:
    """No operators with several outputs that its parser refuses, and no control flow."""
    model = onnx.load(tiny_bundle.file("latent_gradient.onnx"), load_external_data=False)
    refused = {"MaxPool", "LayerNormalization", "If", "Loop", "Scan", "SplitToSequence", "SequenceAt"}
    assert not refused & {node.op_type for node in model.graph.node}


def test_wrong_batch_is_an_error(networks: Networks) -> None:
    spec = build_specs(networks)["mapping"]
    model = export_graph(spec)
    model.graph.inputs[0].shape = ir.Shape([7, 8])
    with pytest.raises(LimnerError, match="shape"):
        check_interface(spec, model)


def test_parity_notices_a_difference(tiny_bundle: Bundle, networks: Networks) -> None:
    spec = build_specs(networks)["mapping"]
    other = dataclasses.replace(spec, reference=lambda z: (spec.reference(z)[0] * 1.01,))
    report = parity.measure(other, tiny_bundle.file("mapping.onnx"))
    assert not report.passed
    assert report.max_rel_error == pytest.approx(0.01, rel=0.2)
    assert "mapping" in parity.as_markdown([report])
    assert np.isfinite(parity.as_json([report])["graphs"]["mapping"]["max_rel_error"])


def test_texts_are_cut_to_the_longest(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The features of a text do not depend on what it is filled up with, nor on the texts beside it."""
    models = Models(tiny_bundle, threads=1)
    texts = ["a person", "a smiling person with red hair", "hair"]
    full = Tokenizer.from_bundle(tiny_bundle).encode(texts)
    expected = models.sessions.run("clip_text", input_ids=full)["text_features"]
    widths: list[int] = []
    whole = models.sessions.run

    def run(*given: Any, **arrays: Any) -> Any:
        widths.append(arrays["input_ids"].shape[1])
        return whole(*given, **arrays)

    monkeypatch.setattr(models.sessions, "run", run)
    np.testing.assert_allclose(models.clip_text(texts), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(models.clip_text(texts[:1]), expected[:1], rtol=1e-5, atol=1e-6)
    assert widths[1] < widths[0] < full.shape[1]
