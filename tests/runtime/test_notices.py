"""What an edit says of itself: words never seen, words cut off, the reader's notes, an unlike source, no change."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.engines import stylegan2
from support.toy_bundle import SIZE, build_toy_bundle

from limner.runtime.bundle.loading import Bundle, load_bundle, write_manifest
from limner.runtime.bundle.manifest import LimitsMeta
from limner.runtime.bundle.vocabulary import spelled_words, unseen_words
from limner.runtime.editor import Editor
from limner.runtime.errors import BundleError
from limner.runtime.notices import change_notices
from limner.runtime.pictures.images import write_png_atomically
from limner.runtime.recipe import PromptEdit, Recipe, Source
from limner.runtime.settings import InversionParameters

KNOWN = "a\nbeard\nhat\nperson\nwith\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy bundle with a vocabulary and limits."""
    root = tmp_path_factory.mktemp("noticing") / "bundle"
    bundle = build_toy_bundle(root)[0]
    (root / "tokenizer" / "words.txt").write_text(KNOWN)
    meta = replace(bundle.manifest.tokenizer, words="tokenizer/words.txt")
    write_manifest(root, replace(bundle.manifest, tokenizer=meta, limits=LimitsMeta(unchanged=0.0, unlike=0.99)))
    return root


@pytest.fixture(scope="module")
def editor(folder: Path) -> Editor:
    return Editor(folder, threads=1)


def edit(editor: Editor, text: str = "a person with a beard", source: Source | None = None, **changes: Any) -> Any:
    prompt = PromptEdit(text, **changes)
    return editor.edit(Recipe("global-directions", Source.from_seed(3) if source is None else source, (prompt,)))


def test_words_never_seen(editor: Editor) -> None:
    assert edit(editor).warnings == ()
    found = edit(editor, "A cat-like Person, qwertyuiop; a cat!", options={"neutral": "a dog"}).warnings
    assert found == ("words that the models of 'toy' never saw: 'cat', 'like', 'qwertyuiop', 'dog'",)
    many = " ".join(f"word{n}" for n in range(12))
    assert edit(editor, many).warnings[0].endswith("'word7' and 4 more")


def test_bundle_without_a_vocabulary_says_nothing(tmp_path: Path) -> None:
    bundle = build_toy_bundle(tmp_path / "bundle")[0]
    assert bundle.vocabulary is None
    assert edit(Editor(bundle, threads=1), "a qwertyuiop").warnings == ()


