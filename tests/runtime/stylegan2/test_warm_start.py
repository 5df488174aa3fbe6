"""Walks in S that begin where the global direction leads and move relevant channels alone, against float64."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from support.engines import stylegan2
from support.toy_bundle import CLIP_DIM, EDITABLE, STYLES, ToyWeights, reference_gradient, toy_fixture  # noqa: F401

from limner.runtime.bundle.loading import Bundle
from limner.runtime.editor import Editor
from limner.runtime.errors import InputError
from limner.runtime.methods.latent_optimization import LatentOptimizationParameters, OptimizationOptions
from limner.runtime.recipe import PromptEdit, Recipe, Source
from limner.runtime.schema import to_dict
from limner.runtime.stylegan2.global_directions import channel_direction
from limner.runtime.stylegan2.latent_optimization import schedule, walk
from limner.runtime.stylegan2.networks import Models
from limner.runtime.stylegan2.warm_start import warm_start
from limner.runtime.text.templates import STYLECLIP_TEMPLATES
from limner.runtime.timing import Timer

Toy = tuple[Bundle, ToyWeights]
Array = NDArray[np.float64]
START, START_BETA, LEAST, STEPS = 3.0, 0.3, 0.15, 12
GUIDED: dict[str, Any] = {"space": "s", "objective": "direction", "direction_scale": 3.0, "steps": STEPS,
                          "learning_rate": 0.1, "l2_weight": 0.001, "identity_weight": 0.02, "keep_every": 4,
                          "start": START, "start_beta": START_BETA, "relevance": LEAST}  # fmt: skip


def models_of(editor: Editor) -> Models:
    found: Models = stylegan2(editor).models
    return found


@pytest.fixture(scope="module")
def editor(toy: Toy) -> Editor:
    return Editor(toy[0], threads=1)


def reference_start(weights: ToyWeights, dt: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Channel by channel, float64."""
    r = np.array([float(row.astype(np.float64) @ dt) for row in weights.relevance]) * EDITABLE
    largest = np.abs(r).max()
    begins, moves = (np.abs(r) >= (least if least <= largest else largest / 2) for least in (START_BETA, LEAST))
    return START * np.where(begins, r, 0) / np.abs(r).max(), moves


def test_start_and_free_channels_against_float64(toy: Toy) -> None:
    random = np.random.default_rng(1)
    directions = random.standard_normal((3, CLIP_DIM))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    rows = list(directions.astype(np.float32))
    v, free = warm_start(toy[1].relevance, rows, EDITABLE, start=START, start_beta=START_BETA, least=LEAST)
    for row, dt in enumerate(directions):
        expected, moves = reference_start(toy[1], dt)
        np.testing.assert_allclose(v[row], expected, atol=2e-6 * START)  # fp32 sums of a few terms
        np.testing.assert_array_equal(free[row], moves)
        assert 0 < np.count_nonzero(expected) < moves.sum() < EDITABLE.sum()
        assert np.abs(v[row]).max() == pytest.approx(START)
    every = warm_start(toy[1].relevance, rows, EDITABLE, start=START, start_beta=START_BETA, least=0.0)[1]
    np.testing.assert_array_equal(every, np.tile(EDITABLE, (3, 1)))
    few, free = warm_start(toy[1].relevance, rows, EDITABLE, start=START, start_beta=0.0, least=LEAST)
    np.testing.assert_array_equal(few != 0, free)  # what may not move does not begin elsewhere


def test_a_guided_walk_against_float64(toy: Toy, editor: Editor) -> None:
    """First the jump, then eleven steps of Adam on the channels that may move; two texts, one walk each."""
    weights, models = toy[1], models_of(editor)
    w_plus = np.concatenate([editor.sample(seed).w_plus for seed in (1, 2)])
    prompts = [
        PromptEdit("red hair", options=OptimizationOptions("hair")),
        PromptEdit("a hat", options=OptimizationOptions("hair")),
    ]
    parameters = LatentOptimizationParameters(**GUIDED)
    found = walk(models, w_plus, prompts, parameters, Timer())
    in_styles = replace(weights, affine=np.eye(STYLES, dtype=np.float32))
    image = models.synthesis(w_plus)
    s0, identity = models.affine(w_plus).astype(np.float64), models.identity(image).astype(np.float64)
    sigma = weights.style_std.astype(np.float64) * EDITABLE
    for row, prompt in enumerate(prompts):
        dt = direction_of(editor, prompt)
        goal = models.clip_image(image[row : row + 1]).astype(np.float64) + 3.0 * dt
        goal /= np.linalg.norm(goal)
        v, free = reference_start(weights, dt)
        m, u = np.zeros(STYLES), np.zeros(STYLES)
        for i in range(1, STEPS):
            s = (s0[row] + v * sigma)[None, :, None]
            arrays = (s0[row][None, :, None], goal, identity[row : row + 1], image[row : row + 1].astype(np.float64))
            _, g = reference_gradient(in_styles, s, *arrays, np.array([1.0, 0.0, 0.02, 0.0]))
            g = (g[0, :, 0] * sigma + 2 * 0.001 * v) * free
            m, u = 0.9 * m + 0.1 * g, 0.999 * u + 0.001 * g**2
            rate = schedule(parameters).rate(i)
            v = v - rate * (m / (1 - 0.9**i)) / (np.sqrt(u / (1 - 0.999**i)) + 1e-8)
        moved = (found[row].latents - s0[row]).astype(np.float64)
        np.testing.assert_allclose(moved, v * sigma, atol=2e-3 * np.abs(v * sigma).max())  # Adam on small gradients
        assert not moved[~free].any()
        np.testing.assert_allclose(found[row].trajectory.latents[0], s0[row], atol=1e-6)  # it starts at the source
        assert found[row].trajectory.steps == (0, 4, 8, STEPS)


