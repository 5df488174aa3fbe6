"""What people and programs may hand to the parsers, at random: one sentence or a result, never another error.

Seeded, so that a failure comes again; LIMNER_FUZZ=100 makes a hundred times as many (`make test-fuzz`).
"""

import contextlib
import io
import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.toy_bundle import ToyWeights, toy_fixture  # noqa: F401

from limner.runtime.arrays import read_array
from limner.runtime.attention.words import find_word, pair_tokens, read_prompt
from limner.runtime.bundle.loading import Bundle, parse_manifest
from limner.runtime.bundle.onnx_files import external_files
from limner.runtime.bundle.vocabulary import spelled_words
from limner.runtime.cli.faces import chosen_face
from limner.runtime.diffusion.samplers.schedule import NoiseSchedule, read_scheduler_config
from limner.runtime.errors import InputError
from limner.runtime.faces.landmarks import read_landmarks
from limner.runtime.pictures.images import read_photo, read_texts
from limner.runtime.pictures.xmp import make_packet, read_fields
from limner.runtime.provenance import read_recipe
from limner.runtime.recipe import PromptEdit, Recipe, Source
from limner.runtime.schema import parse_json
from limner.runtime.text.templates import fill_templates
from limner.runtime.text.tokenizer import Tokenizer
from limner.runtime.wording.concepts import parse_concept
from limner.runtime.wording.demo_list import read_demo
from limner.runtime.wording.recipes import make_source, parse_settings
from limner.runtime.wording.words import word_options

TIMES = int(os.environ.get("LIMNER_FUZZ", "1"))
EACH = 1500 * TIMES
LONGEST = 4000  # characters of a sentence
SECONDS = 20.0  # of one input: a hang, on any machine
PIECES = [*"+-:;,=#()[]<>%{}\"' \t\n\0", "\\", "\\:", "{}", "0", "1", "-1", "1.5", "1e999", "nan", "inf", "9" * 50,
          "scale", "threshold", "warmup", "window", "weight", "red", "hat", "beard", "a person", "seed", "replace",
          "difference", "<|endoftext|>", "é", "e\u0301", "日本", "\U0001f600", "\ud800", "\u202e", "\ufeff", "true",
          "null", "../", "~", "~root", "/dev/null", "x" * 300]  # fmt: skip
VALUES: list[Any] = [
          None, True, False, 0, 1, -1, 2**53, 10**39, 0.5, -0.0, 1e308, "", "a", "a person", "seed", "image", [],
          [[]], {}, {"a": 1}, ["a"], [0.1, 0.9], "0" * 64, "global-directions", "sega", "prompt-to-prompt"]  # fmt: skip


