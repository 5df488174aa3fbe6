"""3 x 3 convolutions by minimal filtering in ONNX's own operators: F(4 x 4, 3 x 3) (Lavin and Gray 2016).

A tile of 6 x 6 inputs gives 4 x 4 outputs by 36 products a pair of channels where the convolution takes 144:

    Y = A^T [ (G w G^T) * (B^T x B) ] A

B^T x B of every tile is one convolution of stride 4 with fixed weights, the sum over channels is a stack of 36 matrix
products, and A^T . A is one more. G w G^T is computed from the stored weight when the graph is loaded, so that the file
grows by nothing; in memory it is four times the weight. Points 0, 1, -1, 1/2, -2 and infinity: errors are half of those
of 0, +-1, +-2. Sums are taken in another order, so results differ by rounding, 3e-6 in a UNet of Stable Diffusion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction

import numpy as np
import onnx_ir as ir

from limner.export.onnx.editing import constant, put_in_place

__all__ = ["extra_bytes", "fitting", "rewrite_convolutions", "transforms"]

OUT, TAPS = 4, 3
TILE = OUT + TAPS - 1
POINTS = (Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 2), Fraction(-2))  # and infinity
SMALLEST = 32  # channels on either side: below, moving tiles costs more than the products spare
Matrix = list[list[Fraction]]


def transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B^T [6,6], G [6,3] and A^T [4,6] in float64 by Cook and Toom's construction on POINTS."""
    products = [_product(p - q for q in POINTS if q != p) for p in POINTS]
    a: Matrix = [[p**i for p in POINTS] + [Fraction(i == OUT - 1)] for i in range(OUT)]
    g: Matrix = [[p**k / product for k in range(TAPS)] for p, product in zip(POINTS, products, strict=True)]
    g.append([Fraction(k == TAPS - 1) for k in range(TAPS)])
    b: Matrix = [[*_polynomial([q for q in POINTS if q != p]), Fraction(0)] for p in POINTS]
    b.append(_polynomial(POINTS))
    as_array = [np.array([[float(x) for x in row] for row in matrix]) for matrix in (b, g, a)]
    return as_array[0], as_array[1], as_array[2]


def fitting(node: ir.Node) -> tuple[int, int] | None:
    """Output and input channels of a convolution that this is for: 3 x 3, stride 1, padding 1, weights of the graph."""
    if node.op_type != "Conv":
        return None
    ones = all(_ints(node, name, [1, 1]) == [1, 1] for name in ("strides", "dilations"))
    group = node.attributes.get("group")
    shape = _fixed_shape(node.inputs[1])
    if not ones or _ints(node, "pads", [0] * 4) != [1] * 4 or (group is not None and group.as_int() != 1):
        return None
    if len(shape) != 4 or list(shape[2:]) != [TAPS, TAPS] or min(shape[:2]) < SMALLEST:
        return None
    return shape[0], shape[1]


def extra_bytes(node: ir.Node) -> int:
    """What a convolution takes more in memory, in fp32, once it is rewritten."""
    found = fitting(node)
    return 0 if found is None else 4 * (TILE**2 - TAPS**2) * found[0] * found[1]


def rewrite_convolutions(model: ir.Model, chosen: Callable[[ir.Node], bool], exact: Callable[[ir.Node], bool]) -> int:
    """Rewrite the chosen ones of the convolutions that fit; in place. Returns how many.

    `exact` says of which the picture's sides are multiples of 4, whatever the size: the others are cut behind.
    """
    nodes = [node for node in model.graph if fitting(node) is not None and chosen(node)]
    for node in nodes:
        _Rewriting(model.graph, node)(exact(node))
    return len(nodes)


