"""A mapping network made by construction: z -> w that follows a coupling almost everywhere.

`mapping_module.Coupling` reads an avatar's options off z by thresholds along fixed directions. A mapping network of
PixelNorm and leaky-ReLU layers can compute that in five layers: ramps at the thresholds, differences of
ramps as one-hot choices, an AND with the expression for the options that depend on it, and the embedding.
Regression finds such steps badly (it blends neighbouring choices), so they are written into the weights.

Every value between layers is kept at or above zero, where leaky ReLU is the identity; `shift_to_positive` moves w
for the same reason. Numbers are rounded to fp16 first, since that is how checkpoints store them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from limner.runtime.errors import InputError
from limner.training.avatars.attributes import POSE_NAMES, StyleSpec
from limner.training.mapping_module import Coupling
from limner.training.models.stylegan2 import EqualLinear, Generator
from limner.training.warmup_module import CodeEmbedding

SLOPE, GAIN = 0.2, math.sqrt(2.0)  # of the fused leaky ReLU
HALF_WIDTH = 0.006  # of a ramp, in standard deviations of z: about 0.5 % of samples lie on a given one
LIFT = 4.5  # added to a normal value, so that it stays positive
STEEP = 8.0  # ramps are computed on a value times this: the slopes fit into fp16
POSE_KNOTS = (-2.5, -1.5, -0.9, -0.3, 0.3, 0.9, 1.5, 2.5)


@torch.no_grad()
def shift_to_positive(generator: Generator, embedding: CodeEmbedding) -> None:
    """Move the origin of w so that no avatar's w has a negative entry; every picture stays the same."""
    blocks = embedding.weight.split(embedding.sizes)
    lowest = sum(block.amin(0) for block in blocks[:-1]) - blocks[-1].abs().sum(0)
    shift = 0.1 - lowest  # [w_dim]
    embedding.weight[: embedding.sizes[0]] += shift
    for layer in generator.layers:
        affine = generator.conv(layer).modulation
        affine.bias.sub_(affine.weight @ shift * affine.scale / affine.lr_mul)


@dataclass
class _Layer:
    """Rows of one layer before its activation: y = sqrt(2) * leaky_relu(weight x + bias)."""

    inputs: int
    weights: list[np.ndarray]
    biases: list[float]

    def add(self, weight: np.ndarray, bias: float) -> int:
        self.weights.append(weight)
        self.biases.append(bias)
        return len(self.biases) - 1

    def keep(self, weight: np.ndarray, bias: float = 0.0) -> int:
        """A row whose value, known to be 0 or more, comes out as it is."""
        return self.add(weight / GAIN, bias / GAIN)

    def unit(self, index: int, value: float = 1.0) -> np.ndarray:
        row = np.zeros(self.inputs)
        row[index] = value
        return row


def _fp16(value: float, scale: float) -> float:
    """The number that `value` becomes when it is stored as value / scale in fp16."""
    return float(np.float16(value / scale)) * scale


class _Ramps:
    """A 0-to-1 ramp at each threshold of one normal value, two units each, in a layer yet to be filled."""

    def __init__(self, layer: _Layer, value: np.ndarray, offset: float, thresholds: np.ndarray, lr_mul: float) -> None:
        self.parts: list[tuple[int, int, float]] = []
        for threshold in thresholds:
            low = _fp16(STEEP * (offset - threshold + HALF_WIDTH), lr_mul)
            high = _fp16(STEEP * (offset - threshold - HALF_WIDTH), lr_mul)
            self.parts.append((layer.add(STEEP * value, low), layer.add(STEEP * value, high), (low - high) / 2))

    def choice(self, layer: _Layer, k: int) -> tuple[np.ndarray, float]:
        """Row and bias of the indicator of choice k: ramp k (1 for the first) minus ramp k + 1 (0 beyond the last)."""
        row, bias = np.zeros(layer.inputs), 1.0 if k == 0 else 0.0
        for sign, place in ((1.0, k - 1), (-1.0, k)):
            if 0 <= place < len(self.parts):
                upper, lower, half = self.parts[place]
                factor = sign / ((1 - SLOPE) * 2 * half)
                row[upper] += factor / GAIN
                row[lower] -= factor / GAIN
                bias -= factor * SLOPE * 2 * half
        return row, bias


