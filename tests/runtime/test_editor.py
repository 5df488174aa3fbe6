"""The Editor on a toy bundle: sources, inversion, presets, provenance, replay, and bad input."""

import json
import subprocess
import sys
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.engines import stylegan2
from support.toy_bundle import NUM_WS, SIZE, W_DIM, ToyWeights, toy_fixture  # noqa: F401

from limner.runtime import editor as editor_module
from limner.runtime import provenance
from limner.runtime.bundle.loading import Bundle
from limner.runtime.bundle.manifest import BundleManifest
from limner.runtime.bundle.presets import presets as read_presets
from limner.runtime.edit import Edit
from limner.runtime.editor import Editor
from limner.runtime.errors import BundleError, GraphError, InputError, MissingGraphError, ProviderError
from limner.runtime.methods.global_directions import DirectionOptions
from limner.runtime.methods.registry import find_method
from limner.runtime.outcome import Outcome
from limner.runtime.pictures.images import read_picture, read_texts, to_u8, write_png_atomically
from limner.runtime.recipe import PromptEdit, Recipe, Source
from limner.runtime.schema import to_dict
from limner.runtime.settings import InversionParameters
from limner.runtime.stylegan2.inversion import invert
from limner.runtime.text.templates import STYLECLIP_TEMPLATES

Toy = tuple[Bundle, ToyWeights]
BEARD = PromptEdit("a person with a beard")


@dataclass(frozen=True)
class ManifestWithPresets(BundleManifest):
    """A manifest with presets, however the schema of the day spells it."""

    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)
    neutrals: dict[str, str] = field(default_factory=dict)


def with_presets(bundle: Bundle, **presets: Any) -> Bundle:
    values = {one.name: getattr(bundle.manifest, one.name) for one in fields(bundle.manifest)}
    return replace(bundle, manifest=ManifestWithPresets(**(values | presets)))


@pytest.fixture(scope="module")
def editor(toy: Toy) -> Editor:
    return Editor(toy[0], threads=1)


@pytest.fixture
def portrait(tmp_path: Path, editor: Editor) -> Path:
    """A picture that the toy generator did not make, but that is not far from one."""
    image = editor.sample(11).image.astype(int) + np.random.RandomState(0).randint(-6, 7, (SIZE, SIZE, 3))
    return write_png_atomically(tmp_path / "portrait.png", np.clip(image, 0, 255).astype(np.uint8))


def global_recipe(source: Source, **changes: Any) -> Recipe:
    return Recipe("global-directions", source, (BEARD,), **changes)


def optimise_recipe(source: Source, **changes: Any) -> Recipe:
    return Recipe("latent-optimization", source, (BEARD,), **({"parameters": {"steps": 12}} | changes))


def test_a_seed_is_numpy_s_random_state(toy: Toy, editor: Editor) -> None:
    _, weights = toy
    z = np.random.RandomState(4).randn(1, 8).astype(np.float32)
    w = weights.latent_avg + 0.5 * (z @ weights.mapping - weights.latent_avg)
    sample = editor.sample(4, 0.5)
    assert sample.w_plus.shape == (1, NUM_WS, W_DIM)
    np.testing.assert_allclose(sample.w_plus, np.repeat(w[:, None], NUM_WS, 1), atol=1e-6)
    assert sample.image.dtype == np.uint8
    assert sample.image.shape == (SIZE, SIZE, 3)
    np.testing.assert_allclose(editor.sample(4, 0.0).w_plus[0], np.tile(weights.latent_avg, (NUM_WS, 1)), atol=1e-6)
    for seed, truncation in ((-1, 0.7), (2**32, 0.7), (1, 1.5)):
        with pytest.raises(InputError):
            editor.sample(seed, truncation)


def test_an_edit_is_complete(editor: Editor) -> None:
    edit = editor.edit(global_recipe(Source.from_seed(1)))
    assert edit.recipe.bundle == editor.bundle.digest
    assert edit.recipe.prompts == (PromptEdit(BEARD.text, 4.1, DirectionOptions("a person", 0.15)),)
    assert to_dict(edit.recipe.parameters) == {"templates": None}  # alpha and beta are those of the text
    assert {"clip_before", "clip_after", "identity", "pixel", "channels"} == set(edit.scores)
    assert {"load", "source", "text", "affine", "synthesis", "scores", "total"} == set(edit.timing)
    assert all(isinstance(value, float) for value in (*edit.scores.values(), *edit.timing.values()))
    json.dumps([edit.scores, edit.timing, edit.recipe.to_dict()])
    assert np.array_equal(edit.source, edit.reconstruction)
    assert np.array_equal(edit.source, editor.sample(1).image)