def direction_of(editor: Editor, prompt: PromptEdit) -> Array:
    """The text direction by the 79 templates, float64 from the toy's own text features."""
    means = []
    for text in (prompt.text, prompt.options.neutral):
        features = models_of(editor).clip_text([t.replace("{}", text) for t in STYLECLIP_TEMPLATES]).astype(np.float64)
        mean = (features / np.linalg.norm(features, axis=1, keepdims=True)).mean(0)
        means.append(mean / np.linalg.norm(mean))
    difference = means[0] - means[1]
    return cast(Array, difference / np.linalg.norm(difference))


def recipe(**parameters: Any) -> Recipe:
    prompts = (PromptEdit("red hair", options={"neutral": "hair"}),)
    return Recipe("latent-optimization", Source.from_seed(2), prompts, parameters=GUIDED | parameters)


def test_a_guided_edit_replays_and_its_slider_begins_at_the_source(editor: Editor) -> None:
    edit = editor.edit(recipe())
    assert edit.trajectory is not None
    jumped, later = (edit.trajectory.losses[place]["loss_clip"] for place in (1, 2))
    assert later < jumped
    assert np.array_equal(editor.edit(edit.recipe).image, edit.image)
    np.testing.assert_array_equal(edit.at(0.0).image, edit.reconstruction)
    assert not np.array_equal(edit.at(0.3).image, edit.reconstruction)


def test_elsewhere_start_and_relevance_count_nothing(editor: Editor) -> None:
    with pytest.raises(InputError, match=r"parameters\.start: got 3\.0; allowed: nothing beside space"):
        editor.edit(recipe(space="w_plus"))
    alone = recipe(space="w_plus")
    values = {
        name: value
        for name, value in to_dict(alone.parameters).items()
        if name not in ("start", "start_beta", "relevance")
    }
    plain = replace(alone, parameters=values)
    presets = replace(editor.bundle.manifest, defaults={"latent-optimization": {"start": 3.0, "relevance": 0.2}})
    other = Editor(replace(editor.bundle, manifest=presets), threads=1).edit(plain)
    np.testing.assert_array_equal(other.image, editor.edit(plain).image)


def test_bad_values_name_the_field(editor: Editor) -> None:
    for field, value in (
        ("start", -1.0),
        ("start", 31.0),
        ("start_beta", 1.5),
        ("relevance", 1.5),
        ("relevance", "much"),
    ):
        with pytest.raises(InputError, match=f"parameters.{field}"):
            editor.edit(recipe(**{field: value}))


def test_thresholds_leave_channels_for_any_words(toy: Toy) -> None:
    """One that no channel reaches counts as half the largest |r|."""
    dt = np.eye(CLIP_DIM)[2]
    size = np.abs(toy[1].relevance.astype(np.float64) @ dt) * EDITABLE
    rows = [dt.astype(np.float32)]
    v, free = warm_start(toy[1].relevance, rows, EDITABLE, start=2.0, start_beta=1.0, least=1.0)
    np.testing.assert_array_equal(free[0], size >= size.max() / 2)
    np.testing.assert_array_equal(v[0] != 0, free[0])
    with pytest.raises(InputError, match="no channel has to do with"):
        warm_start(0 * toy[1].relevance, rows, EDITABLE, start=2.0, start_beta=0.1, least=0.1)


def test_a_threshold_that_a_channel_reaches_counts_as_it_is_given(toy: Toy) -> None:
    """Begun there and not moved, a walk is the global direction at the same alpha and beta."""
    relevance, dt = toy[1].relevance, np.eye(CLIP_DIM, dtype=np.float32)[2]
    size = np.sort(np.abs(relevance @ dt) * EDITABLE)[::-1]
    beta = float(size[1] + size[0]) / 2
    assert beta > size[0] / 2
    v, free = warm_start(relevance, [dt], EDITABLE, start=2.0, start_beta=beta, least=float(size[2]))
    direction = channel_direction(relevance, np.ones(STYLES, np.float32), dt, EDITABLE, beta=beta)
    np.testing.assert_array_equal(v[0], 2 * direction)
    assert np.count_nonzero(v[0]) == 1 and free.sum() == 3
