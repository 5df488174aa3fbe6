"""Convolutions by minimal filtering: against torch in float64, at sizes of every remainder; what fits and what not."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from limner.export.diffusion.trace import export_module
from limner.export.onnx.weights import WeightFile
from limner.export.onnx.winograd import extra_bytes, fitting, rewrite_convolutions, transforms
from limner.runtime.bundle.parts import TensorMeta


def exported(*layers: nn.Module, channels: int) -> ir.Model:
    module = nn.Sequential(*layers)
    shape = ("batch", channels, "height", "width")
    out = ("batch", module(torch.zeros(1, channels, 8, 8)).shape[1], "h", "w")
    example = (torch.zeros(2, channels, 9, 10),)
    return export_module(module, example, [TensorMeta("x", "float32", shape)], [TensorMeta("y", "float32", out)], 20)


def run(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: list[Any] = session.run(["y"], {"x": x})
    return np.asarray(found[0])


def test_the_transforms_are_exact() -> None:
    """Of a tile's 4 outputs in one dimension: Y = A^T [(G w) * (B^T x)], for numbers that float64 holds exactly."""
    b, g, a = transforms()
    random = np.random.RandomState(0)
    w, x = random.randint(-8, 8, 3).astype(float), random.randint(-8, 8, 6).astype(float)
    wanted = [x[i : i + 3] @ w for i in range(4)]
    np.testing.assert_allclose(a @ ((g @ w) * (b @ x)), wanted, rtol=1e-14)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 12), (17, 13), (5, 6), (1, 3), (30, 7)])
@pytest.mark.parametrize("batch", [1, 3])
def test_against_torch(height: int, width: int, batch: int, tmp_path: Path) -> None:
    torch.manual_seed(height)
    layers = [nn.Conv2d(96, 128, 3, padding=1), nn.SiLU(), nn.Conv2d(128, 96, 3, padding=1)]
    with torch.no_grad():
        for layer in (layers[0], layers[2]):
            for parameter in layer.parameters():
                parameter.copy_(parameter.half().float())
    model = exported(*layers, channels=96)
    weights = WeightFile(tmp_path, "fp16")
    weights.save(model, tmp_path / "plain.onnx")
    size = weights.size
    assert rewrite_convolutions(model, lambda node: True, lambda node: False) == 2
    weights.save(model, tmp_path / "filtered.onnx")
    assert weights.size - size < 10_000  # the weights are those of the plain form
    x = torch.randn(batch, 96, height, width)
    wanted = nn.Sequential(*layers).double()(x.double()).detach().numpy()
    for name, limit in (("plain", 1e-6), ("filtered", 5e-6)):
        found = run(tmp_path / f"{name}.onnx", x.numpy())
        assert found.shape == wanted.shape
        assert np.linalg.norm(found - wanted) <= limit * np.linalg.norm(wanted), name


class Scaled(nn.Module):
    """A convolution whose weight is computed from a stored one, as StyleGAN2's is, or from the input."""

    def __init__(self, of_input: bool) -> None:
        super().__init__()
        self.weight, self.of_input = nn.Parameter(torch.randn(1, 96, 96, 3, 3)), of_input

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = x.mean() if self.of_input else 0.034
        return nn.functional.conv2d(x, self.weight[0] * scale, padding=1)


def test_weights_that_are_computed_at_load(tmp_path: Path) -> None:
    layer = Scaled(of_input=False)
    model = exported(layer, channels=96)
    assert rewrite_convolutions(model, lambda node: True, lambda node: False) == 1
    ir.save(model, tmp_path / "graph.onnx")
    x = torch.randn(2, 96, 11, 14)
    wanted = layer.double()(x.double()).detach().numpy()
    found = run(tmp_path / "graph.onnx", x.numpy())
    assert np.linalg.norm(found - wanted) <= 5e-6 * np.linalg.norm(wanted)
    other = exported(Scaled(of_input=True), channels=96)
    assert not rewrite_convolutions(other, lambda node: True, lambda node: False)


def test_sides_that_are_multiples_of_four_need_no_cut(tmp_path: Path) -> None:
    model = exported(nn.Conv2d(96, 96, 3, padding=1), channels=96)
    rewrite_convolutions(model, lambda node: True, lambda node: True)
    assert not any(node.op_type == "Slice" for node in model.graph)
    ir.save(model, tmp_path / "graph.onnx")
    assert run(tmp_path / "graph.onnx", np.ones((1, 96, 12, 8), np.float32)).shape == (1, 96, 12, 8)


@pytest.mark.parametrize(
    ("layer", "fits"),
    [
        (nn.Conv2d(96, 96, 3, padding=1), True),
        (nn.Conv2d(96, 96, 3, padding=1, stride=2), False),
        (nn.Conv2d(96, 96, 3), False),
        (nn.Conv2d(96, 96, 3, padding=2, dilation=2), False),
        (nn.Conv2d(96, 96, 3, padding=1, groups=2), False),
        (nn.Conv2d(96, 96, 1), False),
        (nn.Conv2d(96, 96, 5, padding=2), False),
        (nn.Conv2d(96, 8, 3, padding=1), False),
        (nn.Conv2d(96, 96, 3, padding=1, bias=False), True),
    ],
)
def test_what_fits(layer: nn.Module, fits: bool) -> None:
    (node,) = [node for node in exported(layer, channels=96).graph if node.op_type == "Conv"]
    assert (fitting(node) is not None) == fits
    assert extra_bytes(node) == (4 * 27 * 96 * 96 if fits else 0)
