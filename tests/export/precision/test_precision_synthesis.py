"""The generator in fp16: styles of any size, and layers that would overflow."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from support.tiny import tiny_networks

from limner.export.precision.half import CLAMP, half_graph
from limner.export.stylegan2.graphs import build_specs, export_graph
from limner.export.stylegan2.synthesis import FastSynthesis


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny generator from style channels."""
    path = tmp_path_factory.mktemp("synthesis") / "synthesis_s.onnx"
    ir.save(export_graph(build_specs(tiny_networks())["synthesis_s"]), path)
    return path


def run(path: Path, styles: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"style_channels": styles})[0])


def styles_of(factor: float, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Style channels whose demodulated layers see them `factor` times as large, and the picture torch makes of them."""
    networks = tiny_networks()
    generator = networks.generator
    w_plus = torch.randn(batch, generator.num_ws, generator.config.w_dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        styles = generator.affine(w_plus)
        start = 0
        for layer in generator.layers:
            if layer.kind == "conv":
                styles[:, start : start + layer.channels] *= factor
            start += layer.channels
        return styles, generator.synthesis_from_styles(styles)


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3, 3e4])
def test_the_division_cancels_in_fp32(factor: float) -> None:
    styles, expected = styles_of(factor)
    with torch.no_grad():
        found = FastSynthesis(tiny_networks().generator)(styles)
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_styles_of_zero_are_no_nan() -> None:
    networks = tiny_networks()
    styles = torch.zeros(1, networks.generator.num_style_channels)
    with torch.no_grad():
        found, expected = FastSynthesis(networks.generator)(styles), networks.generator.synthesis_from_styles(styles)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 3e4])
def test_large_styles_in_fp16(exported: Path, tmp_path: Path, factor: float) -> None:
    """3e4 times a style is beyond fp16 by itself: only what is divided first stays inside."""
    styles, expected = styles_of(factor)
    model, half = half_graph(exported, "synthesis_s", measure=lambda model: {})
    assert half.nodes > 2 * len(half.kept)
    ir.save(model, tmp_path / "half.onnx")
    found = run(tmp_path / "half.onnx", styles.numpy())
    wanted = expected.numpy()
    assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 5e-3


def test_an_overflow_does_not_spread(exported: Path, tmp_path: Path) -> None:
    """A layer's weight made so large that its sums leave fp16: the picture is finite."""
    model = ir.external_data.load_to_model(ir.load(exported))
    for value in model.graph.initializers.values():
        array = value.const_value.numpy() if value.const_value is not None else np.zeros(0)
        if array.ndim == 4 and array.shape[-1] == 3 and array.dtype == np.float32:
            value.const_value = ir.tensor(
                (array * 6e4 / max(np.abs(array).max(), 1e-9)).astype(np.float32), name=value.name
            )
    ir.save(model, tmp_path / "large.onnx")
    half, _ = half_graph(tmp_path / "large.onnx", "synthesis_s", measure=lambda model: {})
    clips = [node for node in half.graph if node.op_type == "Clip" and (node.name or "").endswith("_clamp")]
    assert clips
    assert all(float(node.inputs[2].const_value.numpy()) == CLAMP for node in clips)  # type: ignore[union-attr]
    ir.save(half, tmp_path / "half.onnx")
    assert np.isfinite(run(tmp_path / "half.onnx", styles_of(1.0)[0].numpy())).all()


def test_the_gradient_does_not_see_the_division() -> None:
    """d picture / d styles against autograd through the generator as it was trained, whose pictures are fp32."""
    networks = tiny_networks()
    generator = networks.generator.double()
    generator.compute_dtype = torch.float64
    styles = styles_of(1.0)[0].double()
    pulls = []
    for function in (FastSynthesis(generator).double(), generator.synthesis_from_styles):
        point = styles.clone().requires_grad_(True)
        picture = function(point)
        weight = torch.linspace(-1, 1, picture.numel(), dtype=torch.float64).view_as(picture)
        pulls.append(torch.autograd.grad((picture * weight).sum(), point)[0])
    assert float((pulls[0] - pulls[1]).norm() / pulls[1].norm()) < 1e-6
