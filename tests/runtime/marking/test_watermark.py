"""The invisible mark: read back after JPEG, halving and cropping, from pictures of any size; never where none is."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from limner.runtime.errors import InputError
from limner.runtime.marking import watermarks
from limner.runtime.marking.lattice import BITS, embed, read
from limner.runtime.marking.watermarks import find_watermark, marked, read_marks, watermark_names

PAYLOAD = bytes.fromhex("0123456789abcdef")


@pytest.fixture(scope="module")
def pictures(request: pytest.FixtureRequest) -> list[np.ndarray]:
    folder = Path(request.config.rootpath) / "checkpoints" / "avatars" / "pictures"
    return [np.array(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))[:3]]


def resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.array(Image.open(stream).convert("RGB"))


def photograph() -> np.ndarray:
    data = pytest.importorskip("skimage.data")
    found: np.ndarray = data.astronaut()
    return found


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


ATTACKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "nothing": lambda image: image,
    "jpeg 50": lambda image: jpeg(image, 50),
    "half": lambda image: resized(image, image.shape[1] // 2, image.shape[0] // 2),
    "twice": lambda image: resized(image, image.shape[1] * 2, image.shape[0] * 2),
    "crop of 80 %": lambda image: image[7 : 7 + round(0.8 * len(image)), 13 : 13 + round(0.8 * image.shape[1])],
    "crop at the end": lambda image: image[-round(0.8 * len(image)) :, -round(0.8 * image.shape[1]) :],
}


@pytest.mark.parametrize("name", ATTACKS)
def test_the_payload_is_read_back(name: str, pictures: list[np.ndarray]) -> None:
    assert BITS == 64
    for image in (*pictures, resized(pictures[0], 300, 220), photograph()):
        with_mark = embed(image, PAYLOAD)
        assert with_mark.shape == image.shape and with_mark.dtype == np.uint8
        assert psnr(with_mark, image) > 40
        found = read(ATTACKS[name](with_mark))
        assert found is not None and found.payload == PAYLOAD
        part = 0.8 if "crop" in name else 1.0
        assert found.part == pytest.approx((part, part), abs=0.02)


def test_nothing_is_found_where_nothing_is(pictures: list[np.ndarray]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    flat = np.full((200, 200, 3), 200, np.uint8)
    for image in (*pictures[:2], resized(photograph(), 200, 200), noise, flat):
        assert read(image) is None


def test_black_and_white_have_room() -> None:
    for level in (0, 255):
        found = read(jpeg(embed(np.full((128, 128, 3), level, np.uint8), PAYLOAD), 50))
        assert found is not None and found.payload == PAYLOAD


def test_other_payloads_are_others(pictures: list[np.ndarray]) -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        payload = rng.bytes(8)
        found = read(embed(pictures[0], payload))
        assert found is not None and found.payload == payload
    twice = read(embed(embed(pictures[0], PAYLOAD), payload))
    assert twice is not None and twice.payload == payload  # the last one counts


def test_what_has_no_room() -> None:
    with pytest.raises(InputError, match="7 bytes"):
        embed(np.zeros((128, 128, 3), np.uint8), b"1234567")
    with pytest.raises(InputError, match="64 pixels"):
        embed(np.zeros((128, 40, 3), np.uint8), PAYLOAD)


def test_transparency_stays(pictures: list[np.ndarray]) -> None:
    alpha = np.arange(128 * 128, dtype=np.uint8).reshape(128, 128, 1)
    found = marked(np.concatenate([pictures[0], alpha], -1), "lattice", PAYLOAD)
    assert np.array_equal(found[..., 3:], alpha) and read_marks(found) == {"lattice": PAYLOAD}


def test_marks_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "lattice" in watermark_names()
    with pytest.raises(InputError, match="did you mean 'lattice'"):
        find_watermark("latice")

    class Smaller:
        def embed(self, image_u8: np.ndarray, payload: bytes) -> np.ndarray:
            return image_u8[:-1]

    monkeypatch.setattr(watermarks, "find_watermark", lambda name: Smaller())
    with pytest.raises(InputError, match="the picture's own shape"):
        marked(np.zeros((64, 64, 3), np.uint8), "smaller", PAYLOAD)


def test_edits_carry_their_recipe_s_hash(
    limner: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "marked.png"
    words = ("edit", "seed:1", "a person with a beard", "-m", "global-directions", "-o")
    unknown = limner(*words, out, "--watermark", "latice")
    assert unknown.code == 2 and "did you mean 'lattice'" in unknown.err and not out.exists()
    made = limner(*words, out, "--watermark", "lattice")
    assert made.code == 0, made.err
    said = json.loads(limner("inspect", out, "--json").out)
    assert said["watermarks"]["lattice"] == said["recipe_sha256"][:16] and said["pixels_kept"] is None
    assert limner("replay", out).code == 0
    monkeypatch.setenv("LIMNER_WATERMARK", "lattice")
    assert limner(*words, tmp_path / "again.png").code == 0
    assert (tmp_path / "again.png").read_bytes() == out.read_bytes()
