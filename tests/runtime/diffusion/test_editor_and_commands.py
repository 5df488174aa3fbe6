"""Recipes on a diffusion bundle through the Editor and the command line; bad input ends in one sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.engines import diffusion
from support.toy_diffusion import build_toy_diffusion_bundle

from limner.runtime import Editor, InputError, PromptEdit, Recipe, Source
from limner.runtime.bundle.loading import Bundle
from limner.runtime.bundle.shipped import demo_file
from limner.runtime.completing import completed, idle_settings, refuse_idle
from limner.runtime.errors import BundleError
from limner.runtime.methods.registry import method_names
from limner.runtime.pictures.images import write_png_atomically
from limner.runtime.provenance import metadata, read_recipe, replay, write_edit
from limner.runtime.schema import to_dict
from limner.runtime.wording.concepts import parse_concept, parse_concepts
from limner.runtime.wording.demo_list import read_demo

Run = Callable[..., Any]
PROMPTED = ("edit", "seed:7", "--source-prompt", "a cat")
SETTINGS = ("--set", "steps=6", "--set", "guidance_scale=3")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    defaults: dict[str, dict[str, Any]] = {"sega": {"steps": 8, "guidance_scale": 4.0}, "sampling": {"steps": 5}}
    return build_toy_diffusion_bundle(tmp_path_factory.mktemp("toy-diffusion") / "bundle", defaults)


@pytest.fixture
def editor(bundle: Bundle) -> Editor:
    return Editor(bundle)


@pytest.fixture(autouse=True)
def in_an_empty_folder(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIMNER_BUNDLE", str(bundle.root))
    monkeypatch.chdir(tmp_path)


def sega(source: Source, *prompts: PromptEdit, **parameters: Any) -> Recipe:
    return Recipe("sega", source, prompts or (PromptEdit("red", options={"warmup": 2}),), parameters)


# --- the editor -------------------------------------------------------------------------------------------


def test_an_edit_of_a_prompt(editor: Editor, bundle: Bundle) -> None:
    edit = editor.edit(sega(Source.from_prompt("a cat", 3)))
    assert edit.image.shape == (32, 32, 3) and edit.image.dtype == np.uint8
    np.testing.assert_array_equal(edit.source, edit.reconstruction)
    assert (edit.image != edit.source).any()
    assert edit.recipe.parameters.steps == 8 and edit.recipe.parameters.guidance_scale == 4.0
    assert edit.recipe.parameters.sampler == "ddim" and edit.recipe.bundle == bundle.digest
    plain = editor.generate(["a cat"], [3], {"steps": 8, "guidance_scale": 4.0, "sampler": "ddim"})[0]
    np.testing.assert_array_equal(edit.source, plain.image)
    assert set(edit.timing) >= {"load", "source", "sampling", "decode", "plain picture", "total"}
    assert edit.scores["pixel"] > 0.0
    np.testing.assert_array_equal(edit.at(0.0).image, edit.source)
    assert 0.0 < mean_change(edit.at(0.5).image, edit.source) < mean_change(edit.image, edit.source)
    again = editor.edit(edit.recipe)
    np.testing.assert_array_equal(again.image, edit.image)
    assert "plain picture" not in again.timing  # remembered


def counted(editor: Editor, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The graphs that an editor calls from now on, in their order."""
    called: list[str] = []
    run = editor.sessions.run

    def noted(name: str, *arguments: Any, **inputs: Any) -> Any:
        called.append(name)
        return run(name, *arguments, **inputs)

    monkeypatch.setattr(editor.sessions, "run", noted)
    return called


