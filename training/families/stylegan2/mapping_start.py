"""A mapping network made by construction: z -> w that follows a coupling almost everywhere.

`mapping_module.Coupling` reads an avatar's options off z by thresholds along fixed directions. A mapping network of
PixelNorm and leaky-ReLU layers can compute that in six layers: the distance to each threshold, cut off near it (two
layers), steep ramps there, differences of ramps as one-hot choices together with an AND with the expression for the
options that depend on it, the code in order, and the embedding. Regression finds such steps badly (it blends
neighbouring choices), so they are written into the weights.

The cut keeps fp32 accurate: a ramp is the difference of two leaky ReLUs, 80 times as steep as its input. Away from its
threshold both are large, and what rounding leaves of their difference is that large too. Of a distance that was cut to
+-`NEAR` first, nothing is large.

Every value between layers is kept at or above zero, where leaky ReLU is the identity; `shift_to_positive` moves w
for the same reason. Numbers are rounded to fp16 first, since that is how checkpoints store them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from limner.runtime.errors import InputError
from limner.training.avatars.attributes import POSE_NAMES, StyleSpec
from limner.training.families.stylegan2.mapping import Coupling
from limner.training.families.stylegan2.warmup import CodeEmbedding
from limner.training.models.stylegan2 import EqualLinear, Generator

SLOPE, GAIN = 0.2, math.sqrt(2.0)  # of the fused leaky ReLU
HALF_WIDTH = 0.006  # of a ramp, in standard deviations of z: about 0.5 % of samples lie on a given one
NEAR = 0.05  # what is kept of the distance to a threshold, either side; fp16 places it within 0.0013
LIFT = 4.5  # added to a normal value, so that it stays positive
STEEP = 8.0  # ramps are computed on a value times this: the slopes fit into fp16
DEPTH = 6  # layers that the construction needs
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
    """Rows of one layer before its activation, as fp16 will store them: y = sqrt(2) * leaky_relu(weight x + bias)."""

    width: int  # inputs of the module, used or not
    lr_mul: float
    weights: list[np.ndarray] = field(default_factory=list)
    biases: list[float] = field(default_factory=list)

    @property
    def scale(self) -> float:
        """The equalised learning rate's factor on stored weights."""
        return self.lr_mul / math.sqrt(self.width)

    def stored(self, weight: np.ndarray) -> np.ndarray:
        """The numbers that a row becomes."""
        rounded: np.ndarray = (weight / self.scale).astype(np.float16).astype(np.float64) * self.scale
        return rounded

    def add(self, weight: np.ndarray, bias: float) -> int:
        self.weights.append(self.stored(weight))
        self.biases.append(float(np.float16(bias / self.lr_mul)) * self.lr_mul)
        return len(self.biases) - 1

    def keep(self, weight: np.ndarray, bias: float = 0.0) -> int:
        """A row whose value, known to be 0 or more, comes out as it is."""
        return self.add(weight / GAIN, bias / GAIN)

    def row(self, values: dict[int, float]) -> np.ndarray:
        """A row of zeros but for these."""
        found = np.zeros(self.width)
        for index, value in values.items():
            found[index] += value
        return found


