"""Recipes as commands and Python: read back, run, compared pixel by pixel."""

import json
import os
import random
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from limner.runtime import Face, PromptEdit, Recipe, Source, read_recipe
from limner.runtime.bundle.shipped import demo_file
from limner.runtime.cli import main
from limner.runtime.faces.face import Framing
from limner.runtime.methods.registry import find_method, method_names
from limner.runtime.wording.demo_list import read_demo
from limner.runtime.wording.spelled import as_command, as_python

DEMO = read_demo(demo_file()).recipes(demo_file().parent)
POINTS = ((455.0, 325.0), (545.0, 325.0), (500.0, 350.0), (485.0, 385.0), (515.0, 385.0))


def words_of(command: str) -> list[str]:
    return shlex.split(command.replace("\\\n", " "))


def planned(command: str, capsys: pytest.CaptureFixture[str]) -> Recipe:
    """The recipe of a command, by the command line itself."""
    assert main([*words_of(command)[1:], "--dry-run"]) == 0, capsys.readouterr().err
    return Recipe.from_dict(json.loads(capsys.readouterr().out)["recipe"])


@pytest.mark.parametrize("number", range(len(DEMO)))
def test_every_edit_of_the_demo(number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    command = as_command(DEMO[number])
    assert command.startswith("limner edit ")
    assert planned(command, capsys) == DEMO[number]


RECIPES = (
    Recipe("global-directions", Source.from_seed(3, truncation=0.5), (
        PromptEdit("a person's \"red\" beard", -2.5, {"neutral": "a person", "beta": 0.12}),
        PromptEdit("it costs $5 & `more`; 100%", -2.5, {"neutral": "a man", "beta": 0.12}),
    ), {"templates": ["a photo of {}", "{}, drawn"]}),
    Recipe("global-directions", Source.from_image("-odd name.png"), (PromptEdit("--x a beard"),), {"channels": 20}),
    Recipe("latent-mapper", Source.from_seed(1), (PromptEdit("beard", 0.5), PromptEdit("glasses", 1.0))),
    Recipe("latent-optimization", Source.from_image("a.png"), (PromptEdit("an old man", 0.25),),
           {"steps": 12, "space": "s"}, {"refine_steps": 5, "learning_rate": 1e-05}),
    Recipe("prompt-to-prompt", Source.from_prompt("a cat on a mat", 9), (PromptEdit("a red cat on a mat", 0.5, {
        "weights": {"red": 2.5, "mat": -1.0}, "word_windows": {"red": [0.1, 0.6], "cat": 0.4}, "blend": ["cat"],
        "subtract": ["mat:mat"], "kind": "refine"}),), {"cross_replace": [0.1, 0.8], "maps": True}),
    Recipe("sega", Source.from_image("me.png", "a man"), (
        PromptEdit("glasses", 7.5, {"threshold": 0.95, "warmup": 2}), PromptEdit("beard", options={"away": True}),
        PromptEdit("red hat", -3.0, {"weight": 0.5, "cooldown": 40})), {"steps": 50}, {"skip": 0.3}, seed=4),
)  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda one: one.method)
def test_everything_that_options_say(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                     capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name in ("-odd name.png", "a.png", "me.png"):
        Image.new("RGB", (64, 64), "white").save(name)
    command = as_command(recipe)
    if recipe.source.path == "-odd name.png":  # a name that looks like an option goes by the recipe
        assert command.startswith("limner replay")
        return
    assert command.startswith("limner edit "), command
    assert planned(command, capsys) == recipe


def test_random_settings(tmp_path: Path) -> None:
    """Whatever is asked for, a command that is shown reads back as the recipe."""
    spelled = 0
    for seed in range(300):
        recipe = random_recipe(random.Random(seed))
        command = as_command(recipe)
        spelled += command.startswith("limner edit")
        assert command.startswith(("limner edit", "limner replay edit.json"))
    assert spelled > 200


def random_recipe(rng: random.Random) -> Recipe:
    method = find_method(rng.choice(method_names()))
    text = rng.choice(["a beard", 'it\'s "x"', "red, green", "50% grey: now", "a=b", "#1 {hat}", "na\u00efve"])
    number = rng.choice([None, 1.0, 0.3, 1e-3, 1.7, -0.5 if method.name in ("global-directions", "sega") else 0.5])
    seed = rng.randrange(1000)
    source = Source.from_seed(seed) if method.family == "stylegan2" else Source.from_prompt("a cat", seed)
    parameters: dict[str, Any] = {"steps": rng.randrange(12, 60)} if hasattr(method.parameters(), "steps") else {}
    options: dict[str, Any] = {}
    if method.name == "prompt-to-prompt" and rng.random() < 0.5:
        options = {"blend": ["cat:beard"], "weights": {"cat": rng.choice([2.0, 0.1, -1.5])}}
    if method.name == "sega" and rng.random() < 0.5:
        options = {"threshold": rng.choice([0.5, 0.123456789])}
    return Recipe(method.name, source, (PromptEdit(text, number, options),), parameters)


def test_what_options_do_not_say_goes_as_a_file() -> None:
    face = Source("image", path="photo.jpg", face=Face(POINTS, Framing(1.3, 0.1)))
    assert as_command(Recipe("global-directions", face, (PromptEdit("a beard"),))) == (
        "limner replay edit.json \\\n  --out edited.png"
    )
    mixed = (PromptEdit("a beard", 2.0), PromptEdit("a hat"))
    assert as_command(Recipe("global-directions", Source.from_seed(1), mixed), "my bundle", "x.jpg") == (
        "limner replay edit.json \\\n  --bundle 'my bundle' \\\n  --out x.jpg"
    )


def shown_runs(recipe: Recipe, folder: Path) -> None:
    """A command and its Python make the same pixels."""
    subprocess.run(["sh", "-c", as_command(recipe, output="c.png")], cwd=folder, check=True, capture_output=True,
                   env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"})  # fmt: skip
    (folder / "edit.py").write_text(as_python(recipe, output="p.png"))
    subprocess.run([sys.executable, "edit.py"], cwd=folder, check=True)
    by_command, by_python = (np.asarray(Image.open(folder / name)) for name in ("c.png", "p.png"))
    np.testing.assert_array_equal(by_command, by_python)
    assert read_recipe(folder / "c.png") == read_recipe(folder / "p.png")


@pytest.mark.parametrize("method", method_names())
def test_run_as_they_are_shown(method: str, tmp_path: Path) -> None:
    recipe = next(one for one in DEMO if one.method == method)
    shown_runs(recipe, tmp_path)


def test_python_of_a_face(tmp_path: Path) -> None:
    photo = Image.new("RGB", (900, 700), "grey")
    photo.paste(Image.open(demo_file().parent / "pictures" / "test-0093.png").resize((400, 400)), (300, 150))
    photo.save(tmp_path / "photo.png")
    face = Source("image", path="photo.png", face=Face(POINTS, Framing(1.296, 0.111), "difference"))
    recipe = Recipe("global-directions", face, (PromptEdit("a person with sunglasses", 5.0, {"beta": 0.2}),))
    (tmp_path / "edit.py").write_text(as_python(recipe))
    subprocess.run([sys.executable, "edit.py"], cwd=tmp_path, check=True)
    read = read_recipe(tmp_path / "edited.png")
    assert read.source.face == face.face and Image.open(tmp_path / "edited.png").size == (900, 700)
