"""The gradient of latent optimization: traced and exported, against torch.autograd."""

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny import tiny_networks
from torch import Tensor, fx

from limner.export.stylegan2.gradient_graph import INPUTS, OUTPUTS, LatentLoss, trace
from limner.export.stylegan2.graphs import GraphSpec, build_specs
from limner.export.stylegan2.networks import Networks
from limner.export.stylegan2.synthesis import FastSynthesis
from limner.runtime.bundle.loading import Bundle
from limner.runtime.graphs.sessions import Sessions

TOLERANCE = 1e-4  # relative; typically 1e-6, and 1e-5 where an activation lies within rounding of a kink
WEIGHTS = {"all": (1.0, 0.008, 0.1, 0.5), "clip": (1, 0, 0, 0), "l2": (0, 1, 0, 0), "identity": (0, 0, 1, 0),
           "pixel": (0, 0, 0, 1)}  # fmt: skip


@pytest.fixture(scope="module")
def networks(tiny_bundle: Bundle) -> Networks:
    """The networks of the tiny bundle, weights rounded as there."""
    vocabulary = len(json.loads(tiny_bundle.file("tokenizer/vocab.json").read_text()))
    networks = tiny_networks(vocabulary=vocabulary)
    with torch.no_grad():
        networks.round_to_fp16()
    return networks


@pytest.fixture(scope="module")
def spec(networks: Networks) -> GraphSpec:
    return build_specs(networks)["latent_gradient"]


@pytest.fixture(scope="module")
def traced(spec: GraphSpec) -> fx.GraphModule:
    inputs = spec.sample(7, torch.Generator().manual_seed(0))
    return trace(spec.function, inputs, ((0,),) * 5 + ((),))


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def inputs_of(spec: GraphSpec, batch: int, weights: str = "all") -> tuple[Tensor, ...]:
    *arrays, _ = spec.sample(batch, torch.Generator().manual_seed(batch))
    return (*arrays, torch.tensor(WEIGHTS[weights], dtype=torch.float32))


def reference64(networks: Networks) -> Callable[..., tuple[Tensor, ...]]:
    """The same loss with every network in float64."""
    doubled: tuple[Any, ...] = tuple(
        copy.deepcopy(m).double() for m in (FastSynthesis(networks.generator), networks.clip_image, networks.identity)
    )
    synthesis, clip, identity = doubled
    return LatentLoss(synthesis.from_w_plus, clip, identity).gradient_by_autograd


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_traced_against_autograd(spec: GraphSpec, traced: fx.GraphModule, batch: int, weights: str) -> None:
    inputs = inputs_of(spec, batch, weights)
    for name, found, wanted in zip(OUTPUTS, traced(*inputs), spec.reference(*inputs), strict=True):
        assert found.shape == wanted.shape, name
        assert error(found, wanted) <= TOLERANCE, name


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_exported_against_float32_and_float64(
    tiny_bundle: Bundle, networks: Networks, spec: GraphSpec, batch: int
) -> None:
    inputs = inputs_of(spec, batch)
    feed = {name: array.numpy() for name, array in zip(INPUTS, inputs, strict=True)}
    found = Sessions(tiny_bundle, threads=1).run("latent_gradient", only=None, **feed)
    double = reference64(networks)(*(array.double() for array in inputs))
    for name, in32, in64 in zip(OUTPUTS, spec.reference(*inputs), double, strict=True):
        assert error(torch.from_numpy(found[name]), in32) <= TOLERANCE, name
        assert error(torch.from_numpy(found[name]), in64) <= TOLERANCE, name


def test_gradient_is_that_of_finite_differences(networks: Networks, spec: GraphSpec) -> None:
    """Along one direction, in float64: (f(w + h d) - f(w - h d)) / 2h against the gradient times d."""
    reference = reference64(networks)
    w_plus, *targets = (array.double() for array in inputs_of(spec, 1))
    direction = torch.randn(w_plus.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    direction /= direction.norm()
    weights = targets[-1]

    def loss(point: Tensor) -> float:
        terms = reference(point, *targets)[:4]
        return float(sum(term.sum() * weight for term, weight in zip(terms, weights, strict=True)))

    step = 1e-6
    slope = (loss(w_plus + step * direction) - loss(w_plus - step * direction)) / (2 * step)
    gradient = reference(w_plus, *targets)[4]
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-4)


def test_rows_are_independent(tiny_bundle: Bundle, spec: GraphSpec) -> None:
    inputs = inputs_of(spec, 3)
    sessions = Sessions(tiny_bundle, threads=1)
    feed = {name: array.numpy() for name, array in zip(INPUTS, inputs, strict=True)}
    together = sessions.run("latent_gradient", only=None, **feed)
    for row in range(3):
        alone = {name: array[row : row + 1] if name != "loss_weights" else array for name, array in feed.items()}
        found = sessions.run("latent_gradient", only=None, **alone)
        for name in OUTPUTS:
            np.testing.assert_allclose(found[name][0], together[name][row], rtol=1e-3, atol=1e-5)


def test_terms_are_those_of_the_formulas(spec: GraphSpec, networks: Networks) -> None:
    w_plus, source, text, identity, target, weights = inputs_of(spec, 2)
    clip, l2, identity_term, pixel, _, image = spec.reference(w_plus, source, text, identity, target, weights)
    torch.testing.assert_close(image, networks.generator.synthesis(w_plus))
    torch.testing.assert_close(clip, 1 - torch.cosine_similarity(networks.clip_image(image), text))
    torch.testing.assert_close(identity_term, 1 - torch.cosine_similarity(networks.identity(image), identity))
    torch.testing.assert_close(l2, ((w_plus - source) ** 2).sum((1, 2)))
    torch.testing.assert_close(pixel, ((image - target) ** 2).mean((1, 2, 3)))


@pytest.mark.parametrize("batch", [1, 3])
def test_gradient_in_styles(tiny_bundle: Bundle, networks: Networks, spec: GraphSpec, batch: int) -> None:
    """Against autograd, and against the graph in W+: its gradient is that of the styles, through the affine."""
    in_styles = build_specs(networks)["style_gradient"]
    inputs = in_styles.sample(batch, torch.Generator().manual_seed(3))
    sessions = Sessions(tiny_bundle, threads=1)
    names = [tensor.name for tensor in in_styles.inputs]
    assert names[:2] == ["style_channels", "style_channels_source"]
    feed = {name: array.numpy() for name, array in zip(names, inputs, strict=True)}
    found = sessions.run("style_gradient", only=None, **feed)
    for name, wanted in zip(OUTPUTS, in_styles.reference(*inputs), strict=True):
        assert error(torch.from_numpy(found[name]), wanted) <= TOLERANCE, name
    w_plus, source, *targets = spec.sample(batch, torch.Generator().manual_seed(3))
    weights = torch.tensor([1.0, 0.0, 0.1, 0.5])  # the L2 terms of the two spaces differ
    affine = networks.generator.affine
    with torch.enable_grad():
        point = w_plus.clone().requires_grad_(True)
        tensors = dict(
            zip(names, (affine(point).detach(), affine(source).detach(), *targets[:-1], weights), strict=True)
        )
        to_styles = sessions.run("style_gradient", only=None, **{k: v.numpy() for k, v in tensors.items()})["gradient"]
        (pulled,) = torch.autograd.grad(affine(point), point, torch.from_numpy(to_styles))
    wanted = spec.reference(w_plus, source, *targets[:-1], weights)[4]
    assert error(pulled, wanted) <= TOLERANCE
