"""The spaces of a descent against derivatives written out in float64, and what latent optimization makes of them."""

from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from support.engines import stylegan2
from support.toy_bundle import (  # noqa: F401
    EDITABLE,
    NUM_WS,
    STYLES,
    W_DIM,
    ToyWeights,
    build_toy_bundle,
    reference_gradient,
    toy_fixture,
)

from limner.runtime.bundle.loading import Bundle
from limner.runtime.editor import Editor
from limner.runtime.errors import BundleError, InputError
from limner.runtime.methods.latent_optimization import LatentOptimizationParameters, OptimizationOptions, SpaceName
from limner.runtime.recipe import PromptEdit, Recipe, Source
from limner.runtime.stylegan2.adam import Adam, AdamConfig
from limner.runtime.stylegan2.descent import LossWeights, Schedule, Targets, descend
from limner.runtime.stylegan2.latent_optimization import goal_features, space_of
from limner.runtime.stylegan2.networks import Models
from limner.runtime.stylegan2.spaces import Latents, Space, Styles, Whitened, unrelu

Toy = tuple[Bundle, ToyWeights]
Array = NDArray[np.float64]
RANDOM = np.random.default_rng(4)
BASIS = RANDOM.normal(size=(W_DIM, W_DIM)).astype(np.float32)


def models_of(editor: Editor) -> Models:
    found: Models = stylegan2(editor).models
    return found


@pytest.fixture(scope="module")
def editor(toy: Toy) -> Editor:
    return Editor(toy[0], threads=1)


def whitened_in_float64(w: Array, v: Array) -> Array:
    """Zhu et al. 2020: P is W before the leaky ReLU of slope 1/5, and v its coordinates along the basis."""
    p = np.where(w >= 0, w, 5 * w) + np.einsum("nld,de->nle", v, BASIS.astype(np.float64))
    return np.where(p >= 0, p, p / 5)


@pytest.mark.parametrize(
    "space",
    [Latents(), Whitened(BASIS), Whitened(BASIS, np.array([True, False, True])), Styles(np.array([0.5, 0, 2]))],
)
def test_pull_is_the_derivative_of_point(space: Space) -> None:
    """Central differences of a quadratic in float64, at displacements away from the kink."""
    shape = (2, 3) if isinstance(space, Styles) else (2, 3, W_DIM)
    start, v = RANDOM.normal(size=shape), 0.3 * RANDOM.normal(size=shape)
    point = cast(Any, space.point)(start, v)
    pulled = cast(Any, space.pull)(start, v, 2 * point)
    for place in [(0, *[0] * (len(shape) - 1)), (1, *[2] * (len(shape) - 1)), (1, *[1] * (len(shape) - 1))]:
        step = np.zeros(shape)
        step[place] = 1e-6
        ends = [(cast(Any, space.point)(start, v + sign * step) ** 2).sum() for sign in (1, -1)]
        expected = (ends[0] - ends[1]) / 2e-6
        layers = getattr(space, "layers", None)
        if layers is not None and not layers[place[1]]:
            expected = 0.0  # a row that may not move
        assert pulled[place] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_whitened_points_against_float64() -> None:
    w, v = RANDOM.normal(size=(2, 3, W_DIM)), RANDOM.normal(size=(2, 3, W_DIM))
    found = Whitened(BASIS).point(w.astype(np.float32), v.astype(np.float32))
    np.testing.assert_allclose(found, whitened_in_float64(w, v), atol=1e-5)
    np.testing.assert_allclose(unrelu(np.array([-0.2, 0.4], np.float32)), [-1.0, 0.4], atol=1e-6)
    still = np.zeros_like(w, np.float32)
    np.testing.assert_allclose(Whitened(BASIS).point(w.astype(np.float32), still), w, atol=1e-6)


def test_a_descent_in_p_n_against_float64(toy: Toy, editor: Editor) -> None:
    """Ten steps of gradient descent by Adam, written out: the L2 term is sum v^2 and the graph's own is left out."""
    weights, basis = toy[1], toy[1].mapped_basis
    w0 = editor.sample(3).w_plus
    text, image = models_of(editor).clip_text(["a hat"]), models_of(editor).synthesis(w0)
    identity = models_of(editor).identity(image)
    targets, terms, space = Targets(w0, text, identity, image), LossWeights(1, 0.01, 0.1), Whitened(basis)
    found = descend(models_of(editor).latent_gradient, w0, targets, terms, Schedule(10, 0.05), space=space)[0]
    v, m, s = (np.zeros(w0.shape) for _ in range(3))
    p0 = np.where(w0 >= 0, w0, 5.0 * w0)
    begin, wanted, person, target = (array.astype(np.float64) for array in (w0, text, identity, image))
    for i in range(10):
        p = p0 + v @ basis.astype(np.float64)
        w = np.where(p >= 0, p, p / 5)
        _, to_w = reference_gradient(weights, w, begin, wanted, person, target, np.array([1.0, 0.0, 0.1, 0.0]))
        g = (to_w * np.where(p >= 0, 1, 0.2)) @ basis.T.astype(np.float64) + 2 * 0.01 * v
        m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g**2
        step = (m / (1 - 0.9 ** (i + 1))) / (np.sqrt(s / (1 - 0.999 ** (i + 1))) + 1e-8)
        v = v - Schedule(10, 0.05).rate(i) * step
    p = p0 + v @ basis.astype(np.float64)
    expected = np.where(p >= 0, p, p / 5)
    assert np.abs(found.latents - expected[0]).max() < 2e-3 * np.abs(expected - w0).max()