def _thresholds(cumulative: Tensor) -> tuple[np.ndarray, list[int]]:
    """Normal quantiles between the choices that have weight, and those choices."""
    edges = np.concatenate([[0.0], cumulative.double().numpy()])
    choices = [k for k in range(len(edges) - 1) if edges[k + 1] - edges[k] > 1e-9]
    inner = torch.tensor([edges[k + 1] for k in choices[:-1]], dtype=torch.float64)
    return (math.sqrt(2) * torch.erfinv(2 * inner - 1)).numpy(), choices


@torch.no_grad()
def construct(generator: Generator, embedding: CodeEmbedding, coupling: Coupling) -> None:
    """Write the coupling into the mapping network. Call `shift_to_positive` first.

    Raises InputError when the network has too few layers or too narrow ones for the style.
    """
    config, style = generator.config, coupling.style
    if config.n_mlp < 5:
        raise InputError("model.n_mlp", str(config.n_mlp), "5 or more layers for a constructed mapping")
    first, ramps, raised, pose = _first_layer(coupling, config.lr_mlp)
    second, places, pose_at, dependent = _second_layer(first, style, coupling, ramps, raised, pose, config.lr_mlp)
    third, places, pose_at, ands = _third_layer(second, style, places, pose_at, dependent)
    fourth, order = _fourth_layer(third, style, places, pose_at, ands)
    layers = [first, second, third, fourth]
    while len(layers) < config.n_mlp - 1:
        passing = _Layer(len(order), [], [])
        for k in range(len(order)):
            passing.keep(passing.unit(k))
        layers.append(passing)
    matrix = embedding.weight.detach().double().numpy()  # [K, w_dim]
    last = _Layer(len(order), [], [])
    lowered = matrix[-len(POSE_NAMES) :].sum(0)  # pose comes as pose + 1
    for d in range(matrix.shape[1]):
        last.keep(matrix[:, d], -float(lowered[d]))
    for module, layer in zip(list(generator.style)[1:], [*layers, last], strict=True):
        _write(module, layer)


def _first_layer(
    coupling: Coupling, lr_mul: float
) -> tuple[_Layer, dict[str, _Ramps], dict[str, int], list[list[int]]]:
    directions = coupling.directions.double().numpy()  # [z_dim, count]
    scale = lr_mul / math.sqrt(len(directions))
    directions = (directions / scale).astype(np.float16).astype(np.float64) * scale
    layer = _Layer(len(directions), [], [])
    ramps: dict[str, _Ramps] = {}
    raised: dict[str, int] = {}
    for i, (option, table) in enumerate(zip(coupling.style.options, coupling.tables, strict=True)):
        if len(table) > 1:
            raised[option.name] = layer.add(directions[:, i], LIFT)
        else:
            ramps[option.name] = _Ramps(layer, directions[:, i], 0.0, _thresholds(table[0])[0], lr_mul)
    pose = []
    for i in range(len(POSE_NAMES)):
        along = directions[:, len(coupling.tables) + i]
        pose.append([layer.add(along, LIFT), *(layer.add(along, -knot) for knot in POSE_KNOTS)])
    return layer, ramps, raised, pose


def _pose_row(layer: _Layer, units: list[int]) -> tuple[np.ndarray, float]:
    """1 + (2 Phi(u) - 1), linear between the knots, constant beyond them."""
    knots = np.array(POSE_KNOTS)
    values = 1 + torch.erf(torch.tensor(knots) / math.sqrt(2)).numpy()
    slopes = np.concatenate([[0.0], np.diff(values) / np.diff(knots), [0.0]])
    row, bias = np.zeros(layer.inputs), float(values[0])
    lifted, *corners = units
    for corner, knot, bend in zip(corners, knots, np.diff(slopes), strict=True):
        # relu(v) = (leaky(v) - SLOPE v) / (1 - SLOPE), v = u - knot, u = lifted - LIFT
        row[corner] += bend / (1 - SLOPE) / GAIN
        row[lifted] -= bend * SLOPE / (1 - SLOPE) / GAIN
        bias += bend * SLOPE / (1 - SLOPE) * (LIFT + float(knot))
    return row, bias


@dataclass
class _Dependent:
    """An option's ramps for one expression, and the choices that they tell apart."""

    option: str
    expression: str
    ramps: _Ramps
    choices: list[int]


