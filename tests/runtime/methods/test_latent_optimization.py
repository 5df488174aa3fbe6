"""Latent optimization against plain numpy: schedule, Adam, losses, trajectory and early stop."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.engines import stylegan2
from support.toy_bundle import FLAT, NUM_WS, W_DIM, ToyWeights, reference_gradient, toy_fixture  # noqa: F401

from limner.runtime.bundle.loading import Bundle
from limner.runtime.editor import Editor
from limner.runtime.errors import GraphError, InputError
from limner.runtime.methods.latent_optimization import LatentOptimizationParameters
from limner.runtime.recipe import PromptEdit, Recipe, Source
from limner.runtime.stylegan2.descent import LossWeights, Schedule, Stopping, Targets, descend
from limner.runtime.stylegan2.latent_optimization import layer_mask, optimise
from limner.runtime.stylegan2.networks import Models
from limner.runtime.trajectory import Trajectory

Toy = tuple[Bundle, ToyWeights]
Array = NDArray[np.float64]


def models_of(editor: Editor) -> Models:
    found: Models = stylegan2(editor).models
    return found


@pytest.fixture(scope="module")
def editor(toy: Toy) -> Editor:
    return Editor(toy[0], threads=1)


Four = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def inputs(editor: Editor, count: int) -> Four:
    """w_plus, text, identity and image of `count` sources, fp32."""
    w_plus = np.concatenate([editor.sample(seed).w_plus for seed in range(count)])
    image = models_of(editor).synthesis(w_plus)
    texts = ["a beard", "red hair", "a hat", "a smile"][:count]
    return w_plus, models_of(editor).clip_text(texts), models_of(editor).identity(image), image


def published_rate(t: float, initial: float = 0.1, rampdown: float = 0.25, rampup: float = 0.05) -> float:
    """StyleCLIP's get_lr, statement by statement."""
    ramp = min(1, (1 - t) / rampdown)
    ramp = 0.5 - 0.5 * math.cos(ramp * math.pi)
    ramp = ramp * min(1, t / rampup)
    return initial * ramp


def reference_walk(weights: ToyWeights, arrays: tuple[Any, ...], steps: int, k: Array) -> Array:
    """Adam (algorithm 1) on the published schedule, float64; returns every w [steps+1,N,L,D]."""
    w0, text, identity, image = (array.astype(np.float64) for array in arrays)
    w, m, v = w0.copy(), np.zeros_like(w0), np.zeros_like(w0)
    walk = [w]
    for i in range(steps):
        _, g = reference_gradient(weights, w, w0, text, identity, image, k)
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        m_hat, v_hat = m / (1 - 0.9 ** (i + 1)), v / (1 - 0.999 ** (i + 1))
        w = w - published_rate(i / steps) * m_hat / (np.sqrt(v_hat) + 1e-8)
        walk.append(w)
    return np.stack(walk)


def test_the_schedule_is_the_published_one() -> None:
    for steps in (1, 40, 300):
        schedule = Schedule(steps, 0.1)
        for step in range(steps):
            assert schedule.rate(step) == pytest.approx(published_rate(step / steps), abs=1e-15)
    assert Schedule(10, 0.1, ramp_up=0.0, ramp_down=0.0).rate(0) == pytest.approx(0.1)


def test_the_toy_graph_is_its_reference(toy: Toy, editor: Editor) -> None:
    w_plus, text, identity, image = inputs(editor, 3)
    k = np.array([1.0, 0.02, 0.3, 0.7], np.float32)
    moved = w_plus + np.float32(0.1)
    found = models_of(editor).latent_gradient(
        latents=moved,
        source=w_plus,
        text_features=text,
        identity_source=identity,
        target_image=image,
        loss_weights=k,
    )
    arrays = [array.astype(np.float64) for array in (moved, w_plus, text, identity, image, k)]
    losses, gradient = reference_gradient(toy[1], *arrays)
    for name, value in losses.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["gradient"], gradient, rtol=1e-4, atol=1e-6)


