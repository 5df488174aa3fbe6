"""A torch module as an ONNX model with free axes, its weights attached by reference.

The weights are traced as inputs and become initializers afterwards, so a model of any size is never copied nor
serialised in memory, and the 2 GiB limit of protobuf never applies. The tracing exporter records sizes as
operations; the one that proves them symbolically takes minutes for a UNet with three free sizes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from limner.export.onnx.simplify import simplify
from limner.runtime.bundle.parts import TensorMeta
from limner.runtime.errors import LimnerError


def export_module(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    input_metas: Sequence[TensorMeta],
    output_metas: Sequence[TensorMeta],
    opset: int,
) -> ir.Model:
    """The module's forward as a simplified model whose inputs and outputs have the names and axes of the metas."""
    metas = (*input_metas, *output_metas)
    axes = {m.name: {i: size for i, size in enumerate(m.shape) if isinstance(size, str)} for m in metas}
    stream = io.BytesIO()
    with torch.no_grad(), _quiet():
        torch.onnx.export(
            module.eval(), inputs, stream,  # type: ignore[arg-type]
            dynamo=False, opset_version=opset, export_params=False,
            input_names=[m.name for m in input_metas], output_names=[m.name for m in output_metas],
            dynamic_axes=axes, do_constant_folding=False,
        )  # fmt: skip
    model = ir.serde.deserialize_model(onnx.load_model_from_string(stream.getvalue()))
    _attach(model, module, [meta.name for meta in input_metas])
    _name_axes(model, input_metas, output_metas)
    store_transposed(model)
    return simplify(model)


def _attach(model: ir.Model, module: nn.Module, names: Sequence[str]) -> None:
    """Make initializers of the inputs that stand for weights, and inputs of those that the module does not read."""
    state = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
    given = {value.name: value for value in model.graph.inputs}
    model.graph.inputs.clear()
    model.graph.inputs.extend(given.pop(name) if name in given else ir.Value(name=name) for name in names)
    for value in given.values():
        name = value.name or ""
        if name not in state:
            raise LimnerError(f"the traced graph asks for {name!r}, which is no weight of {type(module).__name__}")
        array = state[name].detach().numpy()
        value.const_value = ir.Tensor(array, name=name)
        value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(array.dtype))
        model.graph.initializers[name] = value


def store_transposed(model: ir.Model) -> None:
    """Keep a linear layer's weights the way they are multiplied, instead of transposing them at every load."""
    for node in list(model.graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        if source is None or source.const_value is None or not source.is_initializer():
            continue
        name = f"{source.name}_transposed"
        if name not in model.graph.initializers:
            tensor = _transposed(source.const_value, tuple(node.attributes["perm"].as_ints()), name)
            model.graph.initializers[name] = ir.Value(
                name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
        ir.convenience.replace_all_uses_with(node.outputs[0], model.graph.initializers[name])
        model.graph.remove(node, safe=True)


def _transposed(tensor: ir.TensorProtocol, perm: tuple[int, ...], name: str) -> ir.LazyTensor:
    """The tensor with its axes in another order, computed when it is written: no copy is kept."""
    shape = ir.Shape([int(tensor.shape[axis]) for axis in perm])  # type: ignore[arg-type]

    def compute() -> ir.Tensor[Any]:
        return ir.Tensor(np.ascontiguousarray(tensor.numpy().transpose(perm)), name=name)

    return ir.LazyTensor(compute, dtype=tensor.dtype, shape=shape, name=name)


def _name_axes(model: ir.Model, input_metas: Sequence[TensorMeta], output_metas: Sequence[TensorMeta]) -> None:
    """State shapes and types of the interface; names that the trace made up would say nothing."""
    for values, metas in ((model.graph.inputs, input_metas), (model.graph.outputs, output_metas)):
        found = [value.name for value in values]
        if found != [meta.name for meta in metas]:
            raise LimnerError(f"the traced graph has {found}, not {[meta.name for meta in metas]}")
        for value, meta in zip(values, metas, strict=True):
            value.shape = ir.Shape(meta.shape)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on itself and on Python branches of the traced code off the terminal."""
    logger: Any = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
