"""PNG, JPEG and WebP with the recipe and what the picture is in each; what the source carried; names; folders."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.dom import minidom

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from limner.runtime.errors import InputError
from limner.runtime.pictures.containers import Carried
from limner.runtime.pictures.images import read_photo, read_texts
from limner.runtime.pictures.naming import free_name
from limner.runtime.pictures.writing import encode_picture, write_picture
from limner.runtime.pictures.xmp import COMPOSITE, GENERATED, make_packet, read_fields, source_type

Run = Callable[..., Any]
BEARD = "a person with a beard"
NOISE = np.random.RandomState(0).randint(0, 256, (40, 50, 4)).astype(np.uint8)
LIGHTROOM = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Test">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    b'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" '
    b'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" photoshop:Credit="A &amp; B">'
    b"<dc:creator><rdf:Seq><rdf:li>J\xc3\xb6rg</rdf:li></rdf:Seq></dc:creator><Iptc4xmpExt:DigitalSourceType>"
    b"http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture</Iptc4xmpExt:DigitalSourceType>"
    b"</rdf:Description></rdf:RDF></x:xmpmeta>" + b" " * 2048 + b'<?xpacket end="w"?>'
)


def packet_of(path: Path) -> bytes:
    """The XMP packet as another reader finds it: by its header."""
    data = path.read_bytes()
    if data.startswith(b"\x89PNG"):
        return str(Image.open(path).info["XML:com.adobe.xmp"]).encode()
    found = re.search(rb"<\?xpacket begin=.*<\?xpacket end=.w.\?>", data, re.DOTALL)
    assert found is not None
    return found.group()


# --- the packet -------------------------------------------------------------------------------------------


def test_a_packet_says_what_the_picture_is_by_the_published_uris() -> None:
    base = "http://cv.iptc.org/newscodes/digitalsourcetype/"
    assert base + "compositeWithTrainedAlgorithmicMedia" == COMPOSITE and base + "trainedAlgorithmicMedia" == GENERATED
    packet, kept = make_packet(GENERATED, {"limner.recipe": '{"a": "<&> \u65e5\u672c \U0001f600"}', "other": "x"})
    assert kept and source_type(packet) == GENERATED
    assert read_fields(packet) == {"limner.recipe": '{"a": "<&> \u65e5\u672c \U0001f600"}'}
    element = minidom.parseString(packet).getElementsByTagName("rdf:Description")[0]
    assert element.getAttribute("Iptc4xmpExt:DigitalSourceType") == GENERATED


def test_what_the_source_said_stays_but_for_what_the_picture_is() -> None:
    packet, kept = make_packet(COMPOSITE, {"limner.recipe": "{}"}, LIGHTROOM)
    assert kept and source_type(packet) == COMPOSITE and read_fields(packet) == {"limner.recipe": "{}"}
    text = packet.decode()
    assert "J\u00f6rg" in text and 'photoshop:Credit="A &amp; B"' in text and "digitalCapture" not in text
    again, _ = make_packet(GENERATED, {}, packet)
    assert source_type(again) == GENERATED and read_fields(again) == {} and "J\u00f6rg" in again.decode()


@pytest.mark.parametrize(
    "source",
    [
        b"", b"no packet", b"<x:xmpmeta></x:xmpmeta>", LIGHTROOM[:400], b"\xff" * 100, b"<rdf:RDF>" * 100_000,
        b'<!DOCTYPE a [<!ENTITY b "c">]>' + LIGHTROOM, LIGHTROOM.replace(b"J\xc3\xb6rg", b"J\xf6rg"),
        LIGHTROOM.replace(b"rdf:Seq>", b"rdf:Sea>", 1), LIGHTROOM + b" " * 1_000_000,
    ],
)  # fmt: skip
def test_a_packet_that_does_not_read_is_left_out(source: bytes) -> None:
    packet, kept = make_packet(COMPOSITE, {}, source)
    assert not kept and source_type(packet) == COMPOSITE
    assert read_fields(source) == {}


def test_a_packet_without_the_outer_element_and_with_other_prefixes() -> None:
    bare = b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Bag/></rdf:RDF>'
    packet, kept = make_packet(COMPOSITE, {}, bare)
    assert kept and source_type(packet) == COMPOSITE


# --- files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.JPEG", "a.webp"])
def test_three_formats_hold_pixels_recipe_and_mark(name: str, tmp_path: Path) -> None:
    path, texts = tmp_path / name, {"limner.recipe": '{"text": "ein Bärtiger 日本"}', "limner.pixels": "0" * 64}
    image = np.ascontiguousarray(np.asarray(Image.linear_gradient("L").resize((64, 48)).convert("RGB")))
    assert write_picture(path, image, texts, COMPOSITE, Carried(xmp=LIGHTROOM, dpi=(300.0, 300.0))) == []
    photo = read_photo(path)
    exact = Path(name).suffix.lower() in (".png", ".webp")
    assert np.abs(photo.image_u8.astype(int) - image).max() <= (0 if exact else 3)
    assert {key: value for key, value in read_texts(path).items() if key.startswith("limner")} == texts
    packet = packet_of(path)
    assert source_type(packet) == COMPOSITE and "J\u00f6rg" in packet.decode()
    if name != "a.webp":  # which has no resolution
        assert photo.carried.dpi == pytest.approx((300, 300), abs=0.01)


def test_transparency(tmp_path: Path) -> None:
    assert write_picture(tmp_path / "a.webp", NOISE) == [] and write_picture(tmp_path / "a.png", NOISE) == []
    for name in ("a.webp", "a.png"):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / name)), NOISE)
    assert write_picture(tmp_path / "a.jpg", NOISE) == ["JPEG has no transparency: it is put on white"]


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    long = {"limner.recipe": "x" * 70_000}
    large = LIGHTROOM.replace(b"A &amp; B", b"A" * 70_000)
    image = NOISE[:, :, :3].copy()
    assert write_picture(tmp_path / "a.jpg", image, {"limner.recipe": "{}"}, COMPOSITE, Carried(xmp=large)) == [
        "the XMP packet of the source does not read or does not fit, and is not kept"
    ]
    assert read_texts(tmp_path / "a.jpg") == {"limner.recipe": "{}"}
    assert write_picture(tmp_path / "b.jpg", image, long, COMPOSITE) == [
        "the recipe is too long for a JPEG and is not in it: write a PNG"
    ]
    assert source_type(packet_of(tmp_path / "b.jpg")) == COMPOSITE
    assert write_picture(tmp_path / "b.png", image, long, COMPOSITE, Carried(xmp=large)) == []
    wide = np.zeros((16, 17_000, 3), np.uint8)
    with pytest.raises(InputError, match="at most 16383 pixels a side in WebP"):
        encode_picture(wide, ".webp")


# --- edits on the command line ----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def in_an_empty_folder(toy_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIMNER_BUNDLE", str(toy_folder))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_an_edit_replays_from_every_format(suffix: str, limner: Run, portrait: Path) -> None:
    name = f"edit.{suffix}"
    ran = limner("edit", portrait, BEARD, "-o", name)
    assert ran.code == 0, ran.err
    ran = limner("replay", name, "--json")
    assert ran.code == 0 and json.loads(ran.out)["same_pixels"] is True, ran.err
    assert source_type(packet_of(Path(name))) == COMPOSITE


def test_every_picture_says_what_it_is(limner: Run, portrait: Path) -> None:
    for arguments, name, expected in (
        (("edit", portrait, BEARD, "-o", "a.png", "--sheet", "s.png"), "a.png", COMPOSITE),
        ((), "s.png", COMPOSITE),
        (("edit", "seed:3", BEARD, "-o", "b.png"), "b.png", GENERATED),
        (("sample", "-n", "2", "-o", "c.webp"), "c.webp", GENERATED),
        (("invert", portrait, "--sheet", "d.jpg"), "d.jpg", COMPOSITE),
    ):
        assert not arguments or limner(*arguments).code == 0
        assert source_type(packet_of(Path(name))) == expected


def test_what_the_source_carried_is_kept_or_named(limner: Run, portrait: Path, tmp_path: Path) -> None:
    image = Image.open(portrait)
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", LIGHTROOM.decode())
    info.add(b"caBX", b"jumb", after_idat=True)
    image.save(tmp_path / "source.png", pnginfo=info, dpi=(240, 240))
    ran = limner("edit", "source.png", BEARD, "-o", "a.jpg", "--json")
    assert ran.code == 0, ran.err
    assert any("Content Credentials (C2PA) are not kept" in one for one in json.loads(ran.out)["warnings"])
    packet = packet_of(Path("a.jpg"))
    assert "J\u00f6rg" in packet.decode() and source_type(packet) == COMPOSITE
    assert Image.open("a.jpg").info["dpi"] == pytest.approx((240, 240), abs=0.01)


def test_an_output_that_exists_is_replaced_only_when_it_was_named(limner: Run, portrait: Path) -> None:
    names = [limner("edit", portrait, BEARD).out.strip() for _ in range(3)]
    assert names == ["portrait-edited.png", "portrait-edited-2.png", "portrait-edited-3.png"]
    first = Path(names[0]).read_bytes()
    assert limner("edit", portrait, "a person", "--neutral", "a hat", "-o", names[0]).code == 0
    assert Path(names[0]).read_bytes() != first
    assert [limner("invert", portrait).out.strip() for _ in range(2)] == ["portrait.npy", "portrait-2.npy"]
    assert [limner("sample").out.strip() for _ in range(2)] == ["sample.png", "sample-2.png"]
    Path("link.png").symlink_to("nowhere")
    assert free_name(Path("link.png")) == Path("link-2.png")


@pytest.mark.parametrize("other", ["a.png", "./a.png", "x/../a.png"])
def test_two_outputs_of_one_name_are_refused(other: str, limner: Run, portrait: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    before = sorted(tmp_path.rglob("*"))
    ran = limner("edit", portrait, BEARD, "-o", "a.png", "--sheet", other)
    assert ran.code == 2 and "sheet: got" in ran.err and "which is --output as well" in ran.err
    assert sorted(tmp_path.rglob("*")) == before


def test_replay_looks_beside_the_picture(limner: Run, portrait: Path, tmp_path: Path, monkeypatch: Any) -> None:
    assert limner("edit", portrait.name, BEARD, "-o", "a.png").code == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert limner("replay", "../a.png").code == 0
    portrait.unlink()
    ran = limner("replay", "../a.png")
    assert ran.code == 2 and "nor beside 'a.png'; allowed: --source FILE, where it is now" in ran.err


def test_a_folder_of_pictures(limner: Run, portrait: Path, tmp_path: Path) -> None:
    folder = tmp_path / "portraits"
    folder.mkdir()
    image = Image.open(portrait)
    image.save(folder / "a.png")
    image.save(folder / "b.jpg", quality=95)
    image.save(folder / "c.bmp")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("x")
    ran = limner("edit", "portraits/", BEARD, "--out", "edited", "--sheet", "sheet.png", "--json")
    assert ran.code == 1, ran.err
    data = json.loads(ran.out)
    assert [one["output"] for one in data["edits"]] == ["edited/a.png", "edited/b.jpg", "edited/c.png"]
    assert [one["source"] for one in data["failed"]] == ["portraits/broken.png"]
    assert "1 of 4 failed:" in ran.err and "2 of 4: portraits/b.jpg -> edited/b.jpg" in ran.err
    assert sorted(path.name for path in (tmp_path / "edited").iterdir()) == ["a.png", "b.jpg", "c.png"]
    assert limner("replay", "edited/b.jpg").code == 0 and Image.open("sheet.png").height > 3 * 192
    again = limner("edit", "portraits/a.png", "seed:7", BEARD, "--out", "edited")
    assert again.code == 0 and again.out.split() == ["edited/a-2.png", "edited/seed-7.png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("p/", BEARD), "output: got nothing; allowed: a folder for the edited pictures, --out FOLDER"),
        (("empty/", BEARD, "--out", "e"), "a folder without pictures"),
        (("p/", BEARD, "--out", "p/a.png"), "output: got the file 'p/a.png'"),
        (("p/", BEARD, "--out", "no/where"), "missing folder"),
        (("p/", BEARD, "--out", "e", "--maps", "m"), "--maps with"),
        (("p/", BEARD, "--out", "e", "--crop", "c.png"), "--crop with one source alone"),
        (("p/", BEARD, "--out", "e", "--strength", "1000"), "prompts.strength"),
        (("seed:1", "seed:2", "--out", "e"), "TEXT: got nothing"),
    ],
)
def test_bad_folders(arguments: tuple[str, ...], words: str, limner: Run, portrait: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "p").mkdir()
    Image.open(portrait).save(tmp_path / "p" / "a.png")
    ran = limner("edit", *arguments)
    assert words in ran.err and ran.code == 2 and not (tmp_path / "e").exists()


def test_a_text_that_is_also_the_name_of_a_folder_is_a_text(limner: Run, portrait: Path, tmp_path: Path) -> None:
    (tmp_path / "beard").mkdir()
    ran = limner("edit", portrait, "beard", "-o", "a.png")
    assert ran.code == 0, ran.err


def test_a_bad_request_fails_before_any_source_is_edited(limner: Run, portrait: Path, tmp_path: Path) -> None:
    """What is wrong with every edit is said once, with exit code 2."""
    (tmp_path / "p").mkdir()
    Image.open(portrait).save(tmp_path / "p" / "a.png")
    for arguments in (("--set", "alpah=3"), ("--strength", "1000"), ("--blend", "x")):
        ran = limner("edit", "p/", BEARD, *arguments, "--out", "e")
        assert ran.code == 2 and ran.err.count("\n") == 1 and not (tmp_path / "e").exists(), ran.err
