"""What methods declare: every setting with words and a range, the schema of recipes, help that shows a method's own."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_origin

import jsonschema
import pytest

from limner.runtime.declarations import recipe_schema, setting_rows
from limner.runtime.errors import InputError
from limner.runtime.methods.registry import find_method, method_names
from limner.runtime.recipe import PromptEdit, Recipe, Source
from limner.runtime.settings import HELP, HIGH, LOW, default_of, number_types

Run = Callable[..., Any]
DECLARED = [(name, kind) for name in method_names() for kind in ("parameters", "options", "inversion")]


@pytest.mark.parametrize(("name", "kind"), DECLARED)
def test_every_setting_has_words_and_every_number_a_range(name: str, kind: str) -> None:
    declared = getattr(find_method(name), kind)
    for one in fields(declared):
        assert one.metadata[HELP], one.name
        kinds = number_types(declared, one.name)
        if {int, float} & set(kinds) and not any(get_origin(kind) is tuple for kind in kinds):  # no window
            assert one.metadata[LOW] < one.metadata[HIGH], one.name
            default = default_of(one)
            assert default is None or one.metadata[LOW] <= default <= one.metadata[HIGH]
            for wrong in (one.metadata[LOW] - 1, one.metadata[HIGH] + 1, float("nan"), "3", True):
                with pytest.raises(InputError) as caught:
                    declared(**{one.name: wrong})
                assert caught.value.field == f"{declared.where}.{one.name}"


@pytest.mark.parametrize("name", method_names())
def test_the_schema_takes_what_the_parser_takes(name: str) -> None:
    method, schema = find_method(name), recipe_schema(find_method(name))
    jsonschema.Draft202012Validator.check_schema(schema)
    source = Source.from_prompt("a person", 3) if method.family == "diffusion" else Source.from_seed(3)
    recipe = Recipe(name, source, (PromptEdit("a person with a hat", 1.0),)).to_dict()
    jsonschema.validate(recipe, schema)
    whole = recipe | {"parameters": {one.name: json.loads(json.dumps(default_of(one)))
                                     for one in fields(method.parameters)}}  # fmt: skip
    jsonschema.validate(whole, schema)
    assert Recipe.from_dict(whole).to_dict()["parameters"].keys() == whole["parameters"].keys()
    changes: tuple[dict[str, Any], ...] = (
                   {"method": "other"}, {"extra": 1}, {"prompts": []}, {"seed": -1}, {"version": 1},
                   {"parameters": {"nonsense": 1}}, {"prompts": [{"text": "a", "strength": 1e9}]})  # fmt: skip
    for change in changes:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(recipe | change, schema)


@pytest.mark.parametrize("name", method_names())
def test_help_shows_a_methods_own_options_and_no_others(limner: Run, name: str) -> None:
    ran = limner("edit", "--method", name, "--help")
    assert ran.code == 0, ran.err
    shown = {
        flag
        for line in re.findall(r"^  (-[^ ].*?)(?:  |$)", ran.out, re.M)
        for flag in re.findall(r"--[a-z0-9-]+", line)
    }
    method = find_method(name)
    for row in setting_rows(method.parameters):
        flag = f"--{row.name.replace('_', '-')}"
        assert flag in shown or f"--set {row.name}=" in ran.out, flag
        squeezed = " ".join(ran.out.split())
        assert not row.default or f"default {row.default}]" in squeezed
    own = {f"--{row.name.replace('_', '-')}" for row in setting_rows(method.parameters)}
    others = {f"--{row.name.replace('_', '-')}" for other in method_names()
              for row in setting_rows(find_method(other).parameters)} - own  # fmt: skip
    assert not shown & (others - {"--strength", "--maps"})  # of every text, and a folder
    for option, has in (("--word", method.has("weights")), ("--neutral", method.has("neutral")),
                        ("--concept", method.texts == "concept"), ("--mapper", method.texts == "mapper"),
                        ("--refine", method.family == "stylegan2"), ("--seed", method.has("seed"))):  # fmt: skip
        assert (option in shown) == has, option


def test_a_setting_is_an_option(limner: Run, toy_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIMNER_BUNDLE", str(toy_folder))
    monkeypatch.chdir(tmp_path)
    words = ("edit", "seed:1", "a hat", "--method", "latent-optimization", "--dry-run", "--json")
    spelled = [limner(*words, *more) for more in (("--steps", "3"), ("--steps=3",), ("--set", "steps=3"))]
    assert [json.loads(ran.out)["recipe"]["parameters"] for ran in spelled] == [{"steps": 3}] * 3
    for more, said in (
        (("--steps", "0"), "parameters.steps: got 0; allowed: a whole number from 1 to 10000"),
        (("--steps", "few"), "parameters.steps"),
        (("--momentum-beta", "1"), "--momentum-beta with sega"),
        (("--steps", "3", "--set", "steps=4"), "twice"),
        (("--layers", '["fine", "fine"]'), "each once"),
    ):
        ran = limner(*words, *more)
        assert ran.code == 2 and said in ran.err, ran.err


def test_methods_are_listed_and_shown(limner: Run) -> None:
    listed = limner("methods")
    assert all(name in listed.out for name in method_names())
    assert [one["name"] for one in json.loads(limner("methods", "--json").out)] == list(method_names())
    shown = limner("methods", "show", "global-directions")
    assert "alpha" in shown.out and "-30 to 30" in shown.out and "default 4.1" in shown.out
    assert json.loads(limner("methods", "show", "sega", "--json").out) == json.loads(
        json.dumps(recipe_schema(find_method("sega")))
    )
    ran = limner("methods", "show", "segga")
    assert ran.code == 2 and "did you mean 'sega'" in ran.err


METHOD = '''
"""The mean picture of two layers: a method that another package brings, whole."""
from dataclasses import dataclass, replace

import numpy as np

from limner.runtime.methods.registry import Method
from limner.runtime.outcome import Outcome
from limner.runtime.settings import Settings, setting


@dataclass(frozen=True)
class FadeParameters(Settings):
    amount: float = setting(0.5, "how much of the picture goes", 0.0, 1.0)


def run(models, w_plus, recipes, timer, progress):
    def outcome(recipe, w):
        def render(changed):
            strength = changed.prompts[0].strength
            faded = recipe.parameters.amount * (1 if strength is None else strength)
            return models.synthesis(w) * np.float32(1 - faded)
        return Outcome(recipe, render)
    return [outcome(recipe, w[None]) for recipe, w in zip(recipes, w_plus, strict=True)]


method = Method(name="fade", summary="a picture that fades", parameters=FadeParameters, graphs=("synthesis_w",),
                check=lambda recipe: None, run=run)
'''


def test_a_new_method_is_one_file_and_one_entry_point(toy_folder: Path, tmp_path: Path, repository: Path) -> None:
    (tmp_path / "fading.py").write_text(METHOD)
    info = tmp_path / "fading-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fading\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[limner.methods]\nfade = fading:method\n")
    import os

    environment = os.environ | {"PYTHONPATH": str(tmp_path), "LIMNER_BUNDLE": str(toy_folder)}

    def limner(*words: str) -> str:
        done = subprocess.run([sys.executable, "-m", "limner.runtime", *words], cwd=tmp_path, env=environment,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "fade" in limner("methods") and "a picture that fades" in limner("methods")
    assert "how much of the picture goes" in limner("methods", "show", "fade")
    assert json.loads(limner("methods", "show", "fade", "--json"))["properties"]["parameters"]["properties"]["amount"]
    assert "--amount" in limner("edit", "--method", "fade", "--help")
    found = json.loads(limner("edit", "seed:1", "gone", "-m", "fade", "--amount", "0.25", "-o", "a.png", "--json"))
    assert found["recipe"]["parameters"] == {"amount": 0.25} and (tmp_path / "a.png").is_file()
    assert "same pixels" in subprocess.run(
        [sys.executable, "-m", "limner.runtime", "replay", "a.png"], cwd=tmp_path, env=environment,
        capture_output=True, text=True).stderr  # fmt: skip


def test_a_recipe_is_data() -> None:
    """Making one from JSON parses once, and loads no session, no engine and no method's work."""
    code = """
import sys
import limner.runtime.schema as schema
calls = []
parse = schema.from_dict
def counted(*given, **named):
    calls.append(given[0].__name__)
    return parse(*given, **named)
schema.from_dict = counted
from limner.runtime.recipe import Recipe
text = '{"method": "sega", "source": {"kind": "prompt", "prompt": "a person", "seed": 1}, "parameters": {"steps": 9},' \
       '"prompts": [{"text": "glasses", "options": {"threshold": 0.9}}, {"text": "beard", "strength": -4}]}'
Recipe.from_json(text)
print(calls, len([name for name in sys.modules if name.startswith("limner")]))
heavy = ("onnxruntime", *(f"limner.runtime.{room}" for room in ("graphs", "bundle", "guidance", "diffusion", "text")))
assert not [name for name in sys.modules if name.startswith(heavy)]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calls, _, modules = done.stdout.rpartition(" ")
    assert calls == "['Recipe']" and int(modules) <= 20, done.stdout