class _Ramps:
    """A 0-to-1 ramp at each threshold of one normal value, made in three layers: `cut`, `sharpen`, `choice`."""

    def __init__(self, layer: _Layer, along: np.ndarray, thresholds: np.ndarray) -> None:
        self.first, self.thresholds = layer, thresholds
        self.pairs = [(layer.add(along, NEAR - t), layer.add(along, -NEAR - t)) for t in thresholds]
        self.near: list[tuple[int, float]] = []  # a unit, and its value at the threshold
        self.parts: list[tuple[int, int, float]] = []  # two units, and how far apart they are on a slope of 1

    def cut(self, layer: _Layer) -> None:
        """Distance + NEAR, cut to [0, 2 NEAR]: (leaky(a) - leaky(b) - SLOPE (a - b)) / (1 - SLOPE), a - b = 2 NEAR."""
        factor = 1 / (1 - SLOPE) / GAIN
        for threshold, (upper, lower) in zip(self.thresholds, self.pairs, strict=True):
            above, below = self.first.biases[upper], self.first.biases[lower]
            unit = layer.keep(layer.row({upper: factor, lower: -factor}), -SLOPE * (above - below) / (1 - SLOPE))
            weight, a, b = layer.weights[unit][upper], threshold + above, threshold + below  # a > 0 > b
            self.near.append((unit, GAIN * (weight * GAIN * (a - SLOPE * b) + layer.biases[unit])))

    def sharpen(self, layer: _Layer) -> None:
        """Two steep units a ramp, whose difference is the ramp."""
        for unit, at in self.near:
            row = layer.stored(layer.row({unit: STEEP}))
            centre = -float(row[unit]) * at
            upper = layer.add(row, centre + STEEP * HALF_WIDTH)
            lower = layer.add(row, centre - STEEP * HALF_WIDTH)
            self.parts.append((upper, lower, layer.biases[upper] - layer.biases[lower]))

    def choice(self, layer: _Layer, k: int) -> tuple[np.ndarray, float]:
        """Row and bias of the indicator of choice k: ramp k (1 for the first) minus ramp k + 1 (0 beyond the last)."""
        row, bias = np.zeros(layer.width), 1.0 if k == 0 else 0.0
        for sign, place in ((1.0, k - 1), (-1.0, k)):
            if 0 <= place < len(self.parts):
                upper, lower, distance = self.parts[place]
                factor = sign / ((1 - SLOPE) * distance)
                row += layer.row({upper: factor / GAIN, lower: -factor / GAIN})
                bias -= factor * SLOPE * distance
        return row, bias


def _thresholds(cumulative: Tensor) -> tuple[np.ndarray, list[int]]:
    """Normal quantiles between the choices that have weight, and those choices."""
    edges = np.concatenate([[0.0], cumulative.double().numpy()])
    choices = [k for k in range(len(edges) - 1) if edges[k + 1] - edges[k] > 1e-9]
    inner = torch.tensor([edges[k + 1] for k in choices[:-1]], dtype=torch.float64)
    return (math.sqrt(2) * torch.erfinv(2 * inner - 1)).numpy(), choices


def _pose_row(layer: _Layer, units: list[int], most: float) -> tuple[np.ndarray, float]:
    """1 + most (2 Phi(u) - 1), linear between the knots, constant beyond them."""
    knots = np.array(POSE_KNOTS)
    values = 1 + most * torch.erf(torch.tensor(knots) / math.sqrt(2)).numpy()
    slopes = np.concatenate([[0.0], np.diff(values) / np.diff(knots), [0.0]])
    row, bias = np.zeros(layer.width), float(values[0])
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


@dataclass
class _Plan:
    """What the first layer reads: ramps by option, ramps of options for an expression, units of the pose."""

    ramps: dict[str, _Ramps]
    dependent: list[_Dependent]
    pose: list[list[int]]

    @property
    def all_ramps(self) -> list[_Ramps]:
        return [*self.ramps.values(), *(case.ramps for case in self.dependent)]

    def choices(self, style: StyleSpec) -> int:
        """Units of the fourth layer."""
        plain = sum(len(style.option(name).choices) for name in self.ramps)
        return plain + 2 * sum(len(case.choices) for case in self.dependent) + len(self.pose)


@torch.no_grad()
def construct(generator: Generator, embedding: CodeEmbedding, coupling: Coupling) -> None:
    """Write the coupling into the mapping network. Call `shift_to_positive` first.

    Raises InputError when the network has too few layers or too narrow ones for the style.
    """
    config, style = generator.config, coupling.style
    if config.n_mlp < DEPTH:
        raise InputError("model.n_mlp", str(config.n_mlp), f"{DEPTH} or more layers for a constructed mapping")
    first, second, third, fourth, fifth, last, *between = (
        _Layer(config.w_dim if k else config.z_dim, config.lr_mlp) for k in range(config.n_mlp)
    )
    plan = _first_layer(first, coupling)
    needed = max(len(first.biases), plan.choices(style), len(embedding.weight))
    if config.w_dim < needed:
        raise InputError("model.w_dim", str(config.w_dim), f"{needed} or more for this style")
    pose_at = [second.keep(*_pose_row(second, units, coupling.pose)) for units in plan.pose]
    for ramps in plan.all_ramps:
        ramps.cut(second)
    pose_at = [third.keep(third.row({at: 1.0})) for at in pose_at]
    for ramps in plan.all_ramps:
        ramps.sharpen(third)
    places, ands = _fourth_layer(fourth, style, plan)
    pose_at = [fourth.keep(fourth.row({at: 1.0})) for at in pose_at]
    count = _fifth_layer(fifth, style, places, pose_at, ands)
    for passing in between:
        for k in range(count):
            passing.keep(passing.row({k: 1.0}))
    matrix = embedding.weight.detach().double().numpy()  # [K, w_dim]
    lowered = matrix[-len(POSE_NAMES) :].sum(0)  # pose comes as pose + 1
    for d in range(matrix.shape[1]):
        last.keep(np.pad(matrix[:, d], (0, max(0, last.width - count))), -float(lowered[d]))
    layers = [first, second, third, fourth, fifth, *between, last]
    for module, layer in zip(list(generator.style)[1:], layers, strict=True):
        _write(module, layer)


