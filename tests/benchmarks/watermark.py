"""The invisible mark on held-out pictures: bits right after each attack, PSNR, times; and pictures without a mark.

PYTHONPATH=tests python -m benchmarks.watermark SAMPLES [--pictures 200] [--unmarked 10000] [--size 128]
"""

import argparse
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from limner.runtime.marking.lattice import BITS, SIDE, SURE, _Try, embed, read
from limner.training.avatars.attributes import AVATAAARS, sample_avatar
from limner.training.avatars.render import render

LUMA = np.array([0.299, 0.587, 0.114])


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.array(Image.open(stream).convert("RGB"))


def half(image: np.ndarray) -> np.ndarray:
    size = (image.shape[1] // 2, image.shape[0] // 2)
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def crop(image: np.ndarray, rng: np.random.Generator, part: float) -> np.ndarray:
    height, width = (round(part * size) for size in image.shape[:2])
    top, left = rng.integers(0, image.shape[0] - height + 1), rng.integers(0, image.shape[1] - width + 1)
    return image[top : top + height, left : left + width]


def attacks(rng: np.random.Generator) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    return {
        "nothing": lambda image: image,
        "JPEG 50": lambda image: jpeg(image, 50),
        "half": half,
        "crop, 80 % of the sides": lambda image: crop(image, rng, 0.8),
        "crop, 80 % of the area": lambda image: crop(image, rng, 0.8**0.5),
        "JPEG 30": lambda image: jpeg(image, 30),
        "JPEG 50 of half": lambda image: jpeg(half(image), 50),
    }


def marked_pictures(pictures: Iterator[np.ndarray]) -> dict[str, object]:
    rng = np.random.default_rng(0)
    right = dict.fromkeys(attacks(rng), 0)
    wrong, psnr, embedding, reading, count = dict(right), [], [], [], 0
    for image in pictures:
        count += 1
        payload, began = rng.bytes(BITS // 8), time.perf_counter()
        marked = embed(image, payload)
        embedding.append(time.perf_counter() - began)
        psnr.append(10 * np.log10(255**2 / np.mean((marked.astype(float) - image) ** 2)))
        for name, attack in attacks(rng).items():
            hurt, began = attack(marked), time.perf_counter()
            found = read(hurt)
            reading.append(time.perf_counter() - began)
            right[name] += found is not None and found.payload == payload
            wrong[name] += found is not None and found.payload != payload
    return {"pictures": count, "right": right, "wrong": wrong, "psnr": [float(np.mean(psnr)), float(np.min(psnr))],
            "embed_ms": 1000 * float(np.median(embedding)), "read_ms": 1000 * float(np.median(reading))}  # fmt: skip


def unmarked_pictures(count: int) -> dict[str, object]:
    """Drawn avatars: how often something is read, and how sure the surest place is."""
    rng, found, surest = np.random.default_rng(1), 0, list[float]()
    for number in range(count):
        image = render(AVATAAARS, sample_avatar(AVATAAARS, rng), SIDE)
        found += read(image) is not None
        surest.append(_Try(SIDE, SIDE, image.astype(float) @ LUMA).score)
        if number % 500 == 499:
            print(json.dumps({"unmarked": number + 1, "found": found, "surest whole": max(surest)}), flush=True)
    return {"unmarked": count, "found": found, "surest whole": max(surest, default=0.0), "needed": SURE}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("samples", type=Path)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--unmarked", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=SIDE)
    given = parser.parse_args()
    paths = [
        given.samples / one["picture"] for one in json.loads((given.samples / "samples.json").read_text())["samples"]
    ]
    size = (given.size, given.size)
    read_in = (np.array(Image.open(path).convert("RGB").resize(size, Image.Resampling.LANCZOS)) for path in
               paths[: given.pictures])  # fmt: skip
    if given.pictures:
        print(json.dumps(marked_pictures(read_in), indent=1))
    if given.unmarked:
        print(json.dumps(unmarked_pictures(given.unmarked), indent=1))


if __name__ == "__main__":
    main()
