"""Latent mappers and Ranger: published keys, both against float64 references written from their formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from limner.runtime.errors import InputError
from limner.training.families.mapper.ranger import Ranger, rectification
from limner.training.models.mapper import LatentMapper, MapperConfig, build_mapper, fits, generator_digest
from limner.training.models.stylegan2 import Generator, StyleGAN2Config

DIM, ROWS = 16, 12
STYLES = (8, 8, 8, 6, 6)  # conv, to-RGB, conv, conv, to-RGB
TOLERANCE = 1e-5  # fp32 against float64 through four layers of 16


def config(kind: str = "levels", **changes: object) -> MapperConfig:
    styles = STYLES if kind == "styles" else ()
    return MapperConfig(**({"kind": kind, "num_ws": ROWS, "w_dim": DIM, "styles": styles} | changes))  # type: ignore[arg-type]


def perceptron(state: dict[str, np.ndarray], prefix: str, x: np.ndarray, axis: int) -> np.ndarray:
    """PixelNorm over `axis`, then four equalised linear layers with leaky ReLU 0.2 and gain sqrt(2)."""
    x = x / np.sqrt((x**2).mean(axis, keepdims=True) + 1e-8)
    for layer in range(1, 5):
        weight, bias = (state[f"{prefix}mapping.{layer}.{part}"] for part in ("weight", "bias"))
        y = x @ (weight * 0.01 / math.sqrt(weight.shape[1])).T + bias * 0.01
        x = np.where(y > 0, y, 0.2 * y) * math.sqrt(2)
    return x


def reference(mapper: LatentMapper, x: np.ndarray) -> np.ndarray:
    """0.1 M(x) from the facts, in float64."""
    state = {key: value.double().numpy() for key, value in mapper.state_dict().items()}
    config = mapper.config
    axis = 2 if config.pixel_norm == "features" else 1
    if config.kind == "single":
        return 0.1 * perceptron(state, "mapping.", x, axis)
    if config.kind == "levels":
        parts = []
        for key, on, rows in (("course", config.coarse, x[:, :4]), ("medium", config.medium, x[:, 4:8]),
                              ("fine", config.fine, x[:, 8:])):  # fmt: skip
            parts.append(perceptron(state, f"{key}_mapping.", rows, axis) if on else np.zeros_like(rows))
        return 0.1 * np.concatenate(parts, 1)
    parts, start = [], 0
    for i, width in enumerate(config.styles):
        part = x[:, start : start + width]
        parts.append(np.zeros_like(part) if i in (1, 4) else perceptron(state, f"mapper_{i}.", part, 1))
        start += width
    return 0.1 * np.concatenate(parts, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fine": False},
        {"coarse": False, "medium": False},
        {"pixel_norm": "layers"},
        {"kind": "single"},
        {"kind": "single", "pixel_norm": "layers"},
        {"kind": "styles"},
    ],
)
def test_against_the_float64_reference(changes: dict[str, object]) -> None:
    torch.manual_seed(0)
    mapper = build_mapper(config(**changes))  # type: ignore[arg-type]
    for name, value in mapper.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(value, std=30.0)
    shape = (3, sum(STYLES)) if mapper.config.kind == "styles" else (3, ROWS, DIM)
    x = torch.randn(shape)
    found, expected = mapper(x), reference(mapper, x.double().numpy())
    assert found.shape == x.shape
    assert np.abs(found.detach().double().numpy() - expected).max() / np.abs(expected).max() < TOLERANCE


def test_published_keys() -> None:
    layers = [f"mapping.{i}.{part}" for i in range(1, 5) for part in ("weight", "bias")]
    groups = ("course_mapping", "medium_mapping", "fine_mapping")
    assert sorted(build_mapper(config()).state_dict()) == sorted(f"{g}.{key}" for g in groups for key in layers)
    assert sorted(build_mapper(config("single")).state_dict()) == sorted(f"mapping.{key}" for key in layers)
    found = build_mapper(config("styles")).state_dict()
    assert sorted(found) == sorted(f"mapper_{i}.{key}" for i in (0, 2, 3) for key in layers)
    assert found["mapper_3.mapping.1.weight"].shape == (6, 6)
    assert build_mapper(MapperConfig()).state_dict()["fine_mapping.mapping.4.weight"].shape == (512, 512)


def test_equal_rows_keep_their_features_unless_the_quirk_is_asked_for() -> None:
    """Over layers of equal rows the published norm leaves the signs alone; over features it does not."""
    x = torch.randn(1, 1, DIM).expand(1, ROWS, DIM)
    mappers: list[Any] = [build_mapper(config("single", pixel_norm=norm)) for norm in ("layers", "features")]
    quirk, right = (mapper.mapping.mapping[0](x) for mapper in mappers)
    assert torch.allclose(quirk.abs(), torch.ones(()), atol=1e-3)
    assert right.abs().std() > 0.3


@pytest.mark.parametrize(
    ("changes", "shape"),
    [({}, (2, ROWS, DIM + 1)), ({}, (2, ROWS - 1, DIM)), ({"kind": "styles"}, (2, 35)), ({"kind": "single"}, (2, DIM))],
)
def test_latents_of_another_shape_are_refused(changes: dict[str, object], shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"allowed: \[N"):
        build_mapper(config(**changes))(torch.zeros(shape))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [{"coarse": False, "medium": False, "fine": False}, {"kind": "single", "styles": (3,)}, {"scale": 0.0},
     {"kind": "styles", "styles": ()}],
)  # fmt: skip
def test_configs_that_make_no_mapper_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"off|kind|above 0"):
        config(**changes)  # type: ignore[arg-type]


def test_the_digest_tells_generators_apart_and_not_their_storage() -> None:
    sizes = StyleGAN2Config(8, 4, 8, 1, channels={4: 4, 8: 4})
    generator, other = Generator(sizes), Generator(sizes)
    digest = generator_digest(generator.state_dict())
    stored = {key: value.half().float() for key, value in generator.state_dict().items()}
    stored["noises.noise_0"] = torch.zeros(1)
    assert generator_digest(stored) == digest != generator_digest(other.state_dict())
    assert fits(MapperConfig(num_ws=4, w_dim=8), generator) and not fits(MapperConfig(), generator)
    styles = tuple(layer.channels for layer in generator.layers)
    assert fits(MapperConfig("styles", 4, 8, styles=styles), generator)


# --- Ranger -----------------------------------------------------------------------------------------------


class Reference:
    """RAdam, Lookahead and gradient centralisation as the papers and the published code write them, float64."""

    def __init__(self, p: np.ndarray, lr: float, decay: float) -> None:
        self.p, self.slow, self.lr, self.decay = p.copy(), p.copy(), lr, decay
        self.m, self.v, self.t = np.zeros_like(p), np.zeros_like(p), 0

    def step(self, g: np.ndarray) -> None:
        b1, b2, eps = 0.95, 0.999, 1e-5
        if g.ndim > 1:
            g = g - g.mean(axis=tuple(range(1, g.ndim)), keepdims=True)
        self.t += 1
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g * g
        self.p = self.p - self.decay * self.lr * self.p
        rho_inf = 2 / (1 - b2) - 1
        rho = rho_inf - 2 * self.t * b2**self.t / (1 - b2**self.t)
        corrected = self.m / (1 - b1**self.t)
        if rho > 5:
            r = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
            second = (np.sqrt(self.v) + eps) / math.sqrt(1 - b2**self.t)
            self.p = self.p - self.lr * r * corrected / second
        else:
            self.p = self.p - self.lr * corrected
        if self.t % 6 == 0:
            self.slow = self.slow + 0.5 * (self.p - self.slow)
            self.p = self.slow.copy()


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_ranger_against_the_float64_reference(decay: float) -> None:
    torch.manual_seed(1)
    parameters = [nn.Parameter(torch.randn(*shape, dtype=torch.float64)) for shape in ((5, 7), (5,), (3, 2, 2))]
    references = [Reference(p.detach().numpy(), 0.1, decay) for p in parameters]
    optimizer = Ranger(parameters, 0.1, weight_decay=decay)
    goal = [torch.randn_like(p) for p in parameters]
    for _ in range(40):
        optimizer.zero_grad()
        sum(((p - g) ** 2).sum() + p.sin().sum() for p, g in zip(parameters, goal, strict=True)).backward()  # type: ignore[union-attr]
        for p, r in zip(parameters, references, strict=True):
            assert p.grad is not None
            r.step(p.grad.numpy())
        optimizer.step()
        for p, r in zip(parameters, references, strict=True):
            assert np.abs(p.detach().numpy() - r.p).max() < 1e-12


def test_the_variance_joins_in_when_it_is_tractable() -> None:
    used = [rectification(t, 0.95, 0.999)[1] for t in range(1, 12)]
    assert used.index(True) == 5 and not any(used[:5])


def test_ranger_goes_on_from_its_state() -> None:
    def run(stop: int | None) -> torch.Tensor:
        torch.manual_seed(2)
        p = nn.Parameter(torch.randn(4, 4))
        optimizer = Ranger([p], 0.2)
        for i in range(20):
            if i == stop:
                state, p = optimizer.state_dict(), nn.Parameter(p.detach().clone())
                optimizer = Ranger([p], 0.2)
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            (p - i).square().sum().backward()
            optimizer.step()
        return p.detach()

    assert torch.equal(run(None), run(9))


def test_ranger_refuses_what_is_out_of_range() -> None:
    for settings in ({"lr": 0.0}, {"k": 0}, {"betas": (1.0, 0.9)}):
        with pytest.raises(ValueError, match="ranges"):
            Ranger([nn.Parameter(torch.zeros(1))], **settings)
