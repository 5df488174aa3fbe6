"""Held-out avatars as data for studies: `limner train samples --split test --out FOLDER`.

Pictures are renders of identities that no model was trained on, with the renderer's own record of them, a description,
and the texts of every edit that has something to do on them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from limner.runtime.errors import InputError
from limner.runtime.pictures.images import write_png_atomically
from limner.runtime.schema import to_dict
from limner.runtime.storage.files import sha256_file, write_atomically
from limner.runtime.storage.folders import folder_beside, open_to_readers, put_in_place
from limner.runtime.study.samples import SAMPLES, Asked, EditSpec, Hidden, Sample, SamplesFile
from limner.training.avatars.attributes import AVATAAARS, Avatar, sample_in_split, with_attribute
from limner.training.avatars.descriptions import blend_word, concepts, describe
from limner.training.avatars.edits import EDITS, EDITS_VERSION
from limner.training.avatars.render import render

__all__ = ["FIRST_SEED", "has_room", "held_out_words", "write_samples"]

FIRST_SEED = {"test": 0, "validation": 1_000_000}  # of generated pictures: the splits share no noise
TRIES = 6  # of eyes and brows that fit a mouth
HIDDEN = Hidden("hair_color", "hidden", by="hair")
Words = Mapping[str, str]


def held_out_words(split: str, index: int) -> dict[str, str]:
    """The renderer's record of a held-out avatar."""
    return sample_in_split(AVATAAARS, split, index, 0).attributes(AVATAAARS)


def has_room(edit: EditSpec, words: Words) -> bool:
    """Whether the edit has something to do on a picture with these attributes, and somewhere to do it."""
    visible = edit.attribute != HIDDEN.attribute or words[HIDDEN.attribute] != HIDDEN.value
    return words[edit.attribute] != edit.value and visible


def asked_of(edit: EditSpec, words: Words) -> Asked:
    """The texts of an edit of an avatar."""
    target = describe({**words, edit.attribute: edit.value})
    return Asked(target, concepts(edit, words), blend_word(edit, words), describe(words, edit.attribute))


def write_samples(folder: Path, split: str, count: int, size: int = 128, truth: bool = False) -> Path:
    """Write samples.json and `count` pictures of `size` pixels, all of it or nothing; returns the folder.

    With `truth` also the drawings of every edit, done in every way that is right (`true_edits`).

    Raises InputError for an unknown split, or a folder that is there with anything in it.
    """
    if split not in FIRST_SEED:
        raise InputError("split", repr(split), ", ".join(FIRST_SEED))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("out", f"{str(folder)!r}, which is there already", "a new folder")
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(folder) as beside:
        (beside / "pictures").mkdir()
        samples = tuple(_write(beside, split, index, size, truth) for index in range(count))
        file = SamplesFile(
            f"avatars/{split}",
            tuple(name for name, _ in AVATAAARS.attributes),
            EDITS_VERSION,
            EDITS,
            samples,
            (HIDDEN,),
        )
        write_atomically(beside / SAMPLES, (json.dumps(to_dict(file), indent=1) + "\n").encode())
        open_to_readers(beside)
        put_in_place(beside, folder)
    return folder


def true_edits(avatar: Avatar, edit: EditSpec) -> list[Avatar]:
    """The avatar with the edit, by each drawing that shows it; of a mouth with up to TRIES eyes and brows that fit."""
    option = AVATAAARS.option(dict(AVATAAARS.attributes)[edit.attribute])
    place = [one.name for one in AVATAAARS.options].index(option.name)
    rng, found = np.random.default_rng(0), dict[Avatar, None]()
    for choice in (k for k, one in enumerate(option.choices) if one[1] == edit.value):
        for _ in range(TRIES if edit.attribute == "expression" else 1):
            made = with_attribute(AVATAAARS, avatar, edit.attribute, edit.value, rng)
            options = list(made.options)
            options[place] = choice
            found[replace(made, options=tuple(options))] = None
    return list(found)


def _truth(folder: Path, avatar: Avatar, edit: EditSpec, index: int, size: int) -> tuple[str, ...]:
    places = []
    for number, made in enumerate(true_edits(avatar, edit)):
        place = f"truth/{edit.name.replace(' ', '_')}/{index}-{number}.png"
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        write_png_atomically(folder / place, render(AVATAAARS, made, size))
        places.append(place)
    return tuple(places)


def _write(folder: Path, split: str, index: int, size: int, truth: bool) -> Sample:
    avatar, words = sample_in_split(AVATAAARS, split, index, 0), held_out_words(split, index)
    picture = f"pictures/{index}.png"
    write_png_atomically(folder / picture, render(AVATAAARS, avatar, size))
    edits = {edit.name: asked_of(edit, words) for edit in EDITS if has_room(edit, words)}
    if truth:
        edits = {edit.name: replace(edits[edit.name], truth=_truth(folder, avatar, edit, index, size))
                 for edit in EDITS if edit.name in edits}  # fmt: skip
    seed = FIRST_SEED[split] + index
    return Sample(index, picture, sha256_file(folder / picture), seed, words, describe(words), edits)