def test_words_that_are_cut_off(editor: Editor) -> None:
    tokenizer, long = stylegan2(editor).models.tokenizer, "zqxjvk" * 3
    room, each = tokenizer.context_length - 2, len(tokenizer.tokens(long))
    words = [long] * (room // each) + ["beard", "zqxj"] + ["beard"] * each
    kept = tokenizer.pieces(" ".join(words))[0].split()
    found = edit(editor, " ".join(words)).warnings
    lost = words[len(kept) :]
    assert room // each <= len(kept) < len(words) and found[0].startswith(repr(" ".join([long] * 8)) + " and ")
    shown = " ".join(lost[:8])
    assert f"has more than {room} tokens; these words are not read: {shown!r}" in found[0]


def test_an_edit_that_changes_nothing(editor: Editor) -> None:
    found = edit(editor, strength=0.0).warnings
    assert found == ("the edit changed nothing that can be seen (largest change 0 of 255 levels, pixel 0)",)


def test_no_change_by_levels_or_by_the_bundles_limit(editor: Editor) -> None:
    before = np.full((8, 8, 3), 100, np.uint8)
    bundle = editor.bundle
    limited = replace(bundle, manifest=replace(bundle.manifest, limits=LimitsMeta(unchanged=0.001)))
    assert change_notices(bundle, before, before + np.uint8(2), 0.5)
    assert not change_notices(bundle, before, before + np.uint8(3), 0.0005)
    assert change_notices(limited, before, before + np.uint8(30), 0.0005)
    assert not change_notices(limited, before, before + np.uint8(30), 0.001)


def test_source_and_its_reading(editor: Editor, tmp_path: Path) -> None:
    odd = np.random.RandomState(0).randint(0, 256, (SIZE, SIZE + 4, 4)).astype(np.uint8)
    Image.fromarray(odd, "RGBA").save(tmp_path / "odd.png")
    found = edit(editor, source=Source.from_image(tmp_path / "odd.png")).warnings
    assert found[0] == "source: transparency put on white"
    assert found[1] == f"source: cropped from {SIZE + 4} x {SIZE} to the centred square"
    assert found[2].startswith("the models of 'toy' keep little of the source (likeness ") and len(found) == 3


def test_likeness_is_that_of_the_encoder_whatever_a_refinement_reaches(editor: Editor, tmp_path: Path) -> None:
    path = write_png_atomically(tmp_path / "a.png", np.random.RandomState(1).randint(0, 256, (SIZE, SIZE, 3), np.uint8))
    plain, refined = (editor.invert(path, InversionParameters(refine_steps=n)) for n in (0, 8))
    assert plain.likeness == pytest.approx((plain.scores["clip"] + plain.scores["identity"]) / 2, abs=1e-6)
    assert refined.likeness == pytest.approx(plain.likeness, abs=1e-6) and refined.scores != plain.scores


def test_the_command_line_says_all_of_it(
    folder: Path, limner: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMNER_BUNDLE", str(folder))
    monkeypatch.chdir(tmp_path)
    ran = limner("edit", "seed:3", "a cat", "-s", "0", "--json", "--sheet", "sheet.png", "-o", "a.png")
    assert ran.code == 0, ran.err
    expected = ["words that the models of 'toy' never saw: 'cat'",
                "the edit changed nothing that can be seen (largest change 0 of 255 levels, pixel 0)"]  # fmt: skip
    assert json.loads(ran.out)["warnings"] == expected
    assert [line for line in ran.err.splitlines() if line.startswith("warning: ")] == [
        f"warning: {w}" for w in expected
    ]
    quiet = limner("edit", "seed:3", "a beard", "--sheet", "quiet.png", "-o", "b.png")
    assert quiet.code == 0 and "warning" not in quiet.err
    assert Image.open("sheet.png").height > Image.open("quiet.png").height
    noise = np.random.RandomState(1).randint(0, 256, (SIZE, SIZE, 3), np.uint8)
    write_png_atomically("noise.png", noise)
    ran = limner("invert", "noise.png", "--json")
    assert ran.code == 0 and "keep little of the source" in json.loads(ran.out)["warnings"][0]


def test_words_as_they_are_spelled() -> None:
    assert spelled_words("Don\u2019t, a T-shirt_x: CAFE\u0301 10!") == ["don't", "a", "t", "shirt", "x", "café", "10"]
    assert unseen_words("a cat, a Cat", {"a"}) == ["cat"]


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a" * 17_000_000])
def test_vocabulary_that_is_none(folder: Path, data: bytes, tmp_path: Path) -> None:
    bundle = build_toy_bundle(tmp_path / "bundle")[0]
    (bundle.root / "tokenizer" / "words.txt").write_bytes(data)
    meta = replace(bundle.manifest.tokenizer, words="tokenizer/words.txt")
    broken: Bundle = write_manifest(bundle.root, replace(bundle.manifest, tokenizer=meta))
    with pytest.raises(BundleError, match=r"words\.txt"):
        _ = broken.vocabulary


def test_vocabulary_is_a_listed_file(folder: Path, tmp_path: Path) -> None:
    bundle = build_toy_bundle(tmp_path / "bundle")[0]
    text = (bundle.root / "bundle.json").read_text()
    (bundle.root / "bundle.json").write_text(text.replace('"words": ""', '"words": "tokenizer/words.txt"'))
    with pytest.raises(BundleError, match=r"tokenizer\.words"):
        load_bundle(bundle.root)


def test_samples_from_words_say_it_too(
    limner: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIMNER_BUNDLE", raising=False)
    given = ("sample", "--prompt", "a person with a zebra", "--set", "steps=2", "-o", "a.png", "--json")
    ran = limner(*given)
    assert ran.code == 0 and json.loads(ran.out)["warnings"] == [
        "words that the models of 'avatars' never saw: 'zebra'"
    ]
    assert "warning: words that the models" in ran.err