def text(dice: random.Random) -> str:
    return "".join(dice.choice(PIECES) for _ in range(dice.randint(0, 12)))


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Bytes with some changed, taken out, doubled or put in."""
    out = bytearray(data)
    for _ in range(dice.randint(1, 6)):
        place = dice.randrange(len(out) + 1)
        kind = dice.randrange(5)
        if kind == 0 and place < len(out):
            out[place] = dice.randrange(256)
        elif kind == 1:
            del out[place : place + dice.randint(1, 40)]
        elif kind == 2:
            out[place:place] = out[place : place + dice.randint(1, 40)]
        elif kind == 3:
            out[place:place] = dice.choice(PIECES).encode("utf-8", "surrogatepass")
        else:
            out = out[:place]
    return bytes(out)


def scrambled(data: Any, dice: random.Random, often: float = 0.06) -> Any:
    """JSON data with some values and keys changed."""
    if dice.random() < often:
        return dice.choice(VALUES)
    if isinstance(data, dict):
        found = {key: scrambled(value, dice, often) for key, value in data.items() if dice.random() > often / 2}
        if dice.random() < often:
            found[text(dice)] = dice.choice(VALUES)
        return found
    if isinstance(data, list):
        times = [dice.choice((0, 2)) if dice.random() < often else 1 for _ in data]
        return [scrambled(value, dice, often) for value, count in zip(data, times, strict=True) for _ in range(count)]
    return data


def fed(
    parse: Callable[[Any], Any],
    make: Callable[[random.Random], Any],
    seed: str,
    count: int = EACH,
    harsh: bool = False,  # every input is broken
) -> None:
    """Feed `count` inputs; only LimnerError may come out, in one short sentence, and in time."""
    dice = random.Random(seed)
    refused = 0
    for number in range(count):
        given = make(dice)
        begin = time.monotonic()
        try:
            parse(given)
        except InputError as reason:
            refused += 1
            if len(str(reason)) > LONGEST:
                raise AssertionError(f"input {number}: {given!r} gave {len(str(reason))} characters") from reason
        except Exception as reason:
            raise AssertionError(f"input {number}: {given!r} raised {type(reason).__name__}: {reason}") from reason
        assert time.monotonic() - begin < SECONDS, given
    print(f"{seed}: {count} inputs, {refused} refused")
    assert refused > 0 and (harsh or refused < count)  # what is fed is near what is taken


# --- texts ------------------------------------------------------------------------------------------------


def test_concepts() -> None:
    fed(parse_concept, text, "concepts")


def test_words() -> None:
    fed(
        lambda given: word_options([given], None, None, None),
        lambda dice: "red=" * dice.randint(0, 1) + text(dice),
        "words",
    )


def test_settings() -> None:
    fed(lambda given: parse_settings([given]), lambda dice: "a=" * dice.randint(0, 1) + text(dice), "settings")


def test_sources() -> None:
    fed(make_source, lambda dice: "seed:" * dice.randint(0, 1) + text(dice), "sources")


@pytest.mark.parametrize(
    ("field", "starts"),
    [
        ("paste", ["replace:", "difference:threshold=", "", "replace"]),
        ("framing", ["scale=1.2", "scale=", "shift=0.1,"]),
    ],
)
def test_pasting(field: str, starts: list[str], tmp_path: Path) -> None:
    (tmp_path / "face.json").write_text("[[10,10],[20,10],[15,15],[11,20],[19,20]]")
    options: dict[str, Any] = {}

    def parse(given: str) -> None:
        options[field] = given
        chosen_face("a.png", tmp_path / "face.json", None, None, **options)

    fed(parse, lambda dice: dice.choice(starts) + text(dice) * dice.randint(0, 1), field, EACH // 4)


def test_texts_of_a_recipe() -> None:
    fed(PromptEdit, text, "prompts")
    fed(Source.from_image, text, "paths")


def test_texts_of_the_tokenizer(toy: tuple[Bundle, ToyWeights]) -> None:
    tokenizer = Tokenizer.from_bundle(toy[0])

    def read(given: str) -> None:
        prompt = read_prompt(tokenizer, given)
        tokenizer.cut_off(given)
        spelled_words(given)
        fill_templates(given, ("a photo of a {}",))
        for word in given.split()[:3]:
            with contextlib.suppress(InputError):
                found = find_word(prompt, word)
                assert all(0 < place < prompt.length - 1 for place in found)
            with contextlib.suppress(InputError):
                pair_tokens(prompt, prompt, (word,), "blend")

    fed(read, text, "tokens", EACH // 2)


# --- JSON -------------------------------------------------------------------------------------------------

BEARD = PromptEdit("a beard")
WARM = PromptEdit("hat", strength=3.0, options={"warmup": 2})
LOCAL = PromptEdit("a dog", options={"blend": ["dog"]})
RECIPES = [
    Recipe(
        "global-directions",
        Source.from_seed(3),
        (replace(BEARD, options={"neutral": "x", "beta": 0.1}),),
        {"channels": 0},
    ),
    Recipe("latent-optimization", Source.from_image("a.png"), (BEARD,), {"steps": 3}, {"refine_steps": 2}),
    Recipe("sega", Source.from_prompt("a person", 3), (WARM,), {"steps": 9}),
    Recipe("prompt-to-prompt", Source.from_prompt("a cat", 3), (LOCAL,)),
]


def recipe_bytes(dice: random.Random) -> bytes:
    data = json.loads(dice.choice(RECIPES).to_json())
    if dice.random() < 0.3:
        return mutated(json.dumps(data).encode(), dice)
    return json.dumps(scrambled(data, dice)).encode()


def test_recipes() -> None:
    fed(Recipe.from_json, recipe_bytes, "recipes", 2 * EACH)


def test_json() -> None:
    samples = [
        '{"a": [1, 2.5, "x", null, true, {"b": "\\u00e9"}]}',
        "[" * 40 + "]" * 40,
        '{"a": 1e5, "b": -0.0}',
        '"\\ud83d\\ude00"',
    ]
    fed(lambda given: parse_json(given, "x"), lambda dice: mutated(dice.choice(samples).encode(), dice), "json")


def test_bundle_json(toy: tuple[Bundle, ToyWeights]) -> None:
    data = json.loads((toy[0].root / "bundle.json").read_text())

    def make(dice: random.Random) -> bytes:
        other = {text(dice) if dice.random() < 0.3 else dice.choice(list(data)): dice.choice(VALUES)}
        return json.dumps(scrambled(data, dice, 0.001) if dice.random() < 0.5 else data | other).encode()

    fed(parse_manifest, make, "bundle.json", EACH // 10)


def through_file(read: Callable[[Path], Any], path: Path) -> Callable[[bytes], Any]:
    def parse(given: bytes) -> Any:
        path.write_bytes(given)
        return read(path)

    return parse


def test_landmarks(tmp_path: Path) -> None:
    face = [[10, 10], [20, 10], [15, 15], [11, 20], [19, 20]]
    samples = [json.dumps(face), json.dumps({"faces": [face, face]})]
    fed(
        through_file(read_landmarks, tmp_path / "face.json"),
        lambda dice: mutated(dice.choice(samples).encode(), dice) if dice.random() < 0.5 else json.dumps(
            scrambled(json.loads(dice.choice(samples)), dice)).encode(),
        "landmarks",
    )  # fmt: skip


def test_schedulers(tmp_path: Path) -> None:
    data = {"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "num_train_timesteps": 1000, "set_alpha_to_one": False, "steps_offset": 1, "trained_betas": None,
            "prediction_type": "epsilon", "timestep_spacing": "leading", "clip_sample": False}  # fmt: skip

    def make(dice: random.Random) -> bytes:
        whole = json.dumps(data).encode()
        return json.dumps(scrambled(data, dice)).encode() if dice.random() < 0.7 else mutated(whole, dice)

    def read(path: Path) -> None:
        schedule = NoiseSchedule(read_scheduler_config(path))
        assert np.isfinite(schedule.sigmas).all()

    fed(through_file(read, tmp_path / "scheduler_config.json"), make, "schedulers")


def test_demo_lists(tmp_path: Path, repository: Path) -> None:
    data = json.loads((repository / "checkpoints" / "avatars" / "demo.json").read_text())

    def read(path: Path) -> None:
        read_demo(path).recipes(repository / "checkpoints" / "avatars")

    def make(dice: random.Random) -> bytes:
        return json.dumps(scrambled(data, dice, 0.001)).encode()

    fed(through_file(read, tmp_path / "demo.json"), make, "demo lists", EACH // 10)


# --- binary files -----------------------------------------------------------------------------------------


def test_arrays() -> None:
    samples = []
    for array in (np.arange(12, dtype=np.float32).reshape(3, 4), np.zeros((2, 3, 4), order="F"), np.arange(5)):
        stream = io.BytesIO()
        np.save(stream, array)
        samples.append(stream.getvalue())
    fed(lambda given: read_array(given, "x"), lambda dice: mutated(dice.choice(samples), dice), "arrays")


def test_onnx_files(toy: tuple[Bundle, ToyWeights]) -> None:
    data = (toy[0].root / "affine.onnx").read_bytes()[:4000]
    fed(
        external_files,
        lambda dice: mutated(data[: dice.randint(1, len(data))] if dice.random() < 0.5 else data, dice),
        "onnx",
        EACH // 2,
    )


def test_packets() -> None:
    packet = make_packet("http://x/", {"limner.recipe": "{}"})[0]

    def read(given: bytes) -> None:
        read_fields(given)
        made, kept = make_packet("http://y/", {"limner.recipe": "é"}, given)
        assert read_fields(made) == {"limner.recipe": "é"}
        if not kept:
            raise InputError("packet", "one that is left out", "one that reads")

    fed(read, lambda dice: mutated(packet, dice), "packets", EACH // 2)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "gif", "bmp"])
def test_pictures_and_their_recipes(suffix: str, tmp_path: Path) -> None:
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (20, 24, 3)).astype(np.uint8))
    path = tmp_path / f"a.{suffix}"
    options: dict[str, Any] = {"dpi": (72, 72)} if suffix not in ("webp", "gif") else {}
    image.save(path, **options)
    data = path.read_bytes()

    def read(found: Path) -> None:
        read_texts(found)
        with contextlib.suppress(InputError):
            read_recipe(found)
        read_photo(found)

    fed(through_file(read, path), lambda dice: mutated(data, dice), f"pictures {suffix}", EACH // 4, suffix == "png")