@pytest.mark.parametrize("method", ["sega", "prompt-to-prompt"])
def test_the_plain_picture_is_made_when_it_is_asked_for(
    bundle: Bundle, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = PromptEdit("red", options={"warmup": 2}) if method == "sega" else PromptEdit("a dog")
    recipe = Recipe(method, Source.from_prompt("a cat", 3), (prompt,), {"steps": 6})
    whole, editor = Editor(bundle).edit(recipe), Editor(bundle)
    assert {"pixel"} <= set(whole.scores)
    called = counted(editor, monkeypatch)
    edit = editor.edit(recipe, compare=False)
    assert np.abs(edit.image.astype(int) - whole.image).max() <= 1  # fewer rows a call
    assert called.count("vae_decoder") == 1 and called.count("unet") == 6 and not edit.scores and not edit.warnings
    called.clear()
    assert np.abs(edit.reconstruction.astype(int) - whole.reconstruction).max() <= 1
    np.testing.assert_array_equal(edit.source, edit.reconstruction)
    assert called.count("vae_decoder") == 1 and called.count("unet") == 6
    assert editor.edit(recipe).scores == pytest.approx(whole.scores, abs=1e-4)


def test_a_source_that_nobody_asks_for_leaves_the_calls(editor: Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt-to-Prompt, 10 steps: the source's two rows go once its attention is not needed."""
    parameters = {"steps": 10, "cross_replace": 0.4, "self_replace": 0.2}
    rows: list[int] = []
    run = editor.sessions.run

    def noted(graph: str, *arguments: Any, **inputs: Any) -> Any:
        if graph == "unet":
            rows.append(len(inputs["sample"]))
        return run(graph, *arguments, **inputs)

    monkeypatch.setattr(editor.sessions, "run", noted)
    found = []
    for compare, strength, expected in (
        (True, 0.5, [4] * 10), (False, 0.5, [4] * 4 + [2] * 16), (False, 1.0, [4] * 4 + [2] * 6)
    ):  # fmt: skip
        rows.clear()
        prompt = PromptEdit("a dog", strength=strength)
        recipe = Recipe("prompt-to-prompt", Source.from_prompt("a cat", 5), (prompt,), parameters)
        found.append(editor.edit(recipe, compare=compare))
        assert rows == expected, (compare, strength)  # a mix makes the source anew, its two rows at each step
    whole, mixed = found[0].image.astype(int), found[2].at(0.5)
    assert np.abs(found[1].image - whole).max() <= 1 and not mixed.compared
    np.testing.assert_array_equal(mixed.image, found[1].image)


@pytest.mark.parametrize("method", ["sega", "prompt-to-prompt"])
def test_an_edit_without_its_comparison_replays(editor: Editor, method: str, tmp_path: Path) -> None:
    prompt = PromptEdit("red", options={"warmup": 2}) if method == "sega" else PromptEdit("a dog", strength=0.7)
    recipe = Recipe(method, Source.from_prompt("a cat", 3), (prompt,), {"steps": 6})
    for compare in (True, False):
        edit = editor.edit(recipe, compare=compare)
        path = write_edit(tmp_path / f"{compare}.png", edit)
        assert ("limner.compare" in metadata(edit)) is not compare
        found = replay(path, editor)
        assert found.same_pixels and found.edit.compared is compare


def test_an_edit_of_a_picture(editor: Editor) -> None:
    picture = np.random.RandomState(0).randint(0, 256, (32, 40, 3), dtype=np.uint8)
    recipe = sega(Source("image", prompt="a cat"), PromptEdit("red"), PromptEdit("big", strength=-4.0))
    edit = editor.edit(recipe, given=picture)
    np.testing.assert_array_equal(edit.source, picture)
    assert edit.recipe.source.sha256 is not None
    assert to_dict(edit.recipe.inversion) == {"kind": "edit-friendly", "skip": 0.15, "guidance_scale": 3.5}
    assert set(edit.pictures) == {"mask-red", "mask-big"}
    assert mean_change(edit.at(0.0).image, edit.reconstruction) < 0.01  # the inversion gives the picture back
    assert mean_change(edit.image, edit.reconstruction) > 0.01


def test_a_batch_equals_its_parts(editor: Editor) -> None:
    recipes = [
        sega(Source.from_prompt("a cat", 1)),
        sega(Source.from_prompt("b dog", 2), PromptEdit("big"), PromptEdit("red"), steps=12),
        sega(Source.from_prompt("c", 1), PromptEdit("q", strength=-9.0, options={"warmup": 0})),
    ]
    for one, recipe in zip(editor.edit_batch(recipes), recipes, strict=True):
        assert mean_change(one.image, editor.edit(recipe).image) < 0.02


def test_presets_reach_concepts_pictures_and_inversions(tmp_path: Path) -> None:
    own = {"steps": 8, "scale": 3.0, "threshold": 0.5, "warmup": 1}
    defaults: dict[str, dict[str, Any]] = {
        "sega": own,
        "sega.pictures": {"scale": 7.0, "warmup": 0},
        "sega.inversion": {"skip": 0.25},
    }
    editor = Editor(build_toy_diffusion_bundle(tmp_path / "bundle", defaults))
    prompts = (PromptEdit("red"), PromptEdit("big", options={"away": True, "threshold": 0.9}))
    red, big = editor.edit(sega(Source.from_prompt("a cat", 3), *prompts)).recipe.prompts
    assert (red.strength, red.options.threshold, red.options.warmup) == (3.0, 0.5, 1)
    assert (big.strength, big.options.threshold, big.options.away) == (-3.0, 0.9, False)
    picture = np.random.RandomState(0).randint(0, 256, (32, 32, 3), dtype=np.uint8)
    found = editor.edit(sega(Source("image", prompt="a cat"), *prompts), given=picture).recipe
    assert [prompt.strength for prompt in found.prompts] == [7.0, -7.0]
    assert found.prompts[0].options.warmup == 0 and found.inversion.skip == 0.25
    bad = build_toy_diffusion_bundle(tmp_path / "bad", {"sega.pictures": {"scales": 7.0}})
    with pytest.raises(BundleError, match=r"defaults\.sega\.pictures\.scales"):
        Editor(bad).edit(sega(Source("image")), given=picture)


def test_edits_of_one_picture_share_its_inversion(editor: Editor) -> None:
    picture = np.random.RandomState(0).randint(0, 256, (32, 32, 3), dtype=np.uint8)
    recipes = [sega(Source("image", prompt="a cat"), PromptEdit(word), masks="noise") for word in ("red", "big", "q")]
    networks = diffusion(editor).networks
    alone = [editor.edit(recipe, given=picture) for recipe in recipes]
    before = networks.unet_rows
    together = editor.edit_batch(recipes, given=[picture] * 3)
    assert networks.unet_rows - before == (2 + 3 * 3) * 8  # 8 steps: two rows to invert, three an edit
    for one, other in zip(alone, together, strict=True):
        assert mean_change(one.image, other.image) < 0.02


def test_replays_from_a_png(editor: Editor, tmp_path: Path) -> None:
    write_edit(tmp_path / "a.png", editor.edit(sega(Source.from_prompt("a cat", 5))))
    assert read_recipe(tmp_path / "a.png").source.prompt == "a cat"
    assert replay(tmp_path / "a.png", editor).same_pixels is True


def test_a_bundle_of_the_other_family_is_named(editor: Editor, toy_folder: Path) -> None:
    with pytest.raises(InputError, match="'global-directions', a method for bundles of the family 'stylegan2'"):
        editor.edit(Recipe("global-directions", Source.from_seed(1), (PromptEdit("a beard"),)))
    with pytest.raises(InputError, match="'sega', a method for bundles of the family 'diffusion'"):
        Editor(toy_folder).edit(sega(Source.from_prompt("a cat", 1)))
    with pytest.raises(BundleError, match="family 'stylegan2'"):
        Editor(toy_folder).generate(["a"], [0])
    with pytest.raises(BundleError, match="family 'diffusion'"):
        editor.sample(0)


def mean_change(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(np.float64) - other).mean())


# --- the command line -------------------------------------------------------------------------------------


def test_concepts_on_the_command_line(limner: Run, tmp_path: Path) -> None:
    concepts = ("--concept", "+red:warmup=1,weight=2", "--concept", "-big hat:scale=3,warmup=0")
    ran = limner(*PROMPTED, *concepts, *SETTINGS, "-o", "a.png", "--sheet", "s.png", "--json")
    assert ran.code == 0, ran.err
    recipe = json.loads(ran.out)["recipe"]
    assert recipe["method"] == "sega" and recipe["source"]["prompt"] == "a cat" and recipe["source"]["seed"] == 7
    red, big = recipe["prompts"]
    assert (red["text"], red["strength"], red["options"]["warmup"], red["options"]["weight"]) == ("red", 5.0, 1, 2)
    assert (big["text"], big["strength"]) == ("big hat", -3)
    assert Image.open(tmp_path / "a.png").size == (32, 32)
    assert Image.open(tmp_path / "s.png").width > 2 * 64
    again = limner("replay", "a.png", "-o", "b.png")
    assert again.code == 0 and "the same pixels" in again.err


def test_an_edit_without_its_comparison(limner: Run, tmp_path: Path) -> None:
    words = (*PROMPTED, "--concept", "red", "--set", "steps=6", "--json")
    found = [limner(*words, "-o", tmp_path / f"{n}.png", *more) for n, more in enumerate(((), ("--no-compare",)))]
    said = [json.loads(one.out) for one in found]
    assert said[0]["scores"] and not said[1]["scores"] and "plain picture" not in said[1]["timing_ms"]
    compared, alone = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in range(2))
    np.testing.assert_array_equal(compared, alone)
    limner(*words, "-o", tmp_path / "2.png", "--no-compare", "--sheet", tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").is_file()


def test_a_picture_on_the_command_line(limner: Run, portrait: Path, tmp_path: Path) -> None:
    options = (*SETTINGS[:2], "--inversion", "skip=0.3", "--maps", "maps", "--json")
    ran = limner("edit", portrait, "--method", "sega", "--concept", "+red", *options)
    assert ran.code == 0, ran.err
    data = json.loads(ran.out)
    assert data["recipe"]["inversion"]["skip"] == 0.3
    assert data["maps"] == ["maps/mask-red.png"]
    assert Image.open(tmp_path / "maps" / "mask-red.png").size == (32, 32)


def test_samples_from_words(limner: Run, tmp_path: Path) -> None:
    words = ("--prompt", "a cat", "--prompt", "b dog", "--set", "sampler=euler")
    ran = limner("sample", *words, "--seed", 3, "-n", 3, "--json")
    assert ran.code == 0, ran.err
    data = json.loads(ran.out)
    assert data["seeds"] == [3, 4, 5] and data["parameters"]["steps"] == 5
    assert Image.open(tmp_path / "sample.png").size == (3 * 32, 2 * 32)


def test_dry_run_checks_and_runs_nothing(limner: Run, portrait: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    ran = limner("edit", portrait, "--concept", "-red", "--dry-run")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["graphs"] == ["text_encoder", "unet", "vae_decoder"]
    assert sorted(tmp_path.rglob("*")) == before


def test_demo_draws_prompts_and_pictures(limner: Run, portrait: Path, tmp_path: Path) -> None:
    edits: list[dict[str, Any]] = [{"text": "red", "strength": -6.0, "options": {"warmup": 1}, "caption": "less red"}]
    edits.append({"text": "big", "more": [{"text": "red", "strength": 3.0}]})
    rows = [{"prompt": "a cat", "seed": 4, "method": "sega", "edits": edits}]
    rows.append({"picture": portrait.name, "method": "sega", "edits": edits[1:]})
    (tmp_path / "demo.json").write_text(json.dumps({"rows": rows}))
    ran = limner("demo", "--edits", "demo.json", "--json")
    assert ran.code == 0, ran.err
    recipes = [edit["recipe"] for edit in json.loads(ran.out)["edits"]]
    assert [recipe["source"]["kind"] for recipe in recipes] == ["prompt", "prompt", "image"]
    assert [len(recipe["prompts"]) for recipe in recipes] == [1, 2, 2]
    assert Image.open(tmp_path / "out" / "demo.png").width > 2 * 64
    ran = limner("models", "--json")
    assert json.loads(ran.out)["bundles"][0]["size"] == 32


def test_the_shipped_demo_leaves_out_what_has_no_bundle(
    limner: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from limner.runtime.bundle import shipped

    rows = [{"prompt": "a cat", "method": "sega", "edits": [{"text": "red", "options": {"warmup": 1}}]}]
    rows.append({"picture": "portrait.png", "method": "global-directions", "edits": [{"text": "a person with a hat"}]})
    (tmp_path / "demo.json").write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(shipped, "demo_file", lambda: tmp_path / "demo.json")
    monkeypatch.setattr(shipped, "checkpoints_folder", lambda: tmp_path / "nothing")
    ran = limner("demo", "--json")
    assert ran.code == 0, ran.err
    assert "without global-directions: no bundle of the family stylegan2 is shipped" in ran.err
    assert [edit["recipe"]["method"] for edit in json.loads(ran.out)["edits"]] == ["sega"]
    monkeypatch.delenv("LIMNER_BUNDLE")
    ran = limner("demo", "-o", "none.png")
    assert ran.code == 2 and ran.err.startswith("error: ") and not Path("none.png").exists()


def test_the_shipped_demo_is_a_list_of_edits_by_all_methods() -> None:
    plan = read_demo(demo_file())
    assert {row.method for row in plan.rows} == set(method_names())
    assert len(plan.recipes(demo_file().parent)) == sum(len(row.edits) for row in plan.rows)
    assert all((demo_file().parent / row.picture).is_file() for row in plan.rows if row.picture)
    seeds = [(row.picture != "", row.seed) for row in plan.rows for _ in row.edits]
    for recipe, (picture, seed) in zip(plan.recipes(demo_file().parent), seeds, strict=True):
        assert (recipe.seed, recipe.source.seed) == ((seed, None) if picture else (0, seed))
    assert any(picture and seed for picture, seed in seeds)


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["parameters.steps", "got 0"], (*PROMPTED, "--concept", "+red", "--set", "steps=0")),
        (["guidance_scale", "more than 1"], (*PROMPTED, "--concept", "+red", "--set", "guidance_scale=1")),
        (["'red' both added and taken away"], (*PROMPTED, "--concept", "+red", "--concept", "-red")),
        (["'red' twice"], (*PROMPTED, "--concept", "red", "--concept", "+ red")),
        (["height", "multiples of 8; 32 is near"], (*PROMPTED, "--concept", "+red", "--set", "height=30")),
        (["threshold", "0 to 1"], (*PROMPTED, "--concept", "+red:threshold=2")),
        (["'colour=2' at character 6", "scale, threshold"], (*PROMPTED, "--concept", "+red:colour=2")),
        (["concept", "a sign and words"], (*PROMPTED, "--concept", "+")),
        (["the sign says where to"], (*PROMPTED, "--concept", "+red:scale=-2")),
        (["would never be added"], (*PROMPTED, "--concept", "+red:warmup=8")),
        (["source.kind", "'seed'", "'image' or 'prompt'"], ("edit", "seed:7", "--concept", "+red")),
        (["concept", "sega alone"], ("edit", "seed:7", "--concept", "+red", "--mapper", "beard")),
        (["source.prompt"], ("edit", "x.npy", "--concept", "+red", "--source-prompt", "a")),
        (["neutral"], (*PROMPTED, "--concept", "+red", "--neutral", "a")),
        (["inversion.kind", "'edit-friendly'"], ("edit", "a.png", "--concept", "+red", "--inversion", "kind=direct")),
        (["no file"], ("edit", "a.png", "--concept", "+red")),
        (["sampler", "did you mean 'euler'"], (*PROMPTED, "--concept", "+red", "--set", "sampler=eulr")),
        (["maps", "missing folder"], (*PROMPTED, "--concept", "+red", "--maps", "no/maps")),
        (["prompt", "--prompt TEXT"], ("sample", "--set", "steps=3")),
        (["parameters.steps", "got 0"], ("sample", "--prompt", "a", "--set", "steps=0")),
        (["method", "family 'stylegan2'"], ("edit", "seed:7", "a beard")),
    ],
)
def test_refuses(limner: Run, tmp_path: Path, words: list[str], arguments: tuple[object, ...]) -> None:
    before = sorted(tmp_path.rglob("*"))
    ran = limner(*arguments)
    assert ran.code == 2, ran
    lines = [line for line in ran.err.splitlines() if not line.startswith("bundle toy-diffusion ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), ran.err
    for word in words:
        assert word in lines[0]
    assert ran.out == "" and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("+glasses", PromptEdit("glasses")),
        ("-a red hat", PromptEdit("a red hat", options={"away": True})),
        ("beard:scale=7, threshold=0.9", PromptEdit("beard", strength=7, options={"threshold": 0.9})),
        (r"+time\: noon", PromptEdit("time: noon")),
        ("-t-shirt:weight=2", PromptEdit("t-shirt", options={"weight": 2.0, "away": True})),
    ],
)
def test_parses_concepts(given: str, expected: PromptEdit) -> None:
    assert parse_concept(given) == expected


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("+glasses:1.5", "'1.5' at character 10"),
        ("+glasses:scale=7;threshold=0.9", "';threshold=0.9' at character 17"),
        ("+glasses:Scale=7", "'Scale=7' at character 10"),
        ("+ hat:scael=3", "'scael=3' at character 7"),
        ("+glasses -beard", "'-beard' at character 10"),
        ("++glasses", "'+glasses' at character 2"),
        ("+glasses=7", "'=7' at character 9"),
        ("+glasses:", "the end at character 10"),
        ("+glasses:scale=7,", "the end at character 18"),
        ("+glasses:scale=7,scale=8", "'scale=8' at character 18"),
        ("+glasses:scale=", "the end at character 16"),
        ("+glasses:warmup=2.5", "'2.5' at character 17"),
        ("+:scale=7", "':scale=7' at character 2"),
        ("+!", "'!' at character 2"),
    ],
)
def test_concepts_that_are_refused_where_they_go_wrong(given: str, shown: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_concept(given)
    assert caught.value.field == "concept" and shown in str(caught.value.given)


def test_names_every_setting_and_the_nearest() -> None:
    with pytest.raises(InputError, match="scale, threshold, warmup, cooldown, weight; did you mean 'scale'"):
        parse_concept("+ hat:scael=3")


def test_strength_that_no_concept_takes() -> None:
    with pytest.raises(InputError, match=r"strength: got 3 for '\+red:scale=2', which has a scale of its own"):
        parse_concepts(["+red:scale=2"], [3.0])
    assert [one.strength for one in parse_concepts(["+red:scale=2", "hat"], [3.0, 3.0])] == [2.0, 3.0]
    with pytest.raises(InputError, match="strength: got 3 for"):
        parse_concepts(["+red:scale=2", "hat"], [3.0, 4.0])


# --- settings that cannot act -----------------------------------------------------------------------------

PICTURE = Source("image", prompt="a cat", path="a.png")


def prompted(options: dict[str, Any] | None = None, source: Source = PICTURE, **parameters: Any) -> Recipe:
    prompt = PromptEdit("a dog", options=options or {})
    inversion = parameters.pop("inversion", {})
    return Recipe("prompt-to-prompt", source, (prompt,), parameters, inversion)


PROMPT = Source.from_prompt("a cat", 3)
OWN = PromptEdit("red", strength=3.0, options={"warmup": 1, "threshold": 0.9})


@pytest.mark.parametrize(
    ("recipe", "field"),
    [
        (sega(PICTURE, guidance_scale=3.0), "parameters.guidance_scale"),
        (sega(PICTURE, sampler="ddim"), "parameters.sampler"),
        (sega(PICTURE, eta=0.0), "parameters.eta"),
        (sega(PICTURE, negative_prompt="blurry"), "parameters.negative_prompt"),
        (sega(PICTURE, momentum_scale=0.2), "parameters.momentum_scale"),
        (sega(PROMPT, masks="noise"), "parameters.masks"),
        (sega(PROMPT, sampler="euler", eta=0.0), "parameters.eta"),
        (sega(PROMPT, OWN, scale=3.0), "parameters.scale"),
        (sega(PROMPT, OWN, warmup=2), "parameters.warmup"),
        (sega(PROMPT, OWN, threshold=0.5), "parameters.threshold"),
        (prompted(sampler="ddim"), "parameters.sampler"),
        (prompted(eta=0.5), "parameters.eta"),
        (prompted(inversion={"skip": 0.2}), "inversion.skip"),
        (prompted(blend_threshold=0.2), "parameters.blend_threshold"),
        (prompted(keep_outside=False), "parameters.keep_outside"),
        (prompted({"blend": ["dog"]}, subtract_threshold=0.2), "parameters.subtract_threshold"),
        (prompted({"cross_replace": 0.2}, cross_replace=0.3), "parameters.cross_replace"),
    ],
)
def test_settings_that_cannot_act_are_refused(bundle: Bundle, recipe: Recipe, field: str) -> None:
    with pytest.raises(InputError, match="it would change nothing") as caught:
        refuse_idle(recipe, idle_settings(completed(bundle, recipe)))
    assert caught.value.field == field


def test_settings_that_act_are_not_refused(bundle: Bundle) -> None:
    for recipe in (
        sega(PICTURE, guidance="semantic", momentum_scale=0.2),
        sega(PROMPT, OWN, PromptEdit("big"), scale=3.0, warmup=2, threshold=0.5, sampler="tcd", eta=0.3),
        sega(PROMPT, guidance="masked", masks="noise"),
        prompted(source=PROMPT, sampler="ddim", eta=0.5),
        prompted({"blend": ["dog"]}, keep_outside=False, blend_start=0.1),
    ):
        refuse_idle(recipe, idle_settings(completed(bundle, recipe)))


def test_a_picture_keeps_no_setting_that_did_not_act(editor: Editor, tmp_path: Path) -> None:
    path = write_png_atomically(tmp_path / "a.png", editor.generate(["a cat"], [1])[0].image)
    recipe = Recipe("sega", Source.from_image(path), (PromptEdit("red"),), seed=3)
    edit = editor.edit(recipe)
    assert set(to_dict(edit.recipe.parameters)) == {
        "steps", "height", "width", "cache_interval", "guidance_until", "guidance", "masks",
    }  # fmt: skip
    written = write_edit(tmp_path / "b.png", edit)
    assert replay(written, editor).same_pixels
    older = json.loads(edit.recipe.to_json())
    older["parameters"] |= {"guidance_scale": 7.5, "sampler": "ddim", "eta": 0.0, "negative_prompt": "", "scale": 5.0}
    texts = metadata(edit) | {"limner.recipe": json.dumps(older)}
    assert replay(write_png_atomically(tmp_path / "c.png", edit.image, texts), editor).same_pixels


def test_options_are_refused_with_the_methods_that_have_use_for_them(limner: Run) -> None:
    for arguments, words in (
        (("seed:3", "a dog", "--maps", "maps"), "--maps with prompt-to-prompt, sega"),
        (("seed:3", "a dog", "--word", "dog=2"), "--word with prompt-to-prompt"),
        (("seed:3", "a dog", "--kind", "refine"), "--kind with prompt-to-prompt"),
        (
            ("seed:3", "--concept", "+red", "--source-prompt", "a cat", "--neutral", "x"),
            "global-directions, latent-opt",
        ),
        (("seed:3", "--concept", "+red", "--source-prompt", "a cat", "--refine", "3"), "a picture file with a method"),
        (("seed:3", "--concept", "+red", "--source-prompt", "a cat", "--truncation", "0.5"), "seed:NUMBER of a StyleG"),
        (("seed:3", "--concept", "+red", "--source-prompt", "a cat", "--seed", "5"), "sega with a picture file"),
        (("seed:3", "--prompt", "a dog"), "--source-prompt TEXT"),
    ):
        ran = limner("edit", *arguments)
        assert ran.code == 2 and words in ran.err and ran.err.count("\n") == 1, ran.err


def test_prompt_is_the_text_of_any_method(limner: Run) -> None:
    one = json.loads(limner(*PROMPTED, "-m", "sega", "--prompt", "+red:scale=2", "--dry-run").out)
    other = json.loads(limner(*PROMPTED, "--concept", "+red:scale=2", "--dry-run").out)
    assert one == other and one["recipe"]["prompts"][0]["strength"] == 2.0
