"""Pictures as other programs write them: formats, profiles of every mode, the colour chunks of PNG, long metadata."""

import contextlib
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin

from limner.runtime.errors import InputError
from limner.runtime.pictures import containers, formats
from limner.runtime.pictures.images import Photo, read_photo, read_texts

SIZE = 48


def gradient() -> NDArray[np.uint8]:
    """Smooth colours, uint8 [48,48,3]."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] * (255 / (SIZE - 1))
    return np.stack([x, y, 255 - x], axis=2).round().astype(np.uint8)


def picture() -> Image.Image:
    return Image.fromarray(gradient())


def read(path: Path, **saved: Any) -> Photo:
    image = saved.pop("image", picture())
    image.save(path, **saved)
    return read_photo(path)


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


# --- formats ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("a.png", 0), ("a.tiff", 0), ("a.bmp", 0), ("a.webp", 0), ("a.gif", 60), ("a.jpg", 12), ("a.avif", 12),
     ("a.jp2", 0), ("a.tga", 0), ("a.ppm", 0), ("a.ico", 0), ("a.pcx", 0), ("a.qoi", 0)],
)  # fmt: skip
def test_every_format_that_pillow_opens(name: str, tolerance: int, tmp_path: Path) -> None:
    known = Image.registered_extensions().get(Path(name).suffix)
    if known not in formats.readable_formats() or known not in Image.SAVE:
        pytest.skip(f"this Pillow has no {name}")
    options = {"lossless": True} if name == "a.webp" else {"quality": 95} if name in ("a.jpg", "a.avif") else {}
    photo = read(tmp_path / name, **options)
    assert difference(photo.image_u8, gradient()) <= tolerance and photo.alpha_u8 is None


def test_heic_with_pillow_heif(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    assert difference(read(tmp_path / "a.heic", quality=95).image_u8, gradient()) <= 16


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0\0\0\x18ftypheic" + b"\0" * 64, "HEIC, which needs the package pillow-heif"),
        (b"\0\0\0\x18ftypmp42" + b"\0" * 64, "a video (MP4 or QuickTime)"),
        (b"\0\0\0\x18ftypcrx " + b"\0" * 64, "a Canon raw file"),
        (b"%PDF-1.7\n", "PDF, a document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS, which would run another program"),
        (b"  <svg xmlns='http://www.w3.org/2000/svg'/>", "SVG, a drawing without pixels"),
        (b"\xff\x0a\x00\x00", "JPEG XL"),
        (b"<!DOCTYPE html><html>", "HTML, a web page"),
        (b"PK\x03\x04" + b"\0" * 30, "a ZIP archive"),
        (b"hello", "which does not open as a picture"),
    ],
)
def test_what_is_refused_says_its_format_and_why(data: bytes, words: str, tmp_path: Path) -> None:
    if b"heic" in data and "HEIF" in formats.readable_formats():
        pytest.skip("pillow-heif is installed")
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_photo(tmp_path / "a.png")
    assert words in str(caught.value) and "PNG, JPEG, WEBP" in caught.value.allowed


def loads(path: Path) -> bool:
    """Whether Pillow alone reads what it wrote."""
    try:
        Image.open(path).load()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "F", "I"])
def test_every_mode_of_a_tiff(mode: str, tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "I;16": Image.fromarray(gradient()[:, :, 0].astype(np.uint16) * 257),
        "I": Image.fromarray(gradient()[:, :, 0].astype(np.int32) * 257),
        "F": Image.fromarray(gradient()[:, :, 0].astype(np.float32) / 255),
    }
    image: Any = values.get(mode) or picture().convert("RGBA" if mode == "PA" else mode if mode != "LAB" else "RGB")
    image = image.convert("PA") if mode == "PA" else image
    if mode == "LAB":
        image = ImageCms.profileToProfile(image, srgb(), ImageCms.createProfile("LAB"), outputMode="LAB")
    try:
        image.save(tmp_path / "a.tiff")
    except (OSError, KeyError):
        pytest.skip("not written by this Pillow")
    if not loads(tmp_path / "a.tiff"):  # Pillow 12 and YCbCr that is not packed
        with pytest.raises(InputError, match="a file of TIFF which does not decode"):
            read_photo(tmp_path / "a.tiff")
        image.save(tmp_path / "a.tiff", compression="tiff_lzw")
    photo = read_photo(tmp_path / "a.tiff")
    grey = mode in values or mode in ("1", "L", "LA")
    expected = np.repeat(np.asarray(picture().convert("L"))[..., None], 3, 2) if grey else gradient()
    if mode in values:
        expected = np.repeat(gradient()[:, :, :1], 3, 2)
    tolerance = {"1": 255, "P": 60, "PA": 60, "HSV": 6, "YCbCr": 4, "CMYK": 2, "LAB": 255}.get(mode, 1)
    assert difference(photo.image_u8, expected) <= tolerance


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5, 255.0])
def test_numbers_whose_white_is_not_known(value: float, tmp_path: Path) -> None:
    levels = np.zeros((SIZE, SIZE), np.float32)
    levels[3, 3] = value
    Image.fromarray(levels).save(tmp_path / "a.tiff")
    with pytest.raises(InputError, match="a file of TIFF which does not decode"):
        read_photo(tmp_path / "a.tiff")


# --- profiles, against LittleCMS on the plain mode --------------------------------------------------------


def srgb() -> Any:
    return ImageCms.createProfile("sRGB")


def other_rgb() -> bytes:
    """A profile unlike sRGB: linear light, by its own tags."""
    profile = bytearray(ImageCms.ImageCmsProfile(srgb()).tobytes())
    count = struct.unpack(">I", profile[128:132])[0]
    for number in range(count):
        signature, offset, size = struct.unpack(">4sII", profile[132 + 12 * number : 144 + 12 * number])
        if signature in (b"rTRC", b"gTRC", b"bTRC"):
            curve = b"curv" + b"\0" * 4 + struct.pack(">I", 1) + struct.pack(">H", 256)  # gamma 1
            profile[offset : offset + size] = curve.ljust(size, b"\0")
    return bytes(profile)


def grey_profile() -> bytes:
    """A grey profile of gamma 1, ICC version 2."""

    def tag(data: bytes) -> bytes:
        return data + b"\0" * (-len(data) % 4)

    description = tag(b"desc" + b"\0" * 4 + struct.pack(">I", 5) + b"grey\0" + b"\0" * 78)
    white = b"XYZ " + b"\0" * 4 + struct.pack(">3i", 63190, 65536, 54061)
    curve = tag(b"curv" + b"\0" * 4 + struct.pack(">IH", 1, 256))
    parts = [
        (b"desc", description),
        (b"wtpt", white),
        (b"kTRC", curve),
        (b"cprt", tag(b"text" + b"\0" * 4 + b"none\0")),
    ]
    table, body, offset = struct.pack(">I", len(parts)), b"", 128 + 4 + 12 * len(parts)
    for name, data in parts:
        table += struct.pack(">4sII", name, offset + len(body), len(data))
        body += data
    size = offset + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + body


def converted(image: Image.Image, profile: bytes) -> NDArray[np.uint8]:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return np.asarray(ImageCms.profileToProfile(image, source, srgb(), outputMode="RGB"))


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA", "PA", "1"])
def test_profiles_of_colour_pictures(mode: str, tmp_path: Path) -> None:
    image = picture().convert("RGBA").convert("PA") if mode == "PA" else picture().convert(mode)
    suffix = "tiff" if mode == "PA" else "png"
    try:
        photo = read(tmp_path / f"a.{suffix}", image=image, icc_profile=other_rgb())
    except OSError:
        pytest.skip("not written by this Pillow")
    plain = image.convert("RGBA").convert("RGB")
    np.testing.assert_array_equal(photo.image_u8, converted(plain, other_rgb()))
    assert mode == "1" or difference(photo.image_u8, np.asarray(plain)) > 40
    assert mode == "1" or any("converted to sRGB from the profile" in note for note in photo.notes)


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_profiles_of_grey_pictures(mode: str, tmp_path: Path) -> None:
    photo = read(tmp_path / "a.png", image=picture().convert(mode), icc_profile=grey_profile())
    np.testing.assert_array_equal(photo.image_u8, converted(picture().convert("L"), grey_profile()))
    assert difference(photo.image_u8, np.asarray(picture().convert("L").convert("RGB"))) > 40
    assert (photo.alpha_u8 is not None) == (mode == "LA")


def test_a_profile_of_another_mode_is_left_out_and_noted(tmp_path: Path) -> None:
    photo = read(tmp_path / "a.png", icc_profile=grey_profile())
    np.testing.assert_array_equal(photo.image_u8, gradient())
    assert "colour profile ignored, it does not fit the picture" in photo.notes
    quiet = read(tmp_path / "b.png", icc_profile=ImageCms.ImageCmsProfile(srgb()).tobytes())
    assert quiet.notes == () and difference(quiet.image_u8, gradient()) <= 1


def test_adobe_rgb_by_exif_alone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 65535
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    image = Image.new("RGB", (SIZE, SIZE), (0, 200, 100))
    photo = read(tmp_path / "a.png", image=image, exif=exif)
    if not photo.notes:
        pytest.skip("this Pillow writes no interoperability directory")
    assert photo.notes == ("colours converted to sRGB from Adobe RGB, as its EXIF says",)
    # (0, 200, 100) in Adobe RGB lies outside sRGB: red is cut at 0; the others by the published matrices
    assert difference(photo.image_u8[:1, :1], np.array([[[0, 201, 94]]], np.uint8)) <= 3


# --- chunks of PNG ----------------------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunks(path: Path, before: bytes = b"", after: bytes = b"", image: Image.Image | None = None) -> Path:
    """A PNG with chunks before and behind its pixels."""
    stream = io.BytesIO()
    (picture() if image is None else image).save(stream, format="PNG")
    data = stream.getvalue()
    place = data.index(b"IDAT") - 4
    end = data.rindex(b"IEND") - 4
    path.write_bytes(data[:place] + before + data[place:end] + after + data[end:])
    return path


def encoded(light: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255


@pytest.mark.parametrize("gamma", [1.0, 0.8, 0.3])
def test_gamma_is_applied(gamma: float, tmp_path: Path) -> None:
    path = with_chunks(tmp_path / "a.png", chunk(b"gAMA", struct.pack(">I", round(gamma * 100_000))))
    photo = read_photo(path)
    expected = encoded((gradient() / 255.0) ** (1 / gamma)).round().astype(np.uint8)
    assert difference(photo.image_u8, expected) <= 1
    assert photo.notes == (f"colours converted to sRGB from a gamma of {gamma:g}",)


@pytest.mark.parametrize(
    "before",
    [
        chunk(b"gAMA", struct.pack(">I", 45455)),
        chunk(b"sRGB", b"\0") + chunk(b"gAMA", struct.pack(">I", 100_000)),
        chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"cHRM", struct.pack(
            ">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)),
        chunk(b"cICP", bytes([1, 13, 0, 1])) + chunk(b"gAMA", struct.pack(">I", 100_000)),
        chunk(b"gAMA", struct.pack(">I", 0)),
        chunk(b"gAMA", b"\0"),
    ],
)  # fmt: skip
def test_what_means_srgb_changes_nothing(before: bytes, tmp_path: Path) -> None:
    photo = read_photo(with_chunks(tmp_path / "a.png", before))
    np.testing.assert_array_equal(photo.image_u8, gradient())
    assert photo.notes == ()


def test_cicp_of_display_p3(tmp_path: Path) -> None:
    """Known colours: P3's (234, 51, 35) is sRGB's pure red; greys stay."""
    image = Image.new("RGB", (SIZE, SIZE), (234, 51, 35))
    image.paste((128, 128, 128), (0, 0, 24, 48))
    photo = read_photo(with_chunks(tmp_path / "a.png", chunk(b"cICP", bytes([12, 13, 0, 1])), image=image))
    assert difference(photo.image_u8[:, :24], np.full((SIZE, 24, 3), 128, np.uint8)) == 0
    assert difference(photo.image_u8[0, 40], np.array([255, 0, 0], np.uint8)) <= 3
    assert photo.notes == ("colours converted to sRGB from the code points 12, 13 of its cICP",)


def test_cicp_of_pq_keeps_white_at_203_nits(tmp_path: Path) -> None:
    white = round(0.5807 * 255)  # PQ of 203 cd/m2 (BT.2408, table 1: 58 %)
    image = Image.new("RGB", (SIZE, SIZE), (white, white, white))
    photo = read_photo(with_chunks(tmp_path / "a.png", chunk(b"cICP", bytes([9, 16, 0, 1])), image=image))
    assert photo.image_u8.min() >= 252
    dark = read_photo(with_chunks(tmp_path / "b.png", chunk(b"cICP", bytes([9, 16, 0, 1]))))
    assert np.isfinite(dark.image_u8).all() and difference(dark.image_u8, gradient()) > 40


def test_unknown_code_points_are_noted(tmp_path: Path) -> None:
    photo = read_photo(with_chunks(tmp_path / "a.png", chunk(b"cICP", bytes([77, 13, 0, 1]))))
    np.testing.assert_array_equal(photo.image_u8, gradient())
    assert photo.notes[0].startswith("colours read as sRGB, the code points 77, 13")


@pytest.mark.parametrize("size", [2_000_000, 20_000_000])
@pytest.mark.parametrize("kind", ["iTXt", "zTXt", "tEXt", "iCCP"])
def test_metadata_above_what_pillow_unpacks(kind: str, size: int, tmp_path: Path) -> None:
    text = b"x" * size
    profile = other_rgb() + b"\0" * size
    body = {
        "iTXt": b"key\0\1\0\0\0" + zlib.compress(text),
        "zTXt": b"key\0\0" + zlib.compress(text),
        "tEXt": b"key\0" + text,
        "iCCP": b"name\0\0" + zlib.compress(profile),
    }[kind]
    path = with_chunks(tmp_path / "a.png", chunk(kind.encode(), body))
    photo = read_photo(path)
    assert photo.image_u8.shape == (SIZE, SIZE, 3)
    if kind == "iCCP":
        assert difference(photo.image_u8, gradient()) > 40
    else:
        np.testing.assert_array_equal(photo.image_u8, gradient())
        assert len(read_texts(path)["key"]) == size


def test_a_bomb_in_the_metadata_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MAX_UNPACKED", 1_000_000)
    texts = b"".join(chunk(b"zTXt", b"k%d\0\0" % n + zlib.compress(b"x" * 400_000)) for n in range(3))
    path = with_chunks(tmp_path / "a.png", texts)
    with pytest.raises(InputError, match="with texts or a profile of more than 1 MB; allowed: at most 1 MB"):
        read_photo(path)


def test_texts_behind_the_pixels_are_read(tmp_path: Path) -> None:
    path = with_chunks(tmp_path / "a.png", after=chunk(b"iTXt", "key\0\0\0\0\0häß".encode()))
    assert read_texts(path) == {"key": "häß"}


def test_broken_chunks_are_left_out(tmp_path: Path) -> None:
    broken = [(b"zTXt", b"key\0\0broken"), (b"iTXt", b"key"), (b"iCCP", b"name"), (b"gAMA", b"x"), (b"cHRM", b""),
              (b"tEXt", b"no separator"), (b"iTXt", b"key\0\0\0\0\0\xff\xfe"), (b"cICP", b"")]  # fmt: skip
    path = with_chunks(tmp_path / "a.png", b"".join(chunk(kind, body) for kind, body in broken))
    np.testing.assert_array_equal(read_photo(path).image_u8, gradient())
    assert read_texts(path) == {}


def test_animated_and_several_pages(tmp_path: Path) -> None:
    pages = [picture(), Image.new("RGB", (SIZE, SIZE), "red")]
    for name in ("a.gif", "a.tiff", "a.png", "a.webp"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        photo = read_photo(tmp_path / name)
        assert "first of 2 frames used" in photo.notes
        assert difference(photo.image_u8, gradient()) <= 90


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tiff", "a.gif", "a.bmp"])
def test_truncated_files(name: str, cut: float, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8))
    noise.save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(InputError):
        read_photo(tmp_path / name)


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    info = PngImagePlugin.PngInfo()
    info.add_itxt("key", "text", zip=True)
    savers: dict[str, Callable[[Path], None]] = {
        "a.png": lambda path: picture().save(path, pnginfo=info, icc_profile=other_rgb()),
        "a.jpg": lambda path: picture().save(path, icc_profile=other_rgb()),
        "a.webp": lambda path: picture().save(path),
        "a.tiff": lambda path: picture().save(path),
        "a.gif": lambda path: picture().save(path),
    }
    for name, save in savers.items():
        save(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        for _ in range(150):
            broken = bytearray(data)
            for _ in range(random.randint(1, 4)):
                broken[random.randint(len(broken))] = random.randint(256)
            (tmp_path / name).write_bytes(broken)
            with contextlib.suppress(InputError):
                assert read_photo(tmp_path / name).image_u8.shape[2] == 3
