"""Backward rules that ONNX can carry: what torch's autograd asks for, written in operators that export well.

`RULES` is a decomposition table for `make_fx`. It covers the backward operators that have no ONNX counterpart
(convolution, pooling, resizing, padding) and rewrites some others that would become scatters or comparisons, which
are slow on CPU and refused by TensorRT. Weights are frozen: only gradients with respect to activations are
written, and asking for a weight's gradient is an error.

Linear resizes and pools along one axis are a fixed matrix M [out,in], so y = M_h x M_w^T and the gradient is
M_h^T g M_w: two small matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limner.runtime.errors import LimnerError

aten = torch.ops.aten
STEEP = 1e30  # clip(x * STEEP, 0, 1) is the step function for every |x| above 1e-30, in two vectorised passes
Ints = Sequence[int]


def step(x: Tensor) -> Tensor:
    """1 where x > 0, else 0, without a comparison; exact for |x| > 1e-30 and at 0."""
    return (x * STEEP).clamp(0.0, 1.0)


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,  # [O,I/g,k,k], or [I,O/g,k,k] when transposed
    bias_sizes: Ints | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    transposed: bool,
    output_padding: Ints,
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, None, None]:
    """Gradient of a convolution with respect to its input: the transposed convolution, and the reverse."""
    if output_mask[1] or output_mask[2]:
        raise LimnerError("a gradient with respect to convolution weights was asked for; freeze the networks first")
    if not output_mask[0]:
        return None, None, None
    if transposed:
        return aten.convolution(grad, weight, None, stride, padding, dilation, False, [0, 0], groups), None, None
    kernel = weight.shape[2:]
    mirrored = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    if all(s == 1 for s in stride) and min(mirrored) >= 0:
        flipped = _swap_channels(weight, groups).flip(2, 3)
        return aten.convolution(grad, flipped, None, stride, mirrored, dilation, False, [0, 0], groups), None, None
    rest = [
        n - ((m - 1) * s - 2 * p + d * (k - 1) + 1)
        for n, m, s, p, d, k in zip(x.shape[2:], grad.shape[2:], stride, padding, dilation, kernel, strict=True)
    ]
    return aten.convolution(grad, weight, None, stride, padding, dilation, True, rest, groups), None, None


def _swap_channels(weight: Tensor, groups: int) -> Tensor:
    """[O,I/g,k,k] -> [I,O/g,k,k], group by group."""
    if groups == 1:
        return weight.transpose(0, 1)
    out_channels, in_group, *kernel = weight.shape
    split = weight.reshape(groups, out_channels // groups, in_group, *kernel).transpose(1, 2)
    return split.reshape(groups * in_group, out_channels // groups, *kernel)


def axis_matrix(operation: Callable[[Tensor], Tensor], size: int, like: Tensor) -> Tensor:
    """The matrix [out,size] of a linear operation on images that works on each axis apart.

    `operation` takes [1,1,1,size] to [1,1,1,out]; its columns are found by feeding it unit vectors.
    """
    eye = torch.eye(size, dtype=like.dtype, device=like.device)
    return operation(eye[:, None, None, :])[:, 0, 0, :].t()


def separable(grad: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """M_h^T g M_w for g [N,C,oh,ow], M_h [oh,h], M_w [ow,w] -> [N,C,h,w]."""
    return torch.matmul(torch.matmul(rows.t(), grad), columns)


def avg_pool2d_backward(
    grad: Tensor,
    x: Tensor,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Gradient of average pooling by its two axis matrices."""
    kernel, stride, padding = (_pair(value) for value in (kernel, stride or kernel, padding))
    scale = 1.0 if divisor_override is None else kernel[0] * kernel[1] / divisor_override

    def axis(k: int, s: int, p: int, size: int) -> Tensor:
        def pool(row: Tensor) -> Tensor:
            return F.avg_pool2d(
                row, (1, k), (1, s), (0, p), ceil_mode, count_include_pad or divisor_override is not None
            )

        return axis_matrix(pool, size, grad)

    rows, columns = (axis(k, s, p, n) for k, s, p, n in zip(kernel, stride, padding, x.shape[2:], strict=True))
    return separable(grad, rows * scale, columns)


