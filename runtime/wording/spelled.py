"""A recipe as words again: the command line that makes it, and the lines of Python.

A command is read back before it is shown. What no option says (a face's points, places drawn by hand, an option of one
text among several) goes as a file: `limner replay edit.json`.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from limner.runtime.errors import InputError
from limner.runtime.methods.registry import find_method
from limner.runtime.recipe import TRUNCATION, PromptEdit, Recipe, Source
from limner.runtime.schema import to_dict
from limner.runtime.settings import Settings
from limner.runtime.wording.recipes import make_recipe, make_source
from limner.runtime.wording.words import with_words, word_options

__all__ = ["as_command", "as_python"]

RECIPE_FILE = "edit.json"


def as_command(recipe: Recipe, bundle: str | None = None, output: str = "edited.png") -> str:
    """The command that makes a recipe on the shipped bundle, or on the folder `bundle`, with one option a line."""
    words = _spelled(recipe)
    if words is None or _read(recipe, words) != replace(recipe, bundle=None, source=_plain(recipe.source)):
        return _joined([["limner", "replay", RECIPE_FILE], *_bundle(bundle), ["--out", output]])
    return _joined([*words, *_bundle(bundle), ["--out", output]])


def as_python(recipe: Recipe, bundle: str | None = None, output: str = "edited.png") -> str:
    """The Python that makes a recipe and writes its picture."""
    family = find_method(recipe.method).family
    folder = f'shipped_bundle("{family}")' if bundle is None else repr(bundle)
    inside = [f"{recipe.method!r}", _source(recipe.source), f"({', '.join(map(_prompt, recipe.prompts))},)"]
    named = [(name, _given(getattr(recipe, name))) for name in ("parameters", "inversion")]
    inside += [f"{name}={value!r}" for name, value in named if value]
    inside += [f"seed={recipe.seed}"] if recipe.seed else []
    imports = ["Editor", "PromptEdit", "Recipe", "Source", "write_edit"] + (["Face"] if recipe.source.face else [])
    lines = [f"from limner.runtime import {', '.join(sorted(imports))}"]
    lines += ["from limner.runtime.bundle.shipped import shipped_bundle"] if bundle is None else []
    lines += ["from limner.runtime.faces.face import Framing"] if recipe.source.face else []
    body = ",\n    ".join(inside)
    lines += ["", f"editor = Editor({folder})", f"recipe = Recipe(\n    {body},\n)"]
    return "\n".join([*lines, "edit = editor.edit(recipe)", f"write_edit({output!r}, edit)", ""])


def _joined(parts: Sequence[Sequence[str]]) -> str:
    return " \\\n  ".join(shlex.join(part) for part in parts)


def _bundle(bundle: str | None) -> list[list[str]]:
    return [] if bundle is None else [["--bundle", bundle]]


# --- a command ----------------------------------------------------------------------------------------------


def _spelled(recipe: Recipe) -> list[list[str]] | None:
    """The words of a command, an option a list; None for a recipe that options cannot say."""
    method, source = find_method(recipe.method), recipe.source
    kind = method.texts
    first = f"seed:{source.seed}" if source.path is None else source.path
    texts = [prompt.text for prompt in recipe.prompts]
    positional = [first, *(texts if kind == "text" else ())]
    if any(one.startswith("-") for one in positional):  # reads as an option
        return None
    words = [["limner", "edit", *positional], ["--method", recipe.method]]
    if kind == "concept":
        words += [["--concept", _concept(prompt)] for prompt in recipe.prompts]
    elif kind in ("mapper", "prompt"):
        words += [[f"--{kind}", text] for text in texts]
    words += [["--source-prompt", source.prompt]] if source.prompt else []
    words += [["--truncation", f"{source.truncation:.12g}"]] if source.truncation != TRUNCATION else []
    if kind != "concept":
        for option, values in _columns(recipe.prompts).items():
            if any(value is not None for value in values):
                if None in values:
                    return None
                words += [[f"--{option}", _number(value)] for value in (values[:1] if len({*values}) == 1 else values)]
    if kind == "prompt":
        words += _words(recipe.prompts[0].options)
    for option, settings in (("set", recipe.parameters), ("inversion", recipe.inversion)):
        words += [[f"--{option}", f"{name}={_json(value)}"] for name, value in _given(settings).items()]
    return words + ([["--seed", str(recipe.seed)]] if recipe.seed else [])


def _columns(prompts: Sequence[PromptEdit]) -> dict[str, list[Any]]:
    """What all texts have or none: option -> a value a text."""
    found: dict[str, list[Any]] = {"strength": [prompt.strength for prompt in prompts]}
    for name in ("neutral", "beta"):
        found[name] = [getattr(prompt.options, name, None) for prompt in prompts]
    return found


def _concept(prompt: PromptEdit) -> str:
    options = dict(_given(prompt.options))
    away = options.pop("away", False) if prompt.strength is None else prompt.strength < 0
    more = {} if prompt.strength is None else {"scale": abs(prompt.strength)}
    settings = ",".join(f"{name}={_number(value)}" for name, value in (more | options).items())
    return f"{'-' if away else '+'}{prompt.text}{':' + settings if settings else ''}"


def _words(options: Any) -> list[list[str]]:
    found = [["--word", f"{word}={_number(weight)}"] for word, weight in options.weights.items()
             if word not in options.word_windows]  # fmt: skip
    for word, window in options.word_windows.items():
        weight = f"weight={_number(options.weights[word])}," if word in options.weights else ""
        both = "-".join(map(_number, window)) if isinstance(window, (tuple, list)) else _number(window)
        found.append(["--word", f"{word}:{weight}window={both}"])
    for name in ("blend", "subtract"):
        found += [[f"--{name}", word] for word in getattr(options, name)]
    return found + ([["--kind", options.kind]] if options.kind != "auto" else [])


def _read(recipe: Recipe, words: Sequence[Sequence[str]]) -> Recipe | None:
    """The recipe that the words mean, as the command line reads them; None where they mean none."""
    given: dict[str, list[str]] = {}
    for option, value in words[1:]:
        given.setdefault(option, []).append(value)
    numbers = {name: [float(one) for one in given.get(f"--{name}", ())] for name in ("strength", "beta", "truncation")}
    texts = [*words[0][3:], *(text for name in ("mapper", "concept", "prompt") for text in given.get(f"--{name}", ()))]
    prompt = next(iter(given.get("--source-prompt", ())), None)
    try:
        source = make_source(words[0][2], next(iter(numbers["truncation"]), None), prompt)
        read = make_recipe(
            source, texts, recipe.method, given.get("--neutral"), numbers["strength"], numbers["beta"],
            given.get("--set"), None, given.get("--inversion"), int(next(iter(given.get("--seed", ())), 0)),
        )  # fmt: skip
        kind = next(iter(given.get("--kind", ())), None)
        options = word_options(given.get("--word"), given.get("--blend"), given.get("--subtract"), kind)
        return with_words(read, options, draws_maps=False)
    except InputError:
        return None


def _plain(source: Source) -> Source:
    return replace(source, sha256=None)


def _given(settings: Settings) -> dict[str, Any]:
    """What settings say, as JSON data."""
    found: dict[str, Any] = to_dict(settings)
    return found


def _json(value: Any) -> str:
    return value if isinstance(value, str) and value[:1].isalpha() else json.dumps(value, ensure_ascii=False)


def _number(value: Any) -> str:
    return repr(value) if isinstance(value, float) and not value.is_integer() else f"{value:.17g}" if isinstance(
        value, float) else str(value)  # fmt: skip


# --- Python -------------------------------------------------------------------------------------------------


def _source(source: Source) -> str:
    if source.kind == "seed":
        more = "" if source.truncation == TRUNCATION else f", truncation={source.truncation!r}"
        return f"Source.from_seed({source.seed}{more})"
    if source.kind == "prompt":
        return f"Source.from_prompt({source.prompt!r}, {source.seed})"
    if source.kind == "w_plus":
        return f"Source.from_w_plus({source.path!r})"
    if source.face is None:
        more = "" if source.prompt is None else f", prompt={source.prompt!r}"
        return f"Source.from_image({source.path!r}{more})"
    return f'Source("image", path={source.path!r}, prompt={source.prompt!r}, face={source.face!r})'


def _prompt(prompt: PromptEdit) -> str:
    parts = [repr(prompt.text)]
    parts += [] if prompt.strength is None else [f"strength={prompt.strength!r}"]
    options = _given(prompt.options)
    parts += [f"options={options!r}"] if options else []
    return f"PromptEdit({', '.join(parts)})"
