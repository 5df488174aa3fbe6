"""Prompt-to-Prompt through the Editor and the command line, on a bundle of ONNX graphs with attention control."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.engines import diffusion
from support.toy_diffusion import build_toy_diffusion_bundle

from limner.runtime import Editor, PromptEdit, Recipe, Source
from limner.runtime.bundle.loading import Bundle

Run = Callable[..., Any]
SOURCE, TARGET = "a red cat", "a blue cat"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    defaults = {"prompt-to-prompt": {"steps": 6, "cross_replace": 0.6, "blend_threshold": 0.97}}
    return build_toy_diffusion_bundle(tmp_path_factory.mktemp("toy-p2p") / "bundle", defaults)


@pytest.fixture(autouse=True)
def in_an_empty_folder(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIMNER_BUNDLE", str(bundle.root))
    monkeypatch.chdir(tmp_path)


def recipe(text: str = TARGET, seed: int = 7, **options: Any) -> Recipe:
    return Recipe("prompt-to-prompt", Source.from_prompt(SOURCE, seed), (PromptEdit(text, options=options),))


def test_the_bundles_settings_are_taken(bundle: Bundle) -> None:
    edit = Editor(bundle).edit(recipe())
    assert edit.recipe.parameters.cross_replace == 0.6 and edit.recipe.parameters.steps == 6
    assert edit.recipe.parameters.self_replace == 0.4
    assert edit.recipe.bundle == bundle.digest
    np.testing.assert_array_equal(edit.source, edit.reconstruction)
    plain = Editor(bundle).generate([SOURCE], [7], {"steps": 6})[0]
    assert np.abs(edit.source.astype(int) - plain.image).max() <= 1  # the same picture in a larger batch
    assert (edit.image != edit.source).any()


def test_batches_share_the_source_and_differ_in_their_words(bundle: Bundle) -> None:
    editor = Editor(bundle)
    recipes = [recipe(), recipe(weights={"blue": 4.0}), recipe("a red cat smiling"), recipe(seed=8)]
    before = diffusion(editor).networks.unet_rows
    edits = editor.edit_batch(recipes)
    assert diffusion(editor).networks.unet_rows - before == 6 * (2 * (3 + 1) + 2 * (1 + 1))
    for one, edit in zip(recipes, edits, strict=True):
        alone = editor.edit(one)
        assert np.abs(alone.image.astype(int) - edit.image).max() <= 1
    assert [edit.recipe.prompts[0].options.kind for edit in edits] == ["replace", "replace", "refine", "replace"]


def test_strength_slider(bundle: Bundle) -> None:
    edit = Editor(bundle).edit(recipe())
    np.testing.assert_array_equal(edit.at(0.0).image, edit.source)
    half = edit.at(0.5)
    np.testing.assert_array_equal(Editor(bundle).edit(half.recipe).image, half.image)


def test_local_edit_leaves_the_rest_alone(bundle: Bundle) -> None:
    edit = Editor(bundle).edit(recipe(blend=("cat",), weights={"blue": 5.0}))
    mask = edit.pictures["mask"][:, :, 0] > 0
    assert 0 < mask.mean() < 1
    np.testing.assert_array_equal(edit.image[~mask], edit.source[~mask])


def test_edit_on_the_command_line(limner: Run, tmp_path: Path) -> None:
    words = ("--word", "blue:weight=2,window=0.5", "--blend", "cat", "--maps", "maps", "--sheet", "sheet.png")
    ran = limner("edit", "seed:7", "--source-prompt", SOURCE, "--prompt", TARGET, *words, "-o", "out.png", "--json")
    assert ran.code == 0, ran.err
    data = json.loads(ran.out)
    options = data["recipe"]["prompts"][0]["options"]
    assert options["weights"] == {"blue": 2.0} and options["word_windows"] == {"blue": 0.5}
    assert options["blend"] == ["cat"] and options["kind"] == "replace"
    names = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert names == ["maps-edit-steps.png", "maps-source-steps.png", "maps-words.png", "mask.png"]
    for path in [*(tmp_path / "maps").iterdir(), tmp_path / "out.png", tmp_path / "sheet.png"]:
        assert np.asarray(Image.open(path)).std() > 0, path
    again = limner("replay", "out.png", "--json")
    assert again.code == 0 and json.loads(again.out)["same_pixels"] is True


def test_reweighting_needs_no_second_prompt(limner: Run) -> None:
    ran = limner("edit", "seed:7", "--source-prompt", SOURCE, "--word", "red=-2", "-o", "out.png", "--json")
    assert ran.code == 0, ran.err
    prompt = json.loads(ran.out)["recipe"]["prompts"][0]
    assert prompt["text"] == SOURCE and prompt["options"]["kind"] == "reweight"


def test_picture_on_the_command_line(limner: Run, portrait: Path) -> None:
    prompts = ("--source-prompt", SOURCE, "--prompt", TARGET)
    ran = limner("edit", portrait, "--method", "prompt-to-prompt", *prompts, "-o", "out.png", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["recipe"]["inversion"]["kind"] == "direct"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("--prompt", "a blue dog", "--word", "cat=2"),
            "prompts.options.weights: got 'cat', which is not in 'a blue dog'",
        ),
        (("--prompt", "a dog", "--kind", "replace"), "prompts.text: got 'a dog' of 2 words; allowed: 3 words"),
        (("--prompt", SOURCE), "prompts.text: got 'a red cat', the source's own text, and no weights"),
        (
            ("--prompt", "a blue " + "x" * 70 + " hat", "--blend", "hat"),
            "prompts.options.blend: got 'hat', which is not in",
        ),
    ],
)
def test_bad_words_leave_nothing_behind(limner: Run, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    ran = limner("edit", "seed:7", "--source-prompt", SOURCE, *arguments, "--maps", "maps", "-o", "out.png")
    assert ran.code == 2 and ran.out == "" and words in ran.err
    assert [line for line in ran.err.splitlines() if line.startswith("error:")] == ran.err.splitlines()[-1:]
    assert list(tmp_path.iterdir()) == []


def test_dry_run_checks_the_words(limner: Run) -> None:
    known = ("edit", "seed:7", "--source-prompt", SOURCE, "--prompt", TARGET, "--dry-run")
    ran = limner(*known)
    assert ran.code == 0 and "unet" in json.loads(ran.out)["graphs"], ran.err
    ran = limner(*known, "--word", "dog=2")
    assert ran.code == 2 and "prompts.options.weights: got 'dog'" in ran.err
    ran = limner(*known, "--prompt", "a red dog")
    assert ran.code == 2 and "prompts: got 2 texts; allowed: one text with prompt-to-prompt" in ran.err