class _Rewriting:
    """One convolution x [B,I,H,W] -> y [B,O,H,W] as operators in front of it."""

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self.graph, self.node = graph, node
        self.stem = node.name or node.outputs[0].name or "conv"
        self.count = 0

    def __call__(self, exact: bool) -> None:
        outputs, inputs = fitting(self.node) or (0, 0)
        x, weight, bias = (*self.node.inputs, None)[:3]
        b, g, a = transforms()
        u = self._weights(weight, g)
        sides = self._add("Shape", [x], start=2, end=4)
        planes = self._add("Reshape", [x, self._join(self._ints(-1, 1), sides)])  # [B I,1,H,W]
        cut = self._fixed("tiles", np.kron(b, b).reshape(TILE**2, 1, TILE, TILE))
        tiles = self._add(
            "Conv", [planes, cut], pads=[1, 1, OUT, OUT], strides=[OUT, OUT], kernel_shape=[TILE, TILE]
        )  # [B I,36,h,w], h = ceil(H / 4)
        few = self._add("Shape", [tiles], start=2, end=4)
        count = self._add("Mul", [self._add("Gather", [few, self._ints(0)]), self._add("Gather", [few, self._ints(1)])])
        apart = self._add("Reshape", [tiles, self._join(self._ints(-1, inputs, TILE**2), count)])  # [B,I,36,hw]
        first = self._add("Transpose", [apart], perm=[2, 1, 0, 3])
        v = self._add("Reshape", [first, self._ints(TILE**2, inputs, -1)])  # [36,I,B hw]
        products = self._add("MatMul", [u, v])  # [36,O,B hw]
        split = self._add("Reshape", [products, self._join(self._ints(TILE**2, outputs, -1), count)])
        back = self._add("Transpose", [split], perm=[2, 1, 0, 3])  # [B,O,36,hw]
        y = self._add("MatMul", [self._fixed("outputs", np.kron(a, a)), back])  # [B,O,16,hw]
        if bias is not None:
            y = self._add("Add", [y, self._add("Reshape", [bias, self._ints(outputs, 1, 1)])])
        y = self._add("Reshape", [y, self._join(self._ints(-1, outputs * OUT**2), few)])  # [B,16 O,h,w]
        y = self._add("DepthToSpace", [y], blocksize=OUT, mode="CRD")
        if not exact:
            y = self._add("Slice", [y, self._ints(0, 0), sides, self._ints(2, 3)])
        put_in_place(self.graph, self.node, y)

    def _weights(self, weight: ir.Value | None, g: np.ndarray) -> ir.Value:
        """G w G^T [36,O,I] of w [O,I,3,3], in one operation: what is folded at load lies in memory once."""
        turned = self._fixed("weights", np.einsum("ax,by->abxy", g, g).reshape(TILE**2, TAPS, TAPS))
        return self._add("Einsum", [turned, weight], equation="kxy,oixy->koi")

    def _add(self, operator: str, inputs: Iterable[ir.Value | None], **attributes: int | str | list[int]) -> ir.Value:
        self.count += 1
        node = ir.node(operator, list(inputs), attributes=attributes, name=f"{self.stem}/filtered_{self.count}")
        node.outputs[0].name = f"{node.name}_value"
        integers = operator in ("Shape", "Concat", "Gather") or (operator == "Mul")
        node.outputs[0].type = ir.TensorType(ir.DataType.INT64 if integers else ir.DataType.FLOAT)
        self.graph.insert_before(self.node, node)
        return node.outputs[0]

    def _join(self, *parts: ir.Value) -> ir.Value:
        return self._add("Concat", parts, axis=0)

    def _ints(self, *numbers: int) -> ir.Value:
        name = "filtered_" + "_".join(map(str, numbers)).replace("-", "m")
        return constant(self.graph, name, np.array(numbers, np.int64))

    def _fixed(self, name: str, matrix: np.ndarray) -> ir.Value:
        return constant(self.graph, f"filtered_{name}", matrix.astype(np.float32))


def _fixed_shape(value: ir.Value | None) -> tuple[int, ...]:
    """The shape of a weight that is stored, or computed from stored ones when the graph is loaded; () for others."""
    if value is None or not _is_fixed(value):
        return ()
    shape = value.shape if value.const_value is None else value.const_value.shape
    sizes = () if shape is None else tuple(shape)
    return tuple(int(n) for n in sizes) if all(isinstance(n, int) for n in sizes) else ()  # type: ignore[arg-type]


def _is_fixed(value: ir.Value | None) -> bool:
    """Whether no input of the graph has a part in a value."""
    if value is None or value.const_value is not None:
        return True
    node = value.producer()
    return node is not None and (node.op_type == "Constant" or all(_is_fixed(one) for one in node.inputs))


def _ints(node: ir.Node, name: str, default: list[int]) -> list[int]:
    found = node.attributes.get(name)
    return default if found is None else list(found.as_ints())


def _product(factors: Iterable[Fraction]) -> Fraction:
    found = Fraction(1)
    for factor in factors:
        found *= factor
    return found


def _polynomial(roots: Iterable[Fraction]) -> list[Fraction]:
    """Coefficients of the product of (x - root), the constant first."""
    found = [Fraction(1)]
    for root in roots:
        raised = [Fraction(0), *found]
        found = [high - root * low for high, low in zip(raised, [*found, Fraction(0)], strict=True)]
    return found