def test_one_moment_a_row_keeps_the_gradients_direction() -> None:
    values, gradient = np.zeros((2, 3)), np.array([[3.0, 0.0, 4.0], [0.1, 0.0, 0.0]])
    moved = Adam(AdamConfig(moments="row")).step(values, gradient, 0.5)
    for row, g in zip(moved, gradient, strict=True):
        np.testing.assert_allclose(row, -0.5 * g / np.sqrt((g**2).mean()), rtol=1e-6)


def recipe(space: SpaceName, **parameters: Any) -> Recipe:
    settings = {"steps": 20, "keep_every": 5, "space": space, "learning_rate": 0.05, **parameters}
    return Recipe("latent-optimization", Source.from_seed(2), (PromptEdit("red hair"),), parameters=settings)


@pytest.mark.parametrize("space", ["w", "p_n", "p_n_plus", "s"])
def test_every_space_moves_towards_the_text_and_replays(editor: Editor, space: SpaceName) -> None:
    edit = editor.edit(recipe(space, l2_weight=0.001))
    assert edit.scores["clip_after"] > edit.scores["clip_before"]
    assert edit.trajectory is not None
    first, last = edit.trajectory.latents[0], edit.trajectory.latents[-1]
    if space == "s":
        assert last.shape == (STYLES,)
        assert not (last - first)[~EDITABLE].any()  # to-RGB stays
        assert (last - first)[EDITABLE].any()
    else:
        assert last.shape == (NUM_WS, W_DIM)
    assert np.array_equal(editor.edit(edit.recipe).image, edit.image)
    assert np.array_equal(editor.edit(edit.at(0.5).recipe).image, edit.at(0.5).image)
    np.testing.assert_array_equal(edit.at(0.0).image, edit.reconstruction)


def test_coarse_layers_alone_in_s(editor: Editor) -> None:
    space = space_of(models_of(editor), LatentOptimizationParameters(space="s", layers=("medium",)))
    assert isinstance(space, Styles)
    rows = np.repeat([layer.w_index for layer in editor.bundle.generator.layers],
                     [layer.channels for layer in editor.bundle.generator.layers])  # fmt: skip
    assert ((space.sigma > 0) == (EDITABLE & (rows >= 4) & (rows < 8))).all()


def test_the_goal_of_a_direction_is_the_picture_moved(editor: Editor) -> None:
    image = models_of(editor).synthesis(editor.sample(1).w_plus)
    own = models_of(editor).clip_image(image)[0].astype(np.float64)
    prompts = [PromptEdit("red hair", options=OptimizationOptions("hair"))]
    near, far = (
        goal_features(models_of(editor), image, prompts, LatentOptimizationParameters(objective="direction",
                                                                                  direction_scale=scale))[0]
        for scale in (0.25, 100.0)
    )  # fmt: skip
    assert float(near @ own) > 0.95
    direction = near * np.sqrt(1 + 0.0625 + 0.5 * (far @ own)) - own  # near = (own + far / 4) / its length, roughly
    assert float(direction @ far) / np.linalg.norm(direction) > 0.99
    plain = goal_features(models_of(editor), image, prompts, LatentOptimizationParameters())
    np.testing.assert_array_equal(plain[0], models_of(editor).text_features("red hair"))


def test_the_neutral_text_belongs_to_the_direction(editor: Editor) -> None:
    prompt = (PromptEdit("red hair", options={"neutral": "hair"}),)
    plain = Recipe("latent-optimization", Source.from_seed(2), prompt, parameters={"steps": 2})
    with pytest.raises(InputError, match="neutral"):
        editor.edit(plain)
    directed = Recipe("latent-optimization", Source.from_seed(2), prompt,
                      parameters={"steps": 2, "objective": "direction"})  # fmt: skip
    assert editor.edit(directed).recipe.prompts[0].options.neutral == "hair"
    derived = editor.edit(recipe("w", objective="direction", steps=2)).recipe.prompts[0]
    assert derived.options.neutral == "a person"


def test_a_bundle_without_what_a_space_needs(tmp_path_factory: pytest.TempPathFactory) -> None:
    from dataclasses import replace

    from safetensors.numpy import save_file

    root = tmp_path_factory.mktemp("old") / "bundle"
    bundle, weights = build_toy_bundle(root)
    save_file({"latent_avg": weights.latent_avg}, root / "constants.safetensors")
    graphs = {name: meta for name, meta in bundle.manifest.graphs.items() if name != "style_gradient"}
    from limner.runtime.bundle.loading import write_manifest

    older = Editor(write_manifest(root, replace(bundle.manifest, graphs=graphs, files={})), threads=1)
    for space in ("s", "p_n"):
        with pytest.raises(BundleError, match="space"):
            older.edit(recipe(space))
    with pytest.raises(InputError, match="layers"):
        LatentOptimizationParameters(space="p_n", layers=("coarse",))