def test_against_the_float64_walk(toy: Toy, editor: Editor) -> None:
    arrays = inputs(editor, 3)
    parameters = LatentOptimizationParameters(steps=40, identity_weight=0.005, keep_every=1)
    walk = reference_walk(toy[1], arrays, 40, np.array([1.0, 0.008, 0.005, 0.0]))
    for row, found in enumerate(optimise(models_of(editor).latent_gradient, *arrays, parameters)):
        assert found.trajectory.steps == tuple(range(41))
        assert not found.stopped_early
        off = np.abs(found.trajectory.latents - walk[:, row]).max()
        assert off < 2e-3 * np.abs(walk[-1, row] - walk[0, row]).max()  # Adam divides rounding by small roots
        assert found.losses["loss_clip"] < found.trajectory.losses[0]["loss_clip"]


def test_each_row_is_the_same_as_alone(editor: Editor) -> None:
    arrays = inputs(editor, 4)
    parameters = LatentOptimizationParameters(steps=30, patience=3, min_improvement=0.002)
    together = optimise(models_of(editor).latent_gradient, *arrays, parameters)
    assert len({found.steps for found in together}) > 1  # they stop at different steps
    for row, found in enumerate(together):
        a, b, c, d = (array[row : row + 1] for array in arrays)
        alone = optimise(models_of(editor).latent_gradient, a, b, c, d, parameters)[0]
        assert found.steps == alone.steps
        np.testing.assert_allclose(found.latents, alone.latents, atol=1e-4)


def bowl(calls: list[int]) -> Any:
    """A quadratic loss around 1 without a bundle: loss_l2 = sum (w - 1)^2, whose gradient is 2 (w - 1)."""

    def graph(*, latents: Any, only: Sequence[str] | None = None, **_: Any) -> dict[str, Any]:
        calls.append(len(latents))
        zeros = np.zeros(len(latents), np.float32)
        losses = {"loss_clip": zeros, "loss_identity": zeros, "loss_pixel": zeros}
        return losses | {
            "loss_l2": ((latents - 1) ** 2).sum((1, 2)),
            "gradient": 2 * (latents - 1),
            "image": np.zeros((len(latents), 3, 4, 4), np.float32),
        }

    return graph


def bowl_targets(count: int) -> tuple[Any, Targets]:
    start = np.stack([np.full((2, 3), 1.0 + row, np.float32) for row in range(count)])  # row 0 is at the bottom
    nothing = np.zeros((count, 1), np.float32)
    return start, Targets(start, nothing, nothing, np.zeros((count, 3, 4, 4), np.float32))


def test_early_stop_gives_the_best_point_and_saves_the_work() -> None:
    calls: list[int] = []
    start, targets = bowl_targets(2)
    found = descend(
        bowl(calls),
        start,
        targets,
        LossWeights(0, 1, 0),
        Schedule(200, 0.1),
        stopping=Stopping(10, 1e-3),
        keep_every=5,
    )
    assert found[0].stopped_early
    assert found[0].steps == 0
    np.testing.assert_array_equal(found[0].latents, start[0])
    assert found[1].stopped_early
    assert 0 < found[1].steps < 200
    assert np.abs(found[1].latents - 1).max() < 0.05
    assert found[1].trajectory.steps[-1] == found[1].steps
    assert calls[0] == 2
    assert calls[-1] == 1
    assert len(calls) < 200


def test_no_patience_runs_to_the_end_and_reports_every_step() -> None:
    seen: list[tuple[int, int, float]] = []
    start, targets = bowl_targets(1)
    found = descend(
        bowl([]),
        start,
        targets,
        LossWeights(0, 1, 0),
        Schedule(20, 0.1),
        progress=lambda step, steps, losses: seen.append((step, steps, losses["loss_l2"])),
    )
    assert found[0].steps == 20
    assert [step for step, _, _ in seen] == list(range(1, 21))
    assert {steps for _, steps, _ in seen} == {20}
    assert found[0].trajectory.steps == (0, 20)


def test_a_walk_that_diverges_says_what_to_change() -> None:
    def graph(**_: Any) -> dict[str, Any]:
        raise GraphError("graph 'latent_gradient' gave NaN")

    start, targets = bowl_targets(1)
    with pytest.raises(GraphError, match="learning_rate"):
        descend(graph, start, targets, LossWeights(0, 1, 0), Schedule(20, 0.1))


