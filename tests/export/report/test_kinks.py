"""Rows of a gradient that ReLUs at zero decide: settled where float64 agrees, and only there."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limner.export.report import parity
from limner.export.report.kinks import near_zero, settle
from limner.export.stylegan2.graphs import GraphSpec, Tensors, export_graph
from limner.runtime.bundle.parts import TensorMeta

WIDTH = 40


class TwoLayers(nn.Module):
    """x [N,8] -> [N]: a leaky ReLU, a ReLU, a PReLU."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Linear(8, WIDTH), nn.Linear(WIDTH, WIDTH), nn.PReLU(WIDTH, 0.3)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.second(F.leaky_relu(self.first(x).float(), 0.2)))  # a cast as the generator's
        return self.third(y - 0.1).square().sum(1)


def spec_of(network: TwoLayers) -> GraphSpec:

    def reference(x: Tensor) -> Tensors:
        with torch.enable_grad():
            point = x.detach().requires_grad_(True)
            return (torch.autograd.grad(network(point).sum(), point)[0],)

    meta = TensorMeta("x", "float32", ("batch", 8))
    out = TensorMeta("gradient", "float32", ("batch", 8))
    return GraphSpec("tiny", (meta,), (out,), reference, reference, lambda n, rng: (torch.randn(n, 8, generator=rng),),
                     differentiates=True, modules=(network,))  # fmt: skip


def at_a_kink(network: TwoLayers, unit: int) -> Tensor:
    """[2,8]: row 1 has the first layer's unit within rounding of zero, some 1e-9."""
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    weight, bias = network.first.weight[unit].double(), network.first.bias[unit].double()
    for _ in range(4):
        value = x[1].double() @ weight + bias
        x[1] = (x[1].double() - value * weight / (weight @ weight)).float()
    return x


def gradient_with_side(network: TwoLayers, x: Tensor, unit: int, above: bool) -> Tensor:
    """The gradient in float64, written out, with this unit of the first layer on a side of our choice."""
    w1, b1 = network.first.weight.double(), network.first.bias.double()
    w2, b2 = network.second.weight.double(), network.second.bias.double()
    slopes = torch.where(x.double() @ w1.T + b1 > 0, 1.0, 0.2).double()
    slopes[:, unit] = 1.0 if above else 0.2
    h = (x.double() @ w1.T + b1) @ torch.eye(WIDTH, dtype=torch.float64) * slopes
    z = h @ w2.T + b2
    y = z.clamp_min(0) - 0.1
    kept = torch.where(y > 0, 1.0, 0.3).double()
    outer = 2 * (y * kept) * kept * (z > 0)
    return (outer @ w2 * slopes) @ w1


def test_a_row_on_the_other_side_is_settled() -> None:
    network = TwoLayers()
    spec, unit = spec_of(network), 5
    x = at_a_kink(network, unit)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    sides = [gradient_with_side(network, x, unit, above)[1:] for above in (False, True)]
    assert float((sides[0] - sides[1]).norm() / sides[0].norm()) > 1e-2  # the side matters
    kinks = [settle(spec, (x,), 1, "gradient", side.float(), 1e-4) for side in sides]
    assert max(kink.settled for kink in kinks) < 1e-6
    assert sorted(kink.units for kink in kinks) == [0, 1]
    assert max(kink.onnxruntime for kink in kinks) > 1e-2
    for name, value in network.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, before[name])


@pytest.mark.parametrize("wrong", ["scaled", "another unit", "noise"])
def test_errors_are_not_settled(wrong: str) -> None:
    """A gradient that is off by something else stays off, though the row has a unit at zero."""
    network = TwoLayers()
    spec, unit = spec_of(network), 5
    x = at_a_kink(network, unit)
    right = spec.reference(x)[0][1:]
    live = int((x[1] @ network.first.weight.T + network.first.bias).abs().argmax())
    value = float(x[1] @ network.first.weight[live] + network.first.bias[live])
    found = {
        "scaled": right * 1.001,
        "another unit": gradient_with_side(network, x, live, above=value < 0)[1:].float(),
        "noise": right + 1e-3 * right.norm() * F.normalize(torch.ones(1, 8)),
    }[wrong]
    assert settle(spec, (x,), 1, "gradient", found, 1e-4).settled > 5e-4


def test_units_near_zero_come_nearest_first() -> None:
    exact = [torch.tensor([1.0, -1e-7, 3e-8, 0.5], dtype=torch.float64), torch.tensor([2e-5, 1.0], dtype=torch.float64)]
    rounded = [(exact[0] + torch.tensor([1e-7, -1e-7, 1e-7, -1e-7])).float(), exact[1].float()]
    assert near_zero(rounded, exact) == [(0, 2), (0, 1)]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gradient of the network as a graph."""
    network = TwoLayers()
    spec = spec_of(network)

    def function(x: Tensor) -> Tensors:
        return (torch.func.grad(lambda point: network(point).sum())(x),)

    path = tmp_path_factory.mktemp("graph") / "tiny.onnx"
    ir.save(export_graph(dataclasses.replace(spec, function=function)), path)
    return path


@pytest.mark.parametrize(("scale", "passes"), [(1.0, True), (1.001, False)])
def test_measure_settles_kinks_and_keeps_errors(graph: Path, scale: float, passes: bool) -> None:
    """Torch in fp32 takes the other side of row 1 within a batch, as it may; and perhaps something else is wrong."""
    network = TwoLayers()
    x, spec = at_a_kink(network, 5), spec_of(network)
    value = float(x[1] @ network.first.weight[5] + network.first.bias[5])
    other = gradient_with_side(network, x, 5, above=value <= 0).float()

    def reference(point: Tensor) -> Tensors:
        batched = point.dtype == torch.float32 and len(point) > 1
        return ((other if batched else spec.reference(point)[0]) * scale,)

    sampled = dataclasses.replace(spec, reference=reference, sample=lambda n, rng: (x[:n],))
    report = parity.measure(sampled, graph, (2,))
    assert report.passed is passes
    assert [kink.row for kink in report.kinks] == ([1] if passes else [0, 1])
    assert "## Kinks" in parity.as_markdown([report])
    assert np.isfinite(report.max_rel_error)
