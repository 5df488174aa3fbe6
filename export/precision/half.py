"""A graph in fp16 with fp32 where it is needed, typed through and through, as strongly typed engines take it.

Inputs and outputs keep their types, so the runtime uses either graph alike. A node stays fp32 if

- it is of an operator that sums squares or takes roots (`ALWAYS_FP32`): demodulation, norms, unit vectors;
- it holds a constant that fp16 cannot hold (1e-8 under a root, 1e30 of a step function);
- its numbers, measured on samples, come near the ends of fp16: beyond 2^13, or all within 2^-11 of zero;
- its name is among those that the caller keeps (a VAE, attention of SD 2).

Gradients are small: they are linear in their graph's loss weights, so these are raised by a power of two inside the
graph and the gradient is lowered by it, which changes no fp32 number (Micikevicius et al. 2018, sec. 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants

from limner.export.onnx.attention import is_fused
from limner.export.precision.kernels import has_no_half_kernel, write_scatters_plainly
from limner.export.precision.ranges import Ranges, measure_ranges
from limner.export.precision.samples import GRADIENTS
from limner.export.precision.types import Typist
from limner.runtime.bundle.loading import Bundle
from limner.runtime.errors import InputError, LimnerError

ALWAYS_FP32 = frozenset(
    {"Pow", "Sqrt", "Reciprocal", "Exp", "Log", "ReduceSum", "ReduceMean", "ReduceL2", "ReduceSumSquare", "Div"}
    | {"BatchNormalization", "InstanceNormalization", "GroupNormalization", "LayerNormalization", "Sin", "Cos"}
)
WHOLE_FP32 = frozenset({"vae_encoder", "vae_decoder"})  # known to leave fp16's range (SDXL's gives black pictures)
LARGEST, SMALLEST = 2.0**13, 2.0**-11
FOLD_LIMIT = 1 << 28  # elements: weights are folded in fp32 before they are rounded
GRADIENT_SCALE = 2.0**10
CLAMP = 2.0**14  # before demodulation, which divides by about the root of the summed squares of a layer's weights


@dataclass(frozen=True)
class HalfConfig:
    """How a graph is turned to fp16."""

    measure: bool = True  # run the graph on samples to find numbers that fp16 does not hold
    keep_fp32: tuple[str, ...] = ()  # graphs, or beginnings of node names, that stay fp32
    fp32_attention: bool | None = None  # scores and softmax; None asks the bundle: SD 2.x (v-prediction) needs it
    batch: int = 2  # of the samples
    seed: int = 0


@dataclass(frozen=True)
class Half:
    """What came of it."""

    nodes: int = 0  # that compute in floating point
    kept: tuple[str, ...] = ()  # names of those that stay fp32
    casts: int = 0  # between the two types
    reason: str = ""  # why all of the graph stays fp32; empty where it does not


def write_half(
    bundle: Bundle,
    graph: str,
    path: Path,
    config: HalfConfig = HalfConfig(),
    source: Path | None = None,  # another form of the graph than the bundle's
) -> Half:
    """Write the fp16 form of one graph, its weights beside it, and say what stayed fp32."""
    model, half = half_model(bundle, graph, config, source)
    ir.save(model, path, external_data=f"{path.name}.data", size_threshold_bytes=256)
    return half


def half_model(
    bundle: Bundle, graph: str, config: HalfConfig = HalfConfig(), source: Path | None = None
) -> tuple[ir.Model, Half]:
    """The fp16 form of one graph in memory."""
    model = bundle.manifest.diffusion
    if config.fp32_attention is None and model is not None and model.prediction_type == "v_prediction":
        config = replace(config, fp32_attention=True)
    source = bundle.file(bundle.graph(graph).file) if source is None else source

    def measure(model: ir.Model) -> Ranges:
        return measure_ranges(bundle, graph, model, config.batch, config.seed)

    return half_graph(source, graph, config, measure if config.measure else None)


def half_graph(
    path: Path, graph: str, config: HalfConfig = HalfConfig(), measure: Callable[[ir.Model], Ranges] | None = None
) -> tuple[ir.Model, Half]:
    """The same of an ONNX file; `measure` runs the graph on samples, without it operators and constants decide."""
    model = settled(path)
    if graph in GRADIENTS:
        _scale_gradient(model)
    if graph in WHOLE_FP32 or graph in config.keep_fp32:
        names = tuple(node.name or "" for node in model.graph)
        reason = "decoders of latents leave fp16's range" if graph in WHOLE_FP32 else "asked for by --keep-fp32"
        return model, Half(len(names), names, reason=reason)
    write_scatters_plainly(model)
    ranges = None if measure is None else measure(model)
    kept = {node for node in model.graph if _stays(node, ranges, config.keep_fp32)}
    if config.fp32_attention:
        kept |= _attention(model)
    typist = Typist(model, kept)
    typist.rewrite()
    _clamp(model)
    return model, Half(typist.floating, tuple(sorted(node.name or "" for node in kept)), typist.casts)


def settled(path: Path) -> ir.Model:
    """A graph with everything folded that is known before it runs, weights included, each computed in fp32."""
    try:
        model = ir.external_data.load_to_model(ir.load(path))
    except Exception as reason:
        raise InputError(path.name, f"a file that does not open ({reason})", "an ONNX graph") from reason
    if any(attribute.type == ir.AttributeType.GRAPH for node in model.graph for attribute in node.attributes.values()):
        raise LimnerError(f"{path.name} has branches or loops, which the fp16 conversion does not know")
    fold_constants(model, onnx_shape_inference=True, input_size_limit=FOLD_LIMIT, output_size_limit=FOLD_LIMIT)
    common.RemoveUnusedNodesPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.DeduplicateInitializersPass()(model)
    common.NameFixPass()(model)
    return model


def _stays(node: ir.Node, ranges: Ranges | None, names: Sequence[str]) -> bool:
    if (
        node.op_type in ALWAYS_FP32
        or has_no_half_kernel(node)
        or any((node.name or "").startswith(name) for name in names)
    ):
        return True
    for value in node.inputs:
        if value is not None and value.const_value is not None and value.dtype == ir.DataType.FLOAT:
            array = np.abs(value.const_value.numpy())
            if array.size and (array.max() > LARGEST or 0 < array.max() < SMALLEST):
                return True
    if ranges is None:
        return False
    seen = [ranges.get(value.name or "") for value in (*node.inputs, *node.outputs) if value is not None]
    out = ranges.get(node.outputs[0].name or "")
    return any(r is not None and not r <= LARGEST for r in seen) or (out is not None and 0 < out < SMALLEST)


def _attention(model: ir.Model) -> set[ir.Node]:
    """Fused attention; softmaxes and what leads to them from their matrix products, these included."""
    found = {node for node in model.graph if is_fused(node)}
    todo = [node for node in model.graph if node.op_type == "Softmax"]
    while todo:
        node = todo.pop()
        found.add(node)
        if node.op_type in ("MatMul", "Gemm"):
            continue
        producers = [value.producer() for value in node.inputs if value is not None]
        todo += [one for one in producers if one is not None and one not in found]
    return found


def _clamp(model: ir.Model) -> None:
    """Clip what comes out of leaky ReLUs in fp16, so that one overflow does not spread (stylegan2-ada: conv_clamp)."""
    graph = model.graph
    nodes = [n for n in graph if n.op_type == "LeakyRelu" and n.outputs[0].dtype == ir.DataType.FLOAT16]
    if not nodes:
        return
    limits = [_scalar(graph, f"clamp_{name}", sign * CLAMP, np.float16) for name, sign in (("low", -1), ("high", 1))]
    for node in nodes:
        value = node.outputs[0]
        if value.is_graph_output():
            continue
        clip = ir.node("Clip", [value, *limits], name=f"{node.name}_clamp")
        clip.outputs[0].name, clip.outputs[0].shape, clip.outputs[0].type = f"{value.name}_c", value.shape, value.type
        value.replace_all_uses_with(clip.outputs[0])
        clip.replace_input_with(0, value)
        graph.insert_after(node, clip)


def _scale_gradient(model: ir.Model) -> None:
    """loss_weights -> S loss_weights before anything reads them, and gradient -> gradient / S behind everything."""
    graph = model.graph
    weights = next(value for value in graph.inputs if value.name == "loss_weights")
    gradient = next(value for value in graph.outputs if value.name == "gradient")
    readers = [(use.node, use.idx) for use in weights.uses()]
    up = ir.node("Mul", [weights, _scalar(graph, "gradient_scale", GRADIENT_SCALE)], name="raise_loss_weights")
    up.outputs[0].shape, up.outputs[0].type = weights.shape, weights.type
    for node, index in readers:
        node.replace_input_with(index, up.outputs[0])
    graph.insert_before(graph[0], up)
    index = next(i for i, value in enumerate(graph.outputs) if value is gradient)
    gradient.name = "gradient_raised"
    down = ir.node("Mul", [gradient, _scalar(graph, "gradient_unscale", 1.0 / GRADIENT_SCALE)], name="lower_gradient")
    lowered = down.outputs[0]
    lowered.name, lowered.shape, lowered.type = "gradient", gradient.shape, gradient.type
    graph.append(down)
    graph.outputs[index] = lowered


def _scalar(graph: ir.Graph, name: str, number: float, kind: type[np.floating[Any]] = np.float32) -> ir.Value:
    tensor = ir.tensor(np.array(number, kind), name=name)
    value = ir.Value(name=name, shape=ir.Shape([]), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.initializers[name] = value
    return value
