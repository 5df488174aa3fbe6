"""A small ONNX graph made on the spot: the weighted sum of latents, as a sampler's step needs it on the device.

    latents = sum_k c_k x_k + sum_k (a_k first half of p_k + b_k second half of p_k)       x [N,...], p [2N,...]
    sample  = s latents, once or twice below each other: what the UNet takes next
    square  = sum of latents^2: one number, finite if all of them are

ONNX files are protocol buffers: a field is its number and kind in a varint, then a varint or a length and bytes. The
few messages needed are written here, so that the runtime needs no package for it.
"""

from collections.abc import Sequence

__all__ = ["linear_graph"]

IR_VERSION, OPSET, FLOAT = 8, 17, 1


def linear_graph(plain: int, pairs: int, copies: int) -> bytes:
    """The graph for `plain` inputs x0, x1, ... [N,C,h,w] and `pairs` inputs p0, ... [2N,C,h,w]; `weights` has the
    numbers c, then a and b of each pair, and `scale` [1] is s. `sample` repeats the latents `copies` times."""
    count = plain + 2 * pairs
    names = [f"x{k}" for k in range(plain)]
    nodes = [_node("Split", ["weights"], [f"w{k}" for k in range(count)])]
    for k in range(pairs):
        halves = [f"p{k}_first", f"p{k}_second"]
        nodes.append(_node("Split", [f"p{k}"], halves))
        names += halves
    terms = [f"t{k}" for k in range(count)]
    nodes += [_node("Mul", [f"w{k}", name], [term]) for k, (name, term) in enumerate(zip(names, terms, strict=True))]
    nodes.append(_node("Sum", terms, ["latents"]))
    nodes.append(_node("Mul", ["scale", "latents"], ["scaled"]))
    nodes.append(_node("Concat", ["scaled"] * copies, ["sample"], axis=0))
    nodes.append(_node("ReduceSumSquare", ["latents"], ["square"], keepdims=0))
    latents = ("n", "c", "h", "w")
    inputs = [_value(f"x{k}", latents) for k in range(plain)]
    inputs += [_value(f"p{k}", ("two_n", *latents[1:])) for k in range(pairs)]
    inputs += [_value("weights", ("count",)), _value("scale", ("one",))]
    outputs = [_value("latents", latents), _value("sample", ("rows", *latents[1:])), _value("square", ())]
    graph = b"".join(_field(1, node) for node in nodes) + _text(2, "linear")
    graph += b"".join(_field(11, value) for value in inputs) + b"".join(_field(12, value) for value in outputs)
    return _number(1, IR_VERSION) + _field(7, graph) + _field(8, _text(1, "") + _number(2, OPSET))


def _node(operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: int) -> bytes:
    """NodeProto with attributes that are whole numbers."""
    found = b"".join(_text(1, name) for name in inputs) + b"".join(_text(2, name) for name in outputs)
    found += _text(3, f"{operator}_{outputs[0]}") + _text(4, operator)
    for name, value in attributes.items():
        found += _field(5, _text(1, name) + _number(3, value) + _number(20, 2))
    return found


def _value(name: str, shape: Sequence[str]) -> bytes:
    """ValueInfoProto of a float32 tensor whose sizes are all free."""
    sizes = b"".join(_field(1, _text(2, size)) for size in shape)
    return _text(1, name) + _field(2, _field(1, _number(1, FLOAT) + _field(2, sizes)))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode("ascii"))


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)