def test_inversion_by_the_encoder_and_refinement(editor: Editor, tmp_path: Path) -> None:
    vivid = to_u8(stylegan2(editor).models.synthesis(4 * editor.sample(11, 1.0).w_plus))[
        0
    ]  # the toy encoder sees no tanh
    picture = write_png_atomically(tmp_path / "vivid.png", vivid)
    coarse = editor.invert(picture)
    fine = editor.invert(
        picture, InversionParameters(refine_steps=60, learning_rate=0.1, l2_weight=0.0, feature_steps=0)
    )
    assert coarse.steps == 0
    assert 0 < fine.steps <= 60
    assert fine.scores["pixel"] < 0.5 * coarse.scores["pixel"]
    assert fine.scores["identity"] > coarse.scores["identity"]
    for found in (coarse, fine):
        assert found.w_plus.shape == (1, NUM_WS, W_DIM)
        assert np.array_equal(found.picture, vivid)
        assert np.array_equal(found.reconstruction, to_u8(stylegan2(editor).models.synthesis(found.w_plus))[0])
        assert {"pixel", "clip", "identity"} == set(found.scores)
    assert editor.invert(picture) is coarse  # remembered
    np.testing.assert_array_equal(editor.invert(vivid).w_plus, coarse.w_plus)


def test_a_refinement_is_never_worse_than_the_encoder(editor: Editor, portrait: Path) -> None:
    parameters = InversionParameters(refine_steps=20, learning_rate=10.0, clip_weight=0.0, identity_weight=0.0)
    assert editor.invert(portrait, parameters).scores["pixel"] <= editor.invert(portrait).scores["pixel"]


def test_inversion_of_a_batch_is_that_of_each(editor: Editor) -> None:
    images = np.concatenate([stylegan2(editor).models.synthesis(editor.sample(seed, 1.0).w_plus) for seed in range(3)])
    parameters = InversionParameters(refine_steps=5, feature_steps=3)
    together = invert(stylegan2(editor).models, images, parameters)
    for row, found in enumerate(together):
        alone = invert(stylegan2(editor).models, images[row : row + 1], parameters)[0]
        np.testing.assert_allclose(found.w_plus, alone.w_plus, atol=1e-4)
        assert found.features is not None and alone.features is not None
        np.testing.assert_allclose(found.features.offset, alone.features.offset, atol=1e-4)


def test_an_image_source(editor: Editor, portrait: Path) -> None:
    edit = editor.edit(global_recipe(Source.from_image(portrait), inversion={"refine_steps": 4}))
    assert edit.recipe.source.sha256 == read_picture(portrait, SIZE).sha256
    assert edit.recipe.inversion.refine_steps == 4
    assert set(to_dict(edit.recipe.inversion)) == {one.name for one in fields(InversionParameters)}
    assert np.array_equal(edit.source, read_picture(portrait, SIZE).image_u8)
    assert "inversion_identity" in edit.scores


def test_a_w_plus_source_from_a_file_and_an_array(editor: Editor, tmp_path: Path) -> None:
    w_plus = editor.sample(6).w_plus[0]
    np.save(tmp_path / "w.npy", w_plus)
    seed = editor.edit(global_recipe(Source.from_seed(6)))
    file = editor.edit(global_recipe(Source.from_w_plus(tmp_path / "w.npy")))
    array = editor.edit(global_recipe(Source("w_plus")), given=w_plus)
    assert np.array_equal(seed.image, file.image)
    assert np.array_equal(seed.image, array.image)


def test_a_batch_of_both_methods_keeps_its_order(editor: Editor) -> None:
    recipes = []
    for seed in range(4):
        recipes += [optimise_recipe(Source.from_seed(seed)), global_recipe(Source.from_seed(seed))]
    steps: list[int] = []
    edits = editor.edit_batch(recipes, lambda step, *_: steps.append(step), batch=3)
    assert len(steps) == 2 * 12  # 3 and 1 at once
    for recipe, edit in zip(recipes, edits, strict=True):
        assert edit.recipe.method == recipe.method
        assert edit.recipe.source == recipe.source
        assert np.abs(editor.edit(recipe).image.astype(int) - edit.image).max() <= 1
    assert editor.edit_batch([]) == []