def test_layers_that_are_not_named_do_not_move(editor: Editor) -> None:
    arrays = inputs(editor, 1)
    parameters = LatentOptimizationParameters(steps=10, layers=("medium",))
    found = optimise(models_of(editor).latent_gradient, *arrays, parameters)[0]
    moved = np.abs(found.latents - arrays[0][0]).max(axis=1) > 0
    assert moved.tolist() == [False] * 4 + [True] * 2
    assert layer_mask(["coarse", "fine"], 18).tolist() == [True] * 4 + [False] * 4 + [True] * 10
    with pytest.raises(InputError) as caught:
        layer_mask(["fine"], NUM_WS)
    assert caught.value.field == "parameters.layers"


def test_space_w_moves_all_layers_alike(editor: Editor) -> None:
    arrays = inputs(editor, 2)
    parameters = LatentOptimizationParameters(steps=6, space="w")
    for row, found in enumerate(optimise(models_of(editor).latent_gradient, *arrays, parameters)):
        moved = found.latents - arrays[0][row]
        assert np.abs(moved).max() > 0
        assert np.abs(moved - moved[:1]).max() < 1e-6  # float32 sums


def test_space_w_and_some_layers_exclude_each_other() -> None:
    with pytest.raises(InputError, match="layers"):
        LatentOptimizationParameters(space="w", layers=("coarse",))


def test_a_strength_picks_a_point_on_the_way() -> None:
    points = np.zeros((4, 1, 2), np.float32)
    points[:, 0, 0] = [0, 1, 4, 8]
    image = np.zeros((4, 4, 3), np.uint8)
    way = Trajectory((0, 10, 20, 25), points, (), (image, image + 1, image + 2, None))
    for strength, place in ((0, 0), (0.125, 1), (0.25, 2), (0.5, 4), (0.75, 6), (1, 8), (1.5, 12)):
        assert way.at(strength)[0, 0, 0] == pytest.approx(place)
        assert way.at(strength).shape == (1, 1, 2)
    seen = [way.seen(strength) for strength in (0.0, 0.13, 0.5, 1.0)]
    assert [None if one is None else int(one[0, 0, 0]) for one in seen] == [0, 1, 2, None]
    still = Trajectory((0, 5), np.ones((2, 1, 2), np.float32))
    assert np.array_equal(still.at(0.4), np.ones((1, 1, 2), np.float32))
    assert Trajectory((0,), np.ones((1, 1, 2), np.float32)).at(0.4).shape == (1, 1, 2)


def recipe(**changes: Any) -> Recipe:
    fields: dict[str, Any] = {"parameters": {"steps": 25, "keep_every": 5}}
    return Recipe("latent-optimization", Source.from_seed(2), (PromptEdit("red hair"),), **(fields | changes))


def test_the_slider_costs_one_synthesis_or_none(editor: Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    edit = editor.edit(recipe())
    assert edit.trajectory is not None
    assert edit.trajectory.latents.shape == (6, NUM_WS, W_DIM)
    assert FLAT == NUM_WS * W_DIM
    runs: list[str] = []
    whole = models_of(editor).sessions.run

    def run(graph: str, **arrays: Any) -> Any:
        runs.append(graph)
        return whole(graph, **arrays)

    monkeypatch.setattr(models_of(editor).sessions, "run", run)
    assert np.array_equal(edit.at(0.0).image, edit.reconstruction)
    assert runs == ["synthesis_w"]
    half = edit.at(0.5)
    assert runs == ["synthesis_w"] * 2
    assert edit.at(0.5) is half
    edit.preview(0.5)
    assert np.array_equal(edit.preview(0.0), edit.reconstruction)
    assert len(runs) == 2
    monkeypatch.undo()
    assert half.recipe.prompts[0].strength == 0.5
    assert np.array_equal(editor.edit(half.recipe).image, half.image)


def test_the_edit_moves_towards_the_text(editor: Editor) -> None:
    edit = editor.edit(recipe())
    assert edit.scores["clip_after"] > edit.scores["clip_before"]
    assert edit.scores["steps"] == 25
    assert edit.scores["loss_clip"] == pytest.approx(1 - edit.scores["clip_after"], abs=0.01)
    assert {"load", "source", "text", "optimise", "synthesis", "scores", "total"} <= set(edit.timing)
