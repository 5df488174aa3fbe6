"""Signed Content Credentials and what a picture says of itself; validated by c2pa-python's reader and by exiftool."""

import io
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from PIL import Image
from support.certificates import Issued, issued

from limner.runtime.errors import InputError
from limner.runtime.marking.credentials import read_credentials
from limner.runtime.marking.manifest import MIME, mime_of, signed
from limner.runtime.marking.signing import environment_signing, load_signing
from limner.runtime.pictures.writing import encode_picture
from limner.runtime.pictures.xmp import COMPOSITE, GENERATED

pytest.importorskip("c2pa")
RECIPE = "ab" * 32
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Issued:
    return issued(tmp_path_factory.mktemp("signer"))


def picture(kind: str = "PNG", seed: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, (64, 48, 3)).astype(np.uint8)).save(stream, kind)
    return stream.getvalue()


def ours(suffix: str, mark: str = COMPOSITE) -> bytes:
    pixels = np.random.RandomState(5).randint(0, 256, (40, 40, 3)).astype(np.uint8)
    return encode_picture(pixels, suffix, {"limner.software": "limner"}, mark)[0]


# --- signing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("kind", [None, *FORMATS])
def test_a_signed_picture_holds_with_its_parent(signer: Issued, suffix: str, kind: str | None) -> None:
    by = load_signing(str(signer.chain), str(signer.key))
    data, source = ours(suffix), None if kind is None else picture(kind)
    found = signed(data, suffix, RECIPE, source, by)
    said = read_credentials(found, signer.authority.read_text())
    assert said is not None and (said.state, said.signer, said.recipe) == ("trusted", "Test signer", RECIPE)
    assert said.actions == ("c2pa.created" if kind is None else "c2pa.opened", "c2pa.edited")
    assert said.parents == (() if kind is None else ("source, without credentials",))
    assert said.software is not None and said.software.startswith("Limner")
    assert len(found) - len(data) < 6000
    before, after = (np.array(Image.open(io.BytesIO(one)).convert("RGB")) for one in (data, found))
    assert np.array_equal(before, after)
    without = read_credentials(found)
    assert without is not None and without.state == "valid"  # nobody is trusted


@pytest.mark.parametrize("kind", ["es256", "es384", "es512", "ps256", "ed25519"])
def test_keys_of_every_kind(tmp_path: Path, kind: str) -> None:
    files = issued(tmp_path, kind)
    by = load_signing(str(files.chain), str(files.key))
    assert by.algorithm == kind
    found = read_credentials(signed(ours(".png"), ".png", RECIPE, picture(), by), files.authority.read_text())
    assert found is not None and found.state == "trusted"


