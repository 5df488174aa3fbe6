"""Each backward rule against torch's own autograd, in float64."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from limner.export.stylegan2.gradient_graph import trace
from limner.export.stylegan2.gradient_rules import RULES, axis_matrix
from limner.runtime.errors import LimnerError

torch.manual_seed(0)
CONV = torch.randn(6, 4, 3, 3, dtype=torch.float64)
GROUPED = torch.randn(8, 2, 3, 3, dtype=torch.float64)
DEPTHWISE = torch.randn(4, 1, 4, 4, dtype=torch.float64)
TURNED = torch.randn(4, 5, 3, 3, dtype=torch.float64)
POINT = torch.randn(6, 4, 1, 1, dtype=torch.float64)
SLOPES = torch.rand(4, dtype=torch.float64)
SCALE, SHIFT, MEAN = (torch.randn(4, dtype=torch.float64) for _ in range(3))
VARIANCE = torch.rand(4, dtype=torch.float64) + 0.5
WIDE = torch.randn(9, dtype=torch.float64)

CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "conv": lambda x: F.conv2d(x, CONV, padding=1),
    "conv unpadded": lambda x: F.conv2d(x, CONV),
    "conv over-padded": lambda x: F.conv2d(x, CONV, padding=3),
    "conv dilated": lambda x: F.conv2d(x, CONV, padding=2, dilation=2),
    "conv stride 2": lambda x: F.conv2d(x, CONV, padding=1, stride=2),
    "conv stride 3, a row left over": lambda x: F.conv2d(x, CONV, stride=3),
    "conv 1 x 1 stride 2": lambda x: F.conv2d(x, POINT, stride=2),
    "conv grouped": lambda x: F.conv2d(x, GROUPED, padding=1, groups=2),
    "conv depthwise": lambda x: F.conv2d(x, DEPTHWISE, padding=1, groups=4),
    "conv depthwise stride 2": lambda x: F.conv2d(x, DEPTHWISE, padding=1, stride=2, groups=4),
    "transposed conv": lambda x: F.conv_transpose2d(x, TURNED, stride=2),
    "transposed conv, output padding": lambda x: F.conv_transpose2d(x, TURNED, stride=2, padding=1, output_padding=1),
    "average pool": lambda x: F.avg_pool2d(x, 2),
    "average pool, overlapping and padded": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "average pool, border not counted": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "average pool, own divisor": lambda x: F.avg_pool2d(x, 3, 2, divisor_override=5),
    "average pool over one pixel": lambda x: F.avg_pool2d(x, 1, 2),
    "adaptive pool": lambda x: F.adaptive_avg_pool2d(x, (4, 5)),
    "max pool over one pixel": lambda x: F.max_pool2d(x, 1, 2),
    "nearest": lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
    "bilinear": lambda x: F.interpolate(x, size=(13, 7), mode="bilinear"),
    "bilinear, corners aligned": lambda x: F.interpolate(x, size=(13, 7), mode="bilinear", align_corners=True),
    "bicubic": lambda x: F.interpolate(x, size=(5, 12), mode="bicubic"),
    "bilinear antialiased": lambda x: F.interpolate(x, size=(4, 5), mode="bilinear", antialias=True),
    "bicubic antialiased": lambda x: F.interpolate(x, size=(4, 5), mode="bicubic", antialias=True),
    "replication pad": lambda x: F.pad(x, (1, 2, 3, 0), mode="replicate"),
    "reflection pad": lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect"),
    "slice": lambda x: x[:, 1:3, ::2, 1:-2],
    "slice past the end": lambda x: x[:, :, 2:100:3, -4:],
    "select": lambda x: x[:, -2, 3],
    "leaky relu": lambda x: F.leaky_relu(x, 0.2),
    "relu": F.relu,
    "prelu": lambda x: F.prelu(x, SLOPES),
    "square": lambda x: x.square() + x**3,
    "layer norm": lambda x: F.layer_norm(x, (9,), WIDE, WIDE.flip(0)),
    "layer norm without weight": lambda x: F.layer_norm(x, (8, 9)),
    "batch norm": lambda x: F.batch_norm(x, MEAN, VARIANCE, SCALE, SHIFT),
}  # fmt: skip


def gradient_of(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], tuple[Tensor]]:
    """The gradient of a weighted sum of the output, so that every element counts differently."""

    def total(x: Tensor) -> Tensor:
        y = function(x)
        return (y * torch.linspace(-1, 2, y[0].numel(), dtype=y.dtype).view(y[0].shape)).sum()

    return lambda x: (torch.func.grad(total)(x),)


@pytest.mark.parametrize("case", CASES)
def test_against_autograd(case: str) -> None:
    function = gradient_of(CASES[case])
    example, other = torch.randn(7, 4, 8, 9, dtype=torch.float64), torch.randn(3, 4, 8, 9, dtype=torch.float64)
    graph = trace(function, (example,), ((0,),))
    wanted = {rule.name() for rule in RULES}
    left = {str(node.target) for node in graph.graph.nodes} & {name.replace("::", ".") for name in wanted}
    assert not {name for name in left if "backward" in name}, "a rule was not applied"
    for x in (example, other):  # `other` has a batch that was not traced
        point = x.clone().requires_grad_(True)
        y = CASES[case](point)
        weights = torch.linspace(-1, 2, y[0].numel(), dtype=y.dtype).view(y[0].shape)
        (expected,) = torch.autograd.grad((y * weights).sum(), point)
        torch.testing.assert_close(graph(x)[0], expected, rtol=1e-10, atol=1e-10)


def test_larger_max_pool_is_refused() -> None:
    with pytest.raises(LimnerError, match="max pooling"):
        trace(gradient_of(lambda x: F.max_pool2d(x, 2)), (torch.randn(7, 4, 8, 8),), ((0,),))


def test_gradient_of_weights_is_refused() -> None:
    def loss(weight: Tensor) -> Tensor:
        return F.conv2d(torch.ones(1, 4, 8, 8), weight).sum()

    with pytest.raises(LimnerError, match="freeze"):
        trace(lambda w: (torch.func.grad(loss)(w),), (torch.randn(6, 4, 3, 3),), ((),))


def test_baked_batch_is_refused() -> None:
    with pytest.raises(LimnerError, match="batch"):
        trace(lambda x: (x.reshape(7, -1),), (torch.randn(7, 4),), ((0,),), differentiates=False)


def test_axis_matrix_is_the_operation() -> None:
    x = torch.randn(1, 1, 1, 6)
    matrix = axis_matrix(lambda row: F.avg_pool2d(row, (1, 2)), 6, x)
    torch.testing.assert_close(x[0, 0, 0] @ matrix.t(), F.avg_pool2d(x, (1, 2))[0, 0, 0])