def test_presets_of_the_bundle_then_the_recipe(toy: Toy) -> None:
    presets = {
        "latent-optimization": {"steps": 7, "l2_weight": 0.01},
        "global-directions": {"alpha": 6.0, "templates": list(STYLECLIP_TEMPLATES[:3])},
        "inversion": {"refine_steps": 2},
    }
    bundle = with_presets(toy[0], defaults=presets, neutrals={"with a beard": "", "*": "a portrait"})
    editor = Editor(bundle, threads=1)
    edit = editor.edit(Recipe("latent-optimization", Source.from_seed(1), (BEARD,), {"l2_weight": 0.02}))
    assert edit.recipe.parameters.steps == 7
    assert edit.recipe.parameters.l2_weight == 0.02
    edit = editor.edit(global_recipe(Source.from_seed(1)))
    assert edit.recipe.prompts[0] == PromptEdit(BEARD.text, 6.0, DirectionOptions("a person", 0.15))
    assert Editor(toy[0], threads=1).edit(edit.recipe).image.tolist() == edit.image.tolist()  # the recipe has it all
    assert read_presets(editor.bundle, InversionParameters, "inversion").refine_steps == 2
    bad = with_presets(toy[0], defaults={"global-directions": {"alpha": 1e6}})
    with pytest.raises(BundleError) as caught:
        Editor(bad, threads=1).edit(global_recipe(Source.from_seed(1)))
    assert "defaults.global-directions" in caught.value.field


@pytest.mark.parametrize("make", [global_recipe, optimise_recipe])
def test_a_picture_replays_to_the_same_pixels(toy: Toy, portrait: Path, tmp_path: Path, make: Any) -> None:
    sources = [Source.from_seed(3), Source.from_image(portrait)]
    for place, source in enumerate(sources):
        first = Editor(toy[0], threads=1).edit(make(source))
        for edit in (first, first.at(0.4)):
            path = provenance.write_edit(tmp_path / f"edit{place}.png", edit)
            again = provenance.replay(path, Editor(toy[0], threads=1))
            assert again.same_pixels is True
            assert np.array_equal(again.edit.image, edit.image)
            assert np.array_equal(read_picture(path, SIZE).image_u8, edit.image)
            assert provenance.read_recipe(path) == edit.recipe


def test_what_the_png_says(editor: Editor, tmp_path: Path, portrait: Path) -> None:
    prompts = (PromptEdit("une barbe à l'œil 日本", options={"neutral": "a face"}),)
    edit = editor.edit(Recipe("global-directions", Source.from_image(portrait), prompts, {"beta": 0.0}))
    texts = read_texts(provenance.write_edit(tmp_path / "edit.png", edit))
    assert Recipe.from_json(texts["limner.recipe"]) == edit.recipe
    assert texts["limner.bundle"] == editor.bundle.digest
    assert texts["limner.source"] == edit.recipe.source.sha256
    assert texts["limner.provider"] == "cpu"


def test_replay_refuses(editor: Editor, tmp_path: Path, portrait: Path) -> None:
    def field_of(path: Path, **options: Any) -> str:
        with pytest.raises(InputError) as caught:
            provenance.replay(path, editor, **options)
        return caught.value.field

    assert field_of(portrait) == "picture"  # no recipe
    assert field_of(tmp_path / "nothing.png") == "picture"
    edit = editor.edit(global_recipe(Source.from_image(portrait)))
    path = provenance.write_edit(tmp_path / "edit.png", edit)
    other = write_png_atomically(tmp_path / "other.png", edit.image)
    assert field_of(path, source=other) == "source.sha256"
    moved = portrait.rename(tmp_path / "moved.png")
    assert field_of(path) == "source"
    assert provenance.replay(path, editor, source=moved).same_pixels is True
    foreign = replace(edit, recipe=replace(edit.recipe, bundle="0" * 64))
    assert field_of(provenance.write_edit(tmp_path / "foreign.png", foreign)) == "bundle"
    broken = write_png_atomically(tmp_path / "broken.png", edit.image, {"limner.recipe": '{"method": "x"}'})
    assert field_of(broken) == "method"
    seeded = provenance.write_edit(tmp_path / "seed.png", editor.edit(global_recipe(Source.from_seed(1))))
    assert field_of(seeded, source=moved) == "source"