def _second_layer(
    first: _Layer, style: StyleSpec, coupling: Coupling, ramps: dict[str, _Ramps], raised: dict[str, int],
    pose: list[list[int]], lr_mul: float,
) -> tuple[_Layer, dict[str, list[int]], list[int], list[_Dependent]]:  # fmt: skip
    layer = _Layer(len(first.biases), [], [])
    places: dict[str, list[int]] = {}
    for option in style.options:
        if option.name in ramps:
            rows = [ramps[option.name].choice(layer, k) for k in range(len(option.choices))]
            places[option.name] = [layer.keep(row, bias) for row, bias in rows]
    pose_at = [layer.keep(*_pose_row(layer, units)) for units in pose]
    scale = lr_mul / math.sqrt(layer.inputs)
    one = _fp16(1 / GAIN, scale)  # the weight of the lifted value as it will be stored
    dependent = []
    mouths = style.option("mouth").choices if any(o.depends_on for o in style.options) else ()
    for option, table in zip(style.options, coupling.tables, strict=True):
        seen: set[str] = set()
        for k, (_, expression, _) in enumerate(mouths if option.depends_on else ()):
            if expression in seen:
                continue
            seen.add(expression)
            thresholds, choices = _thresholds(table[k])
            found = _Ramps(layer, layer.unit(raised[option.name], one), -LIFT * one * GAIN, thresholds, lr_mul)
            dependent.append(_Dependent(option.name, expression, found, choices))
    return layer, places, pose_at, dependent


def _third_layer(
    second: _Layer, style: StyleSpec, places: dict[str, list[int]], pose_at: list[int], dependent: list[_Dependent]
) -> tuple[_Layer, dict[str, list[int]], list[int], dict[tuple[str, int], list[tuple[int, int]]]]:
    """AND of expression and choice as relu(a + b - 1), both signs of it, so that the next layer has an exact ReLU."""
    layer = _Layer(len(second.biases), [], [])
    ands: dict[tuple[str, int], list[tuple[int, int]]] = {}
    mouth = style.option("mouth").choices if dependent else ()
    for case in dependent:
        spoken = sum((layer.unit(places["mouth"][m]) for m, c in enumerate(mouth) if c[1] == case.expression),
                     np.zeros(layer.inputs))  # fmt: skip
        for k, choice in enumerate(case.choices):
            row, bias = case.ramps.choice(layer, k)
            pair = layer.add(spoken + row, bias - 1), layer.add(-spoken - row, 1 - bias)
            ands.setdefault((case.option, choice), []).append(pair)
    kept = {name: [layer.keep(layer.unit(at)) for at in row] for name, row in places.items()}
    return layer, kept, [layer.keep(layer.unit(at)) for at in pose_at], ands


def _fourth_layer(
    third: _Layer, style: StyleSpec, places: dict[str, list[int]], pose_at: list[int],
    ands: dict[tuple[str, int], list[tuple[int, int]]],
) -> tuple[_Layer, list[int]]:  # fmt: skip
    """The code in its order: one-hot blocks, then pose + 1."""
    layer = _Layer(len(third.biases), [], [])
    order = []
    for option in style.options:
        for k in range(len(option.choices)):
            if option.name in places:
                order.append(layer.keep(layer.unit(places[option.name][k])))
                continue
            row = np.zeros(layer.inputs)
            for plus, minus in ands.get((option.name, k), []):  # relu(x) = (leaky(x) + SLOPE leaky(-x)) / (1 - SLOPE^2)
                row[plus] += 1 / (1 - SLOPE**2) / GAIN
                row[minus] += SLOPE / (1 - SLOPE**2) / GAIN
            order.append(layer.keep(row))
    order += [layer.keep(layer.unit(at)) for at in pose_at]
    return layer, order


def _write(module: torch.nn.Module, layer: _Layer) -> None:
    """Store the rows in an EqualLinear; unused inputs and outputs are zero."""
    assert isinstance(module, EqualLinear)
    rows, width = len(layer.biases), layer.inputs
    if rows > module.weight.shape[0] or width > module.weight.shape[1]:
        raise InputError("model.w_dim", str(module.weight.shape[0]), f"{max(rows, width)} or more for this style")
    module.weight.zero_()
    module.bias.zero_()
    module.weight[:rows, :width] = torch.from_numpy(np.stack(layer.weights) / module.scale).half().float()
    module.bias[:rows] = torch.from_numpy(np.array(layer.biases) / module.lr_mul).half().float()
