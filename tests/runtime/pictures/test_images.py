"""Every kind of picture comes in as RGB, every bad file is refused in one sentence, PNGs go out whole."""

import contextlib
import io
import os
import stat
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

import limner.runtime.pictures.images as images
from limner.runtime.errors import InputError
from limner.runtime.pictures.images import (
    png_bytes,
    read_picture,
    read_texts,
    to_float,
    to_u8,
    write_png_atomically,
)
from limner.runtime.storage.files import sha256_file, write_atomically

SIZE = 32
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters(size: int = SIZE) -> Image.Image:
    """Red, green / blue, white: turning or mirroring it shows."""
    image = Image.new("RGB", (size, size), WHITE)
    half = size // 2
    for colour, left, top in ((RED, 0, 0), (GREEN, half, 0), (BLUE, 0, half)):
        image.paste(colour, (left, top, left + half, top + half))
    return image


def corners(image_u8: np.ndarray) -> list[tuple[int, ...]]:
    places = ((2, 2), (2, -3), (-3, 2), (-3, -3))
    return [tuple(int(level) for level in image_u8[y, x]) for y, x in places]


def png_header_only(width: int, height: int, bit_depth: int = 8) -> bytes:
    """A PNG file of that size whose pixels would be a lie: decoding it must not be tried."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_picture(path, SIZE)
    message = str(caught.value)
    assert message.startswith("picture: got ")
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


@pytest.mark.parametrize(("suffix", "options"), [("png", {}), ("jpg", {"quality": 95}), ("webp", {"lossless": True})])
def test_formats(tmp_path: Path, suffix: str, options: dict[str, Any]) -> None:
    path = tmp_path / f"picture.{suffix}"
    quarters().save(path, **options)
    picture = read_picture(path, SIZE)
    assert picture.image_u8.shape == (SIZE, SIZE, 3)
    assert picture.image_u8.dtype == np.uint8
    np.testing.assert_allclose(corners(picture.image_u8), [RED, GREEN, BLUE, WHITE], atol=6)
    assert picture.sha256 == sha256_file(path)
    assert picture.notes == ()
    assert (picture.width, picture.height) == (SIZE, SIZE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    """The stored picture is what a camera held another way would store; upright it is the same again."""
    undo = {
        2: 0,
        3: 3,
        4: 1,
        5: 5,
        6: 2,
        7: 6,
        8: 4,
    }  # orientation -> the transposition that a camera applied
    stored = quarters() if orientation == 1 else quarters().transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    stored.save(path, exif=exif, **({"quality": 95} if suffix == "jpg" else {"lossless": True}))
    picture = read_picture(path, SIZE)
    np.testing.assert_allclose(corners(picture.image_u8), [RED, GREEN, BLUE, WHITE], atol=6)
    assert ("turned by its EXIF orientation" in picture.notes) == (orientation != 1)


def test_orientation_swaps_the_sides_before_the_crop(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg", exif=exif)
    picture = read_picture(tmp_path / "a.jpg", SIZE)
    assert (picture.width, picture.height) == (40, 60)


def test_transparency_is_put_on_white(tmp_path: Path) -> None:
    clear = quarters().convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((SIZE, SIZE)))
    clear.save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", SIZE)
    alpha = np.asarray(clear.getchannel("A"), np.float64)[..., None] / 255
    expected = np.asarray(quarters(), np.float64) * alpha + 255 * (1 - alpha)
    np.testing.assert_allclose(picture.image_u8, expected, atol=1)
    assert "transparency put on white" in picture.notes


@pytest.mark.parametrize("mode", ["L", "LA", "P", "PA", "1", "RGB", "RGBA"])
def test_modes(tmp_path: Path, mode: str) -> None:
    gray = Image.linear_gradient("L").resize((SIZE, SIZE)).point(lambda level: 255 * (level > 127))
    stored = gray.convert(mode) if mode != "PA" else gray.convert("P")
    stored.save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", SIZE)
    np.testing.assert_array_equal(picture.image_u8, np.asarray(gray.convert("RGB")))


def test_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    image = Image.new("P", (SIZE, SIZE), 0)
    image.putpalette([*RED, *GREEN])
    image.paste(1, (0, 0, SIZE // 2, SIZE))
    image.save(tmp_path / "a.png", transparency=0)
    assert corners(read_picture(tmp_path / "a.png", SIZE).image_u8) == [GREEN, WHITE, GREEN, WHITE]


def test_one_transparent_colour(tmp_path: Path) -> None:
    quarters().save(tmp_path / "a.png", transparency=RED)
    assert corners(read_picture(tmp_path / "a.png", SIZE).image_u8) == [WHITE, GREEN, BLUE, WHITE]


def test_sixteen_bit_gray(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", SIZE)
    np.testing.assert_array_equal(picture.image_u8[..., 0], np.rint(levels / 257))
    assert "16 bits reduced to 8" in picture.notes
    Image.fromarray(levels).save(tmp_path / "b.png", transparency=int(levels[0, 0]))
    assert tuple(read_picture(tmp_path / "b.png", SIZE).image_u8[0, 0]) == WHITE


def test_sixteen_bit_colour(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + struct.pack(">HHH", 65535, 32896, 0) * SIZE
    header = struct.pack(">IIBBBBB", SIZE, SIZE, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * SIZE)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    assert set(corners(read_picture(tmp_path / "a.png", SIZE).image_u8)) == {(255, 128, 0)}


def test_cmyk_and_colour_profiles(tmp_path: Path) -> None:
    quarters().convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert read_picture(tmp_path / "cmyk.jpg", SIZE).image_u8.shape == (SIZE, SIZE, 3)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    quarters().save(tmp_path / "srgb.png", icc_profile=srgb)
    picture = read_picture(tmp_path / "srgb.png", SIZE)
    np.testing.assert_allclose(corners(picture.image_u8), [RED, GREEN, BLUE, WHITE], atol=1)
    quarters().save(tmp_path / "broken.png", icc_profile=b"nonsense")
    picture = read_picture(tmp_path / "broken.png", SIZE)
    assert corners(picture.image_u8) == [RED, GREEN, BLUE, WHITE]
    assert any("colour profile ignored" in note for note in picture.notes)


def test_centre_crop_and_resize_are_noted(tmp_path: Path) -> None:
    wide = Image.new("RGB", (3 * SIZE, SIZE), RED)
    wide.paste(GREEN, (SIZE, 0, 2 * SIZE, SIZE))
    wide.save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", SIZE)
    assert set(corners(picture.image_u8)) == {GREEN}
    assert picture.notes == (f"cropped from {3 * SIZE} x {SIZE} to the centred square",)
    assert read_picture(tmp_path / "a.png", 16).notes == picture.notes  # less is no news
    assert read_picture(tmp_path / "a.png", 2 * SIZE).notes[1] == f"enlarged from {SIZE} to {2 * SIZE} pixels"


def test_shrinking_is_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    write_png_atomically(tmp_path / "a.png", stripes)
    inner = read_picture(tmp_path / "a.png", SIZE).image_u8[4:-4, 4:-4]
    assert np.abs(inner.astype(int) - 127).max() <= 2


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (SIZE, SIZE), colour) for colour in (RED, BLUE)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    picture = read_picture(tmp_path / "a.webp", SIZE)
    assert set(corners(picture.image_u8)) == {RED}
    assert "first of 2 frames used" in picture.notes


def test_files_that_are_no_picture(tmp_path: Path) -> None:
    assert "no file at" in refusal(tmp_path / "missing.png")
    assert "the folder" in refusal(tmp_path)
    empty = tmp_path / "empty.png"
    empty.touch()
    assert "the empty file 'empty.png'" in refusal(empty)
    empty.write_bytes(b"hello" * 100)
    assert "does not open as a picture; allowed: a picture: PNG, JPEG, WEBP, " in refusal(empty)
    quarters().save(tmp_path / "a.gif")
    quarters().save(tmp_path / "a.tiff")
    for name in ("a.gif", "a.tiff"):
        assert corners(read_picture(tmp_path / name, SIZE).image_u8)[0][0] > 200
    assert "too long" in refusal(tmp_path / ("x" * 300))
    assert "which holds a zero byte" in refusal(tmp_path / "a\0b")
    os.mkfifo(tmp_path / "pipe.png")
    assert "no plain file" in refusal(tmp_path / "pipe.png")
    assert "no plain file" in refusal(Path("/dev/zero"))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, {"jpg": "jpeg"}.get(suffix, suffix))
    whole = buffer.getvalue()
    path = tmp_path / f"a.{suffix}"
    for length in (1, 8, 20, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:length])
        assert "does not" in refusal(path)


def test_broken_bytes_never_escape_the_error_tree(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("png", "jpeg", "webp"):
        buffer = io.BytesIO()
        quarters().save(buffer, suffix, exif=exif)
        for _ in range(150):
            data = bytearray(buffer.getvalue())
            for place in random.integers(0, len(data), 4):
                data[place] = random.integers(0, 256)
            (tmp_path / "a").write_bytes(data)
            with contextlib.suppress(InputError):  # any other exception fails the test
                assert read_picture(tmp_path / "a", SIZE).image_u8.shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize(
    ("width", "height", "words"),
    [
        (20_000, 10_000, "over 178 megapixels"),
        (10_000, 10_000, "100 megapixels"),
        (50_000_001, 1, "50 megapixels"),
        (2_000_000_000, 2_000_000_000, "over 178 megapixels"),
    ],
)
def test_huge_pictures_are_refused_without_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, height: int, words: str
) -> None:
    def must_not_run(*_: object) -> None:
        raise AssertionError("the pixels were decoded")

    monkeypatch.setattr(images, "_decode", must_not_run)
    path = tmp_path / "huge.png"
    path.write_bytes(png_header_only(width, height))
    message = refusal(path)
    assert words in message
    assert "at most 50 megapixels" in message


def test_file_of_too_many_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with path.open("wb") as stream:
        stream.truncate(images.MAX_BYTES + 1)  # a sparse file: takes no disk
    assert "of 200 MB; allowed: at most 200 MB" in refusal(path)


def test_tiny_picture(tmp_path: Path) -> None:
    Image.new("RGB", (15, 400)).save(tmp_path / "a.png")
    assert "15 x 400 pixels; allowed: at least 16 pixels a side" in refusal(tmp_path / "a.png")


def test_float_round_trip_is_exact() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    image = to_float(levels)
    assert image.shape == (1, 3, 16, 16)
    assert image.dtype == np.float32
    assert image.min() == -1
    assert image.max() == 1
    np.testing.assert_array_equal(to_u8(image)[0], levels)
    np.testing.assert_array_equal(to_u8(image[0]), levels)
    np.testing.assert_array_equal(to_u8(to_float(np.stack([levels, levels])))[1], levels)
    assert to_u8(np.full((1, 3, 1, 1), 1.7, np.float32)).max() == 255
    with pytest.raises(InputError, match="image_u8"):
        to_float(image)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="image"):
        to_u8(levels)  # type: ignore[arg-type]


def test_png_with_text(tmp_path: Path) -> None:
    recipe = '{"prompts": ["a café \\u2026 日本"]}\n' * 200
    image = np.asarray(quarters())
    path = write_png_atomically(tmp_path / "a.png", image, {"limner": recipe, "Title": "x"})
    assert read_texts(path) == {"limner": recipe, "Title": "x"}
    np.testing.assert_array_equal(read_picture(path, SIZE).image_u8, image)
    assert path.read_bytes() == png_bytes(image, {"limner": recipe, "Title": "x"})
    quarters().save(tmp_path / "a.jpg")
    assert read_texts(tmp_path / "a.jpg") == {}


def test_bad_outputs_leave_nothing_behind(tmp_path: Path) -> None:
    image = np.asarray(quarters())
    for path, words in (
        (tmp_path / "none" / "a.png", "missing folder"),
        (tmp_path / "a.jpg", "ends in .png"),
        (tmp_path / ("x" * 300 + ".png"), "too long"),
        (tmp_path / "a\0b.png", "null byte"),
    ):
        with pytest.raises(InputError, match=words):
            write_png_atomically(path, image)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match="the folder"):
        write_png_atomically(tmp_path / "folder.png", image)
    with pytest.raises(InputError, match="image_u8"):
        write_png_atomically(tmp_path / "b.png", image[..., :1])
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(InputError, match="output: got No space left on device"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_permissions_of_a_new_and_a_replaced_file(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        path = write_atomically(tmp_path / "a", b"1")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o600)
    write_atomically(path, b"2")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b"2"
