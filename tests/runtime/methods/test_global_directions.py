"""Global directions against an independent float64 reference, and errors where upstream divides by zero."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.engines import stylegan2
from support.toy_bundle import EDITABLE, SIZE, ToyWeights, toy_fixture  # noqa: F401

from limner.runtime.bundle.loading import Bundle
from limner.runtime.bundle.presets import derive_neutral
from limner.runtime.editor import Editor
from limner.runtime.errors import BundleError, InputError
from limner.runtime.recipe import PromptEdit, Recipe, Source
from limner.runtime.stylegan2.global_directions import channel_direction, edit_styles, editable_channels, text_direction
from limner.runtime.text.templates import STYLECLIP_TEMPLATES
from limner.runtime.text.tokenizer import Tokenizer

Toy = tuple[Bundle, ToyWeights]
TOLERANCE = 2e-6  # fp32 against float64 over sums of 12 and 35 terms


def reference_text(bundle: Bundle, weights: ToyWeights, text: str) -> NDArray[np.float64]:
    """The 79 templates, each normalised, then the mean, normalised."""
    tokenizer = Tokenizer.from_bundle(bundle)
    total = np.zeros(weights.words.shape[1])
    for template in STYLECLIP_TEMPLATES:
        ids = tokenizer.encode(template.replace("{}", text))[0]
        features = weights.words.astype(np.float64)[ids].mean(0)
        total += features / np.linalg.norm(features)
    return np.asarray(total / np.linalg.norm(total))


def reference_direction(weights: ToyWeights, dt: NDArray[np.float64], beta: float) -> NDArray[np.float64]:
    """Channel by channel, as the paper says it."""
    r = [float(np.dot(row.astype(np.float64), dt)) for row in weights.relevance]
    largest = max(abs(value) for value in r)
    return np.array(
        [
            float(sigma) * value / largest if editable and abs(value) >= beta else 0.0
            for value, sigma, editable in zip(r, weights.style_std, EDITABLE, strict=True)
        ]
    )


def reference_edit(toy: Toy, seed: int, prompts: list[tuple[str, str, float, float]]) -> NDArray[np.float64]:
    """The whole way from a seed to the picture [3,H,W] in float64."""
    bundle, weights = toy
    z = np.random.RandomState(seed).randn(1, weights.mapping.shape[0])
    w = weights.latent_avg + 0.7 * (z @ weights.mapping - weights.latent_avg)
    s = np.tile(w, 6) @ weights.affine.astype(np.float64)
    for text, neutral, alpha, beta in prompts:
        dt = reference_text(bundle, weights, text) - reference_text(bundle, weights, neutral)
        s = s + alpha * reference_direction(weights, dt / np.linalg.norm(dt), beta)
    return np.asarray(np.tanh(s @ weights.synthesis.astype(np.float64)).reshape(3, SIZE, SIZE))


@pytest.fixture(scope="module")
def editor(toy: Toy) -> Editor:
    return Editor(toy[0], threads=1)


def recipe(*prompts: PromptEdit, **changes: Any) -> Recipe:
    return Recipe("global-directions", Source.from_seed(5), prompts, **changes)


@pytest.mark.parametrize(
    "prompts",
    [
        [("a person with a beard", "a person", 4.1, 0.15)],
        [("a person with a beard", "a person", -3.0, 0.0)],
        [("a beard", "a face", 2.0, 0.3), ("red hair", "hair", 5.0, 0.1), ("a smile", "a frown", -1.0, 0.2)],
    ],
)
def test_against_the_float64_reference(
    toy: Toy,
    editor: Editor,
    prompts: list[tuple[str, str, float, float]],
) -> None:
    expected = reference_edit(toy, 5, prompts)
    edit = editor.edit(
        recipe(*(PromptEdit(text, alpha, {"neutral": neutral, "beta": beta}) for text, neutral, alpha, beta in prompts))
    )
    off = np.abs(edit.image.astype(np.float64).transpose(2, 0, 1) - (np.clip(expected, -1, 1) + 1) * 127.5)
    assert off.max() <= 0.5 + 1e-2  # rounding to 256 levels
    assert np.abs(edit.image.astype(int) - edit.reconstruction).max() > 3  # it did something


def test_the_direction_against_the_reference(toy: Toy) -> None:
    bundle, weights = toy
    dt = text_direction(
        reference_text(bundle, weights, "a beard").astype(np.float32),
        reference_text(bundle, weights, "a face").astype(np.float32),
    )
    for beta in (0.0, 0.1, 0.25):
        found = channel_direction(weights.relevance, weights.style_std, dt, editable_channels(bundle), beta=beta)
        expected = reference_direction(weights, dt.astype(np.float64), beta)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)
        assert not found[~EDITABLE].any()
        assert np.array_equal(found == 0, expected == 0)


def test_to_rgb_is_never_edited_even_if_the_file_has_relevance_for_it(toy: Toy) -> None:
    bundle, weights = toy
    relevance = np.where(EDITABLE[:, None], weights.relevance, np.float32(5.0))
    dt = np.eye(relevance.shape[1], dtype=np.float32)[0]
    found = channel_direction(relevance, weights.style_std, dt, editable_channels(bundle), beta=0.0)
    assert np.array_equal(editable_channels(bundle), EDITABLE)
    assert not found[~EDITABLE].any()
    assert found[EDITABLE].any()


def test_top_channels_instead_of_beta(toy: Toy, editor: Editor) -> None:
    weights = toy[1]
    dt = np.eye(weights.relevance.shape[1], dtype=np.float32)[3]
    size = np.abs(weights.relevance @ dt) * EDITABLE
    found = channel_direction(weights.relevance, weights.style_std, dt, EDITABLE, beta=0.99, channels=4)
    assert set(np.flatnonzero(found)) == set(np.argsort(-size)[:4])
    edit = editor.edit(recipe(PromptEdit("a beard", options={"neutral": "a face"}), parameters={"channels": 7}))
    assert edit.scores["channels"] == 7
    assert edit.recipe.prompts[0].options.beta is None


def test_a_beta_that_leaves_no_channel_names_the_largest_that_would(toy: Toy, editor: Editor) -> None:
    with pytest.raises(InputError) as caught:
        editor.edit(recipe(PromptEdit("a beard", options={"neutral": "a face", "beta": 0.99})))
    assert caught.value.field == "beta"
    limit = float(caught.value.allowed.split()[2])
    edit = editor.edit(recipe(PromptEdit("a beard", options={"neutral": "a face", "beta": limit})))
    assert edit.scores["channels"] == 1


def test_texts_that_clip_cannot_tell_apart_are_refused(editor: Editor) -> None:
    for neutral in ("a&nbsp;beard", "a &amp;amp; b"):
        target = "a beard" if "nbsp" in neutral else "a & b"
        with pytest.raises(InputError) as caught:
            editor.edit(recipe(PromptEdit(target, options={"neutral": neutral})))
        assert caught.value.field == "prompts.options.neutral"


def test_a_text_of_too_many_tokens_is_cut_off_and_said(editor: Editor) -> None:
    found = editor.edit(recipe(PromptEdit("long " * 59)))
    assert any("tokens; these words are not read: " in warning for warning in found.warnings)


def test_strength_zero_changes_nothing_and_at_scales(editor: Editor) -> None:
    edit = editor.edit(recipe(PromptEdit("a beard", strength=6.0, options={"neutral": "a face"})))
    none = edit.at(0.0)
    assert np.abs(none.image.astype(int) - edit.reconstruction).max() <= 1
    half = edit.at(0.5)
    assert half.recipe.prompts[0].strength == 3.0
    assert np.array_equal(editor.edit(half.recipe).image, half.image)
    assert edit.at(1.0) is edit
    assert edit.at(0.5) is half
    with pytest.raises(InputError) as caught:
        edit.at(9.0)  # alpha 54
    assert caught.value.field == "prompts.strength"


def test_a_batch_is_the_same_as_one_by_one(editor: Editor) -> None:
    recipes = [replace(recipe(PromptEdit("a beard")), source=Source.from_seed(seed)) for seed in range(5)]
    together = editor.edit_batch(recipes, batch=3)
    for one, edit in zip(recipes, together, strict=True):
        assert np.abs(editor.edit(one).image.astype(int) - edit.image).max() <= 1


def test_edit_styles_adds_up() -> None:
    styles = np.zeros((2, 3), np.float32)
    ones = np.ones(3, np.float32)
    assert np.array_equal(edit_styles(styles, [ones, 2 * ones], [1.5, -1.0]), np.full((2, 3), -0.5, np.float32))
    assert not styles.any()


def test_text_features_are_remembered(editor: Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    editor.edit(recipe(PromptEdit("a green hat", options={"neutral": "a hat"})))

    def refuse(*_: Any) -> None:
        raise AssertionError("the text tower ran again")

    monkeypatch.setattr(stylegan2(editor).models, "clip_text", refuse)
    editor.edit(recipe(PromptEdit("a green hat", strength=2.0, options={"neutral": "a hat"})))


@pytest.mark.parametrize(
    ("text", "table", "neutral"),
    [
        ("a man with a beard", {}, "a person"),
        ("a man with a beard", {"*": "a portrait"}, "a portrait"),
        ("A man with a beard", {"with a beard": ""}, "a man"),
        ("a blonde man, smiling", {"blonde": "", "smiling": ""}, "a man"),
        ("red hair", {"red": "brown"}, "brown hair"),
        ("smiling", {"smiling": ""}, "a person"),
        ("bearded", {"beard": ""}, "a person"),
        ("bald man", {"bald": "", "bald man": "a man"}, "a man"),
    ],
)
def test_the_neutral_text_is_derived(text: str, table: dict[str, str], neutral: str) -> None:
    assert derive_neutral(text, table) == neutral


def test_a_neutral_text_that_would_be_the_target_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        derive_neutral("A person", {})
    assert caught.value.field == "prompts.options.neutral"


def test_a_bundle_without_relevance_is_named(toy: Toy) -> None:
    bundle = replace(toy[0], manifest=replace(toy[0].manifest, relevance=None))
    with pytest.raises(BundleError) as caught:
        Editor(bundle, threads=1).edit(recipe(PromptEdit("a beard")))
    assert caught.value.field == "relevance"