def _first_layer(layer: _Layer, coupling: Coupling) -> _Plan:
    directions = coupling.directions.double().numpy()  # [z_dim, count]
    style = coupling.style
    mouths = style.option("mouth").choices if any(o.depends_on for o in style.options) else ()
    plan = _Plan({}, [], [])
    for i, (option, table) in enumerate(zip(style.options, coupling.tables, strict=True)):
        if not option.depends_on:
            plan.ramps[option.name] = _Ramps(layer, directions[:, i], _thresholds(table[0])[0])
            continue
        rows = {expression: row for (_, expression, _), row in zip(mouths, table, strict=True)}
        for expression, row in rows.items():
            thresholds, choices = _thresholds(row)
            ramps = _Ramps(layer, directions[:, i], thresholds)
            plan.dependent.append(_Dependent(option.name, expression, ramps, choices))
    for i in range(len(POSE_NAMES)):
        along = directions[:, len(coupling.tables) + i]
        plan.pose.append([layer.add(along, LIFT), *(layer.add(along, -knot) for knot in POSE_KNOTS)])
    return plan


def _fourth_layer(
    layer: _Layer, style: StyleSpec, plan: _Plan
) -> tuple[dict[str, list[int]], dict[tuple[str, int], list[tuple[int, int]]]]:
    """One-hot choices; for options that depend on the expression an AND with it, relu(a + b - 1), as both signs of
    a + b - 1, so that the next layer has an exact ReLU."""
    places: dict[str, list[int]] = {}
    ands: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for option in style.options:
        if option.name in plan.ramps:
            rows = [plan.ramps[option.name].choice(layer, k) for k in range(len(option.choices))]
            places[option.name] = [layer.keep(row, bias) for row, bias in rows]
    mouths = style.option("mouth").choices if plan.dependent else ()
    for case in plan.dependent:
        spoken, offset = np.zeros(layer.width), -1.0
        for m, (_, expression, _) in enumerate(mouths):
            if expression == case.expression:
                row, bias = plan.ramps["mouth"].choice(layer, m)
                spoken, offset = spoken + row, offset + bias
        for k, choice in enumerate(case.choices):
            row, bias = case.ramps.choice(layer, k)
            pair = layer.add(spoken + row, offset + bias), layer.add(-spoken - row, -offset - bias)
            ands.setdefault((case.option, choice), []).append(pair)
    return places, ands


def _fifth_layer(
    layer: _Layer, style: StyleSpec, places: dict[str, list[int]], pose_at: list[int],
    ands: dict[tuple[str, int], list[tuple[int, int]]],
) -> int:  # fmt: skip
    """The code in its order: one-hot blocks, then pose + 1. Returns its length."""
    for option in style.options:
        for k in range(len(option.choices)):
            if option.name in places:
                layer.keep(layer.row({places[option.name][k]: 1.0}))
                continue
            row = np.zeros(layer.width)
            for plus, minus in ands.get((option.name, k), []):  # relu(x) = (leaky(x) + SLOPE leaky(-x)) / (1 - SLOPE^2)
                row += layer.row({plus: 1 / (1 - SLOPE**2) / GAIN, minus: SLOPE / (1 - SLOPE**2) / GAIN})
            layer.keep(row)
    for at in pose_at:
        layer.keep(layer.row({at: 1.0}))
    return len(layer.biases)


def _write(module: torch.nn.Module, layer: _Layer) -> None:
    """Store the rows in an EqualLinear; unused outputs are zero."""
    assert isinstance(module, EqualLinear)
    module.weight.zero_()
    module.bias.zero_()
    rows = len(layer.biases)
    module.weight[:rows] = torch.from_numpy(np.stack(layer.weights) / module.scale).half().float()
    module.bias[:rows] = torch.from_numpy(np.array(layer.biases) / module.lr_mul).half().float()