def test_a_signer_elsewhere(signer: Issued, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a PKCS#11 module or a remote signer would: a function that gets bytes; here with the key of the test."""
    import support.certificates as module

    def sign(data: bytes) -> bytes:
        r, s = decode_dss_signature(signer.private.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")  # as COSE has it

    monkeypatch.setattr(module, "sign_elsewhere", sign, raising=False)
    by = load_signing(str(signer.chain), callback="support.certificates:sign_elsewhere")
    found = read_credentials(signed(ours(".png"), ".png", RECIPE, None, by), signer.authority.read_text())
    assert found is not None and found.state == "trusted"


def test_the_parent_s_own_manifest_is_kept(signer: Issued) -> None:
    by = load_signing(str(signer.chain), str(signer.key))
    first = signed(ours(".jpg", GENERATED), ".jpg", "cd" * 32, None, by)
    second = signed(ours(".png"), ".png", RECIPE, first, by)
    said = read_credentials(second, signer.authority.read_text())
    assert said is not None and said.state == "trusted" and said.parents == ("source, whose credentials hold",)
    import c2pa

    store = json.loads(c2pa.Reader("image/png", io.BytesIO(second)).json())
    assert len(store["manifests"]) == 2
    recipes = [json.dumps(one) for one in store["manifests"].values()]
    assert any("cd" * 32 in one for one in recipes) and any(RECIPE in one for one in recipes)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_changed_pixel_is_found(signer: Issued, suffix: str) -> None:
    by = load_signing(str(signer.chain), str(signer.key))
    data = bytearray(signed(ours(suffix), suffix, RECIPE, picture(), by))
    place = {".png": data.rfind(b"IDAT") + 40, ".jpg": len(data) - 60, ".webp": data.find(b"VP8") + 60}[suffix]
    data[place] ^= 1
    said = read_credentials(bytes(data), signer.authority.read_text())
    assert said is not None and said.state == "broken" and "assertion.dataHash.mismatch" in said.problems


def test_a_broken_parent_is_named_as_broken(signer: Issued) -> None:
    by = load_signing(str(signer.chain), str(signer.key))
    parent = bytearray(signed(ours(".jpg"), ".jpg", RECIPE, None, by))
    parent[-60] ^= 1
    said = read_credentials(signed(ours(".png"), ".png", RECIPE, bytes(parent), by))
    assert said is not None and said.state == "valid" and said.parents == ("source, whose credentials do not hold",)


# --- signers that are none --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"first": -10, "last": -1}, "LIMNER_SIGNING_CERT.*which ended on"),
        ({"first": 2}, "LIMNER_SIGNING_CERT.*which begins on"),
        ({"usage": "key_encipherment"}, "not for signatures"),
        ({"bare": True}, "docs/marking.md"),
        ({"kind": "k1"}, "secp256k1.*P-256"),
        ({"passphrase": b"x"}, "LIMNER_SIGNING_KEY.*passphrase"),
    ],
)
def test_certificates_that_do_not_sign(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    files = issued(tmp_path, **options)
    with pytest.raises(InputError, match=said):
        load_signing(str(files.chain), str(files.key))


def test_a_key_of_another(signer: Issued, tmp_path: Path) -> None:
    other = issued(tmp_path)
    with pytest.raises(InputError, match="not the certificate's"):
        load_signing(str(signer.chain), str(other.key))
    with pytest.raises(InputError, match="an authority's"):
        load_signing(str(signer.authority), str(signer.key))
    (tmp_path / "noise").write_bytes(b"\xff\0 noise")
    for chain, key in ((tmp_path / "noise", signer.key), (signer.chain, tmp_path / "noise"), (signer.chain, tmp_path)):
        with pytest.raises(InputError, match="LIMNER_SIGNING"):
            load_signing(str(chain), str(key))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"KEY": "k"}, "LIMNER_SIGNING_CERT beside it"),
        ({"CERT": "c"}, "neither of"),
        ({"CERT": "c", "KEY": "k", "CALLBACK": "m:f"}, "both of"),
        ({"CERT": "nowhere.pem", "KEY": "k"}, "LIMNER_SIGNING_CERT"),
        ({"CERT": "c", "KEY": "k", "TSA": "ftp://x"}, "a URL"),
    ],
)
def test_an_environment_that_names_half(names: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        environment_signing({f"LIMNER_SIGNING_{name}": value for name, value in names.items()})
    assert environment_signing({}) is None


@pytest.mark.parametrize("name", ["nothing", "no.module:f", "json:nothing", "json:__doc__", ":f", "json:"])
def test_functions_that_are_none(signer: Issued, name: str) -> None:
    with pytest.raises(InputError, match="CALLBACK"):
        load_signing(str(signer.chain), callback=name)


# --- reading ----------------------------------------------------------------------------------------------


def test_pictures_without_credentials(tmp_path: Path) -> None:
    for kind in (*FORMATS, "GIF", "BMP"):
        assert read_credentials(picture(kind)) is None
    assert read_credentials(b"no picture") is None and mime_of(b"") is None
    assert {mime_of(picture(kind)) for kind in ("PNG", "JPEG", "WEBP")} == set(MIME.values())
    with pytest.raises(InputError, match="anchors"):
        read_credentials(picture(), "nonsense")


def test_manifests_that_are_noise_are_read_as_broken(signer: Issued) -> None:
    data = bytearray(signed(ours(".png"), ".png", RECIPE, None, load_signing(str(signer.chain), str(signer.key))))
    start = data.find(b"caBX")
    rng = np.random.default_rng(0)
    for _ in range(60):
        hurt = bytearray(data)
        for place in rng.integers(start + 4, start + 3000, 5):
            hurt[place] = int(rng.integers(256))
        found = read_credentials(bytes(hurt))
        assert found is None or found.state == "broken"


# --- the commands -----------------------------------------------------------------------------------------


def test_edit_signs_and_inspect_says_so(
    limner: Callable[..., Any], toy_folder: Path, tmp_path: Path, signer: Issued, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first.png", tmp_path / "second.jpg"
    edit = ("edit", "--bundle", toy_folder, "--method", "global-directions")
    refused = limner(*edit, "seed:1", "a cat", "-o", first, "--sign")
    assert refused.code == 2 and "LIMNER_SIGNING_CERT" in refused.err and not first.exists()
    monkeypatch.setenv("LIMNER_SIGNING_CERT", str(signer.chain))
    monkeypatch.setenv("LIMNER_SIGNING_KEY", str(signer.key))
    assert limner(*edit, "seed:1", "a cat", "-o", first).code == 0
    made = limner(*edit, first, "a dog", "-o", second, "--strict", "--json")
    assert made.code == 0 and not any("Credentials" in one for one in json.loads(made.out)["warnings"])
    said = json.loads(limner("inspect", second, "--anchors", signer.authority, "--json").out)
    assert said["source_type"] == COMPOSITE and said["recipe"]["prompts"][0]["text"] == "a dog"
    assert said["credentials"]["state"] == "trusted"
    assert said["credentials"]["parents"] == ["source, whose credentials hold"]
    assert limner("replay", first, "--bundle", toy_folder).code == 0  # marks change no pixel
    shown = limner("inspect", first)
    assert shown.code == 0 and "hold; whether the signer" in shown.out and "those of the recipe's edit" in shown.out
    assert limner(*edit, "seed:1", "a cat", "-o", tmp_path / "plain.png", "--no-sign").code == 0
    assert "credentials    none" in limner("inspect", tmp_path / "plain.png").out

    broken = bytearray(second.read_bytes())
    broken[-60] ^= 1
    second.write_bytes(bytes(broken))
    shown = limner("inspect", second)
    assert shown.code == 1 and "DO NOT HOLD" in shown.out
    kept = limner(*edit, second, "a cat", "-o", tmp_path / "third.png")
    assert kept.code == 0 and "Content Credentials do not hold (assertion.dataHash.mismatch)" in kept.err
    strict = limner(*edit, second, "a cat", "-o", tmp_path / "fourth.png", "--strict")
    assert strict.code == 2 and "--strict" in strict.err and not (tmp_path / "fourth.png").exists()


def test_inspect_of_what_is_no_picture(limner: Callable[..., Any], tmp_path: Path, portrait: Path) -> None:
    assert "nothing says so" in limner("inspect", portrait).out
    (tmp_path / "x.png").write_bytes(b"no picture")
    for words in ((tmp_path / "x.png",), (tmp_path,), (tmp_path / "none.png",), (portrait, "--anchors", portrait)):
        done = limner("inspect", *words)
        assert done.code == 2 and "Traceback" not in done.err, words


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_exiftool_reads_the_mark(suffix: str, tmp_path: Path, signer: Issued) -> None:
    program = shutil.which("exiftool")
    if program is None:
        pytest.skip("there is no exiftool: apt install libimage-exiftool-perl")
    by = load_signing(str(signer.chain), str(signer.key))
    for name, data in (("plain", ours(suffix)), ("signed", signed(ours(suffix), suffix, RECIPE, None, by))):
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(data)
        ran = subprocess.run(
            [program, "-s3", "-n", "-XMP-iptcExt:DigitalSourceType", path], capture_output=True, text=True
        )
        assert ran.stdout.strip() == COMPOSITE


def test_the_documented_lines_run(
    repository: Path, tmp_path: Path, limner: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line of docs/marking.md as it is written, with the certificate that it makes."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    text = (repository / "docs" / "marking.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    monkeypatch.chdir(tmp_path)
    shutil.copy(repository / "checkpoints" / "avatars" / "pictures" / "test-0115.png", "portrait.png")
    (certificate,) = [one for one in blocks if "openssl" in one]
    ran = subprocess.run(["bash", "-ec", certificate], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    for line in [line for one in blocks if one != certificate for line in one.splitlines()]:
        if line.startswith("export "):
            for pair in line.split()[1:]:
                monkeypatch.setenv(*pair.split("="))
            continue
        done = limner(*shlex.split(line)[1:])
        assert done.code == 0, (line, done.err)
    assert "an authority that you trust" in limner("inspect", "signed.png", "--anchors", "ca.pem").out
    assert "invisible mark lattice" in limner("inspect", "marked.jpg").out