def adaptive_avg_pool2d_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Gradient of adaptive average pooling by its two axis matrices."""

    def axis(out: int, size: int) -> Tensor:
        return axis_matrix(lambda row: F.adaptive_avg_pool2d(row, (1, out)), size, grad)

    return separable(grad, *map(axis, grad.shape[2:], x.shape[2:]))


def _resize_rule(mode: str) -> Callable[..., Tensor]:
    """Rule for upsample_<mode>2d_backward; the antialiased forms have the suffix _aa."""
    antialias, plain = mode.endswith("_aa"), mode.removesuffix("_aa")

    def rule(grad: Tensor, output_size: Ints, input_size: Ints, *rest: Any) -> Tensor:
        align = bool(rest[0]) if plain != "nearest" else False
        scales = rest[-2:] if len(rest) >= 2 else (None, None)

        def axis(out: int, size: int, scale: float | None) -> Tensor:
            def resize(row: Tensor) -> Tensor:
                if plain == "nearest":
                    return aten.upsample_nearest2d(row, [1, out], None, scale)
                operator = getattr(aten, f"_upsample_{plain}2d_aa" if antialias else f"upsample_{plain}2d")
                return operator(row, [1, out], align, None, scale)

            return axis_matrix(resize, size, grad)

        rows, columns = (
            axis(out, size, scale) for out, size, scale in zip(output_size, input_size[2:], scales, strict=True)
        )
        return separable(grad, rows, columns)

    return rule


def _pad_rule(mode: str) -> Callable[..., Tensor]:
    """Rule for <mode>_pad2d_backward; padding is (left, right, top, bottom)."""

    def rule(grad: Tensor, x: Tensor, padding: Ints) -> Tensor:
        left, right, top, bottom = padding
        height, width = x.shape[2:]
        rows = axis_matrix(lambda row: F.pad(row, (top, bottom, 0, 0), mode=mode), height, grad)
        columns = axis_matrix(lambda row: F.pad(row, (left, right, 0, 0), mode=mode), width, grad)
        return separable(grad, rows, columns)

    return rule


def max_pool2d_with_indices(
    x: Tensor, kernel: Ints, stride: Ints = (), padding: Ints = (0,), dilation: Ints = (1,), ceil_mode: bool = False
) -> tuple[Tensor, Tensor]:
    """Pooling over one pixel, which is plain subsampling (IR-SE's shortcut); the indices are a stand-in."""
    _check_subsampling(kernel, padding)
    down, across = _pair(stride or kernel)
    y = x[:, :, ::down, ::across]
    return y, torch.zeros_like(y, dtype=torch.int64)


def max_pool2d_with_indices_backward(
    grad: Tensor, x: Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool, indices: Tensor
) -> Tensor:
    """Gradient of pooling over one pixel; as matrices, since putting zeros in between is a slow copy."""
    _check_subsampling(kernel, padding)

    def axis(every: int, size: int) -> Tensor:
        return axis_matrix(lambda row: row[..., ::every], size, grad)

    return separable(grad, *map(axis, _pair(stride or kernel), x.shape[2:]))


def _check_subsampling(kernel: Ints, padding: Ints) -> None:
    """A larger window would need the indices of its maxima, which not every engine gives."""
    if any(k != 1 for k in kernel) or any(p != 0 for p in padding):
        raise LimnerError(f"max pooling with kernel {list(kernel)} has no backward rule; allowed: a kernel of 1")


def slice_backward(grad: Tensor, input_sizes: Ints, dim: int, start: int, end: int, step_: int) -> Tensor:
    """Gradient of a slice: zeros around it, and between its rows where the step is above 1."""
    dim = dim % len(input_sizes)
    size = input_sizes[dim]
    if step_ > 1:
        shape = list(grad.shape)
        spread = grad.unsqueeze(dim + 1)
        spread = _pad_axis(spread, dim + 1, 0, step_ - 1)
        grad = spread.reshape([*shape[:dim], shape[dim] * step_, *shape[dim + 1 :]])
    start = max(start + size, 0) if start < 0 else min(start, size)
    after = size - start - grad.shape[dim]
    if after < 0:
        grad, after = grad.narrow(dim, 0, size - start), 0
    return _pad_axis(grad, dim, start, after)


def select_backward(grad: Tensor, input_sizes: Ints, dim: int, index: int) -> Tensor:
    """Gradient of a selected row: zeros around it."""
    dim = dim % len(input_sizes)
    index = index % input_sizes[dim]
    return _pad_axis(grad.unsqueeze(dim), dim, index, input_sizes[dim] - index - 1)


def _pad_axis(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    if before == 0 and after == 0:
        return x
    return F.pad(x, [0, 0] * (x.dim() - 1 - dim) + [before, after])


def leaky_relu_backward(grad: Tensor, x: Tensor, slope: float, is_result: bool) -> Tensor:
    """g where x > 0, else slope g."""
    return grad * (x * STEEP).clamp(slope, 1.0)


def threshold_backward(grad: Tensor, x: Tensor, threshold: float) -> Tensor:
    """ReLU: g where x > threshold, else 0."""
    return grad * step(x - threshold if threshold else x)


def prelu_slope(x: Tensor, weight: Tensor) -> Tensor:
    """1 where x > 0, else the weight; the forward and the backward pass share it."""
    return weight + (1.0 - weight) * step(x)


def prelu_kernel(x: Tensor, weight: Tensor) -> Tensor:
    """PReLU as x times its slope."""
    return x * prelu_slope(x, weight)


def pow_scalar(x: Tensor, exponent: float) -> Tensor:
    """Powers of 1 and 2, the latter as a product; others stay."""
    if exponent == 1:
        return x.clone()
    return x * x if exponent == 2 else NotImplemented


def prelu_kernel_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """PReLU: g where x > 0, else weight g; the weight's own gradient is left out as zeros."""
    return grad * prelu_slope(x, weight), torch.zeros_like(weight)


def native_layer_norm(
    x: Tensor, shape: Ints, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Layer normalisation in plain operators; its mean and 1/deviation are kept for the backward pass."""
    dims = list(range(x.dim() - len(shape), x.dim()))
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    rstd = (centred.square().mean(dims, keepdim=True) + eps).rsqrt()
    y = centred * rstd
    y = y if weight is None else y * weight
    return y if bias is None else y + bias, mean, rstd


def native_layer_norm_backward(
    grad: Tensor,
    x: Tensor,
    shape: Ints,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    output_mask: Sequence[bool],
) -> tuple[Tensor, None, None]:
    """gx = r (h - mean(h) - y mean(h y)) with h = g weight, y = (x - mean) r, r = 1/deviation."""
    dims = list(range(x.dim() - len(shape), x.dim()))
    y = (x - mean) * rstd
    h = grad if weight is None else grad * weight
    gx = rstd * (h - h.mean(dims, keepdim=True) - y * (h * y).mean(dims, keepdim=True))
    return gx, None, None


def native_batch_norm_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    save_mean: Tensor | None,
    save_invstd: Tensor | None,
    training: bool,
    eps: float,
    output_mask: Sequence[bool],
) -> tuple[Tensor, None, None]:
    """Batch normalisation with stored statistics: g times its scale per channel."""
    if training or running_var is None:
        raise LimnerError("batch normalisation in training mode cannot be exported; call eval() on the network")
    scale = (running_var + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    return grad * scale.view([1, -1] + [1] * (x.dim() - 2)), None, None


def _pair(value: Ints) -> tuple[int, int]:
    values = list(value)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


RULES: dict[Any, Callable[..., Any]] = {
    aten.convolution_backward.default: convolution_backward,
    aten.avg_pool2d_backward.default: avg_pool2d_backward,
    aten._adaptive_avg_pool2d_backward.default: adaptive_avg_pool2d_backward,
    aten.upsample_nearest2d_backward.default: _resize_rule("nearest"),
    aten.upsample_bilinear2d_backward.default: _resize_rule("bilinear"),
    aten.upsample_bicubic2d_backward.default: _resize_rule("bicubic"),
    aten._upsample_bilinear2d_aa_backward.default: _resize_rule("bilinear_aa"),
    aten._upsample_bicubic2d_aa_backward.default: _resize_rule("bicubic_aa"),
    aten.replication_pad2d_backward.default: _pad_rule("replicate"),
    aten.reflection_pad2d_backward.default: _pad_rule("reflect"),
    aten.max_pool2d_with_indices.default: max_pool2d_with_indices,
    aten.max_pool2d_with_indices_backward.default: max_pool2d_with_indices_backward,
    aten.slice_backward.default: slice_backward,
    aten.select_backward.default: select_backward,
    aten.leaky_relu_backward.default: leaky_relu_backward,
    aten.threshold_backward.default: threshold_backward,
    aten.pow.Tensor_Scalar: pow_scalar,
    aten._prelu_kernel.default: prelu_kernel,
    aten._prelu_kernel_backward.default: prelu_kernel_backward,
    aten.native_layer_norm.default: native_layer_norm,
    aten.native_layer_norm_backward.default: native_layer_norm_backward,
    aten.native_batch_norm_backward.default: native_batch_norm_backward,
}
