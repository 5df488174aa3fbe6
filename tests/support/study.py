"""A small study: eight pictures of three attributes, two edits, and a judge whose answers were written before."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from limner.runtime.schema import to_dict
from limner.runtime.storage.files import sha256_file
from limner.runtime.study.samples import SAMPLES, Asked, EditSpec, Hidden, Sample, Samples, SamplesFile, load_samples

ATTRIBUTES = ("hat", "color", "mood")
VALUES = (("none", "cap"), ("red", "blue", "hidden"), ("calm", "glad"))
EDITS = (
    EditSpec("cap", "hat", "cap", "a cap", "a head", {"sega:generated": {"scale": 3.0, "threshold": 0.8}}),
    EditSpec("glad", "mood", "glad", "a glad one", "a calm one", {"global-directions": {"alpha": 2.0}}),
)


def words_of(index: int) -> dict[str, str]:
    """Attributes of a sample: every third is glad already."""
    return {"hat": "none", "color": "blue" if index % 2 else "red", "mood": "glad" if index % 3 == 2 else "calm"}


def write_small_samples(folder: Path, size: int, count: int = 8) -> Samples:
    """Write the folder and read it."""
    (folder / "pictures").mkdir(parents=True)
    samples = []
    for index in range(count):
        words = words_of(index)
        picture = f"pictures/{index}.png"
        pixels = np.random.RandomState(index).randint(0, 256, (size, size, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / picture)
        edits = {"cap": Asked("a head cap", ("a cap",), "head:cap")}
        if words["mood"] == "calm":
            edits["glad"] = Asked("glad head", ("glad", "-calm"), "head")
        digest = sha256_file(folder / picture)
        samples.append(Sample(index, picture, digest, 100 + index, words, "calm head", edits))
    hidden = (Hidden("color", "hidden", by="hat"),)
    file = SamplesFile("small", ATTRIBUTES, 3, EDITS, tuple(samples), hidden)
    (folder / SAMPLES).write_text(json.dumps(to_dict(file)))
    return load_samples(folder)


class ReadyJudge:
    """Reads pictures by a function of how often it was asked; stands for a `JudgeGraph`."""

    def __init__(self, read: Callable[[int], dict[str, str]], digest: str = "a" * 64, size: int = 32) -> None:
        self.read, self.digest, self.size, self.asked = read, digest, size, 0
        self.attributes = tuple(zip(ATTRIBUTES, VALUES, strict=True))

    def words(self, images: Any) -> Sequence[dict[str, str]]:
        """One answer a picture, uint8 [N,H,W,3]."""
        assert images.dtype == np.uint8 and images.ndim == 4
        found = [self.read(self.asked + i) for i in range(len(images))]
        self.asked += len(images)
        return found