def test_no_file_is_left_half_written(editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit = editor.edit(global_recipe(Source.from_seed(1)))
    path = provenance.write_edit(tmp_path / "edit.png", edit)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(InputError) as caught:
        provenance.write_edit(path, edit.at(0.5))
    assert caught.value.field == "output"
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["edit.png"]
    with pytest.raises(InputError):
        provenance.write_edit(tmp_path / "missing" / "edit.png", edit)


def test_nan_never_reaches_a_picture(editor: Editor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bad = np.full((1, NUM_WS, W_DIM), np.nan, np.float32)
    np.save(tmp_path / "bad.npy", bad)
    with pytest.raises(InputError) as caught:
        editor.edit(global_recipe(Source.from_w_plus(tmp_path / "bad.npy")))
    assert "NaN" in str(caught.value)
    with pytest.raises(GraphError):
        stylegan2(editor).models.synthesis(bad)

    def run(models: Any, w_plus: Any, recipes: Any, timer: Any, progress: Any) -> list[Outcome]:
        image: NDArray[np.float32] = np.full((1, 3, SIZE, SIZE), np.nan, np.float32)
        return [Outcome(recipe, lambda _: image) for recipe in recipes]

    method = replace(find_method("global-directions"), run=run)
    monkeypatch.setattr(editor_module, "find_method", lambda _: method)
    monkeypatch.setattr(editor, "_scores", lambda *_: {})
    with pytest.raises(GraphError):
        editor.edit(global_recipe(Source.from_seed(1)))


@pytest.mark.parametrize(
    ("source", "given", "field"),
    [
        (Source.from_image("/nowhere/a.png"), None, "source"),
        (Source("image"), None, "source.path"),
        (Source("image"), np.zeros((4, 4, 3), np.uint8), "source"),
        (Source("image"), np.zeros((SIZE, SIZE, 3), np.float32), "source"),
        (Source("w_plus"), None, "source.path"),
        (Source("w_plus"), np.zeros((2, 2), np.float32), "source"),
        (Source("w_plus"), np.zeros((NUM_WS, W_DIM), np.int64), "source"),
        (Source.from_w_plus("/nowhere/w.npy"), None, "source.path"),
        (Source.from_seed(1), np.zeros((NUM_WS, W_DIM), np.float32), "source"),
    ],
)
def test_a_bad_source_is_named(editor: Editor, source: Source, given: Any, field: str) -> None:
    with pytest.raises(InputError) as caught:
        editor.edit(global_recipe(source), given=given)
    assert caught.value.field == field


def test_a_file_that_is_no_array_is_named(editor: Editor, tmp_path: Path) -> None:
    texts = {"text.npy": b"hello", "empty.npy": b"", "pickle.npy": b"\x80\x04N."}
    for name, data in texts.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError) as caught:
            editor.edit(global_recipe(Source.from_w_plus(tmp_path / name)))
        assert caught.value.field == "source.path"
    np.savez(tmp_path / "two.npy.npz", a=np.zeros(2))
    with pytest.raises(InputError):
        editor.edit(global_recipe(Source.from_w_plus(tmp_path / "two.npy.npz")))


def test_a_missing_graph_and_provider_are_named(toy: Toy) -> None:
    bundle, _ = toy
    graphs = {name: graph for name, graph in bundle.manifest.graphs.items() if name != "latent_gradient"}
    poor = replace(bundle, manifest=replace(bundle.manifest, graphs=graphs))
    with pytest.raises(MissingGraphError, match="latent_gradient"):
        Editor(poor, threads=1).edit(optimise_recipe(Source.from_seed(1)))
    assert Editor(poor, threads=1).edit(global_recipe(Source.from_seed(1))).scores
    with pytest.raises(ProviderError):
        Editor(bundle, provider="abacus")


def test_without_score_networks_there_are_fewer_scores(toy: Toy) -> None:
    bundle, _ = toy
    wanted = ("mapping", "affine", "synthesis_w", "synthesis_s", "clip_text")
    graphs = {name: bundle.manifest.graphs[name] for name in wanted}
    poor = replace(bundle, manifest=replace(bundle.manifest, graphs=graphs))
    edit: Edit = Editor(poor, threads=1).edit(global_recipe(Source.from_seed(1)))
    assert set(edit.scores) == {"pixel", "channels"}


def test_warm_loads_what_a_method_needs(toy: Toy) -> None:
    editor = Editor(toy[0], threads=1)
    loaded = editor.warm("global-directions")
    assert {"affine", "synthesis_s", "clip_text", "encoder", "mapping"} <= set(loaded)
    assert "latent_gradient" not in loaded


def test_the_runtime_edits_without_torch(toy: Toy, tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["torch"] = None
from limner.runtime.editor import Editor
from limner.runtime.provenance import write_edit
from limner.runtime.recipe import PromptEdit, Recipe, Source
recipe = Recipe("latent-optimization", Source.from_seed(1), (PromptEdit("a hat"),), {{"steps": 2}})
write_edit({str(tmp_path / "a.png")!r}, Editor({str(toy[0].root)!r}).edit(recipe))
assert not [name for name in sys.modules if name.startswith(("limner.training", "limner.export", "onnx."))]
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "a.png").exists()
