"""The `limner` lines of README and documentation, run as they are written, in this order; each picture is judged.

What trains, exports or imports runs at its own tests; here it is only checked that it does not run unseen.
"""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from limner.runtime.bundle.shipped import checkpoints_folder
from limner.runtime.cli import main
from limner.runtime.pictures.images import read_photo, to_float
from limner.training.models.store import load_model

ROOT = Path(__file__).resolve().parents[1]
PICTURES = checkpoints_folder() / "avatars" / "pictures"
# Verbs whose lines have tests of their own: those of trainings, exports (test_full_scale.py), imports (the same) and
# studies (runtime/study/test_study.py); a server's and its client's (runtime/server/test_documented.py) and the page's
# (runtime/page/test_documented_page.py). Those of marks need a certificate (runtime/marking/test_marking.py).
ELSEWHERE = ("train", "export", "study", "models import", "edit seed:1 --mapper afro --bundle ffhq-bundle", "serve",
             "keys", "ui", "edit me.png --concept +glasses --server")  # fmt: skip
FINDER = """
def find(image_u8):
    import json
    return [json.load(open("face.json")) for _ in range(2)]
"""


FIRST = ("README.md", "docs/use.md", "docs/faces.md", "docs/methods/sega.md", "docs/methods/prompt-to-prompt.md")


def pages() -> list[Path]:
    """Every page that a person reads, those whose lines build on each other first."""
    first = [ROOT / name for name in FIRST]
    others = [
        path
        for path in sorted((ROOT / "docs").rglob("*.md"))
        if path not in first and path.parent.name != "reference" and path.name != "marking.md"
    ]
    return [*first, *others]


def all_lines() -> list[str]:
    """The `limner` lines of all pages, each once."""
    text = "\n".join(path.read_text() for path in pages())
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", "").splitlines()]
    return list(dict.fromkeys(line.split("  #")[0].strip() for line in lines if line.startswith("limner ")))


def readme_lines() -> list[str]:
    return [line for line in all_lines() if not line.removeprefix("limner ").startswith(ELSEWHERE)]


# line -> (picture, what the judge sees in it); a line that makes no edit is compared in `CHECKS`
JUDGED: dict[str, list[tuple[str, dict[str, str]]]] = {
    "limner edit portrait.png --mapper glasses -o": [("glasses.png", {"eyewear": "glasses"})],
    'limner edit portrait.png "a bald person" -m': [("bald.png", {"hair": "bald"})],
    'limner edit seed:1 --source-prompt "a person with brown skin, short black hair and no beard in a red hoodie"   '
    '--prompt "a person with brown skin, short black hair and a beard in a red hoodie" --blend beard -o': [
        ("swapped.png", {"facial_hair": "beard", "hair_color": "black", "skin": "brown"})
    ],
    'limner edit seed:7 --source-prompt "a person with pale skin, short red hair and a beard"   --concept +glasses '
    "--concept -beard -o": [("steered.png", {"eyewear": "glasses", "hair_color": "red"})],
    'limner edit portrait.png "a person with a beard" -o': [("bearded.png", {"facial_hair": "beard"})],
    "limner edit portraits/": [(f"edited/{name}.png", {"eyewear": "glasses"}) for name in ("one", "two", "three")],
    'limner edit portrait.png "a person with glasses" "a person with a beard"': [
        ("portrait-edited.png", {"eyewear": "glasses", "facial_hair": "beard"})
    ],
    'limner edit portrait.png "a bald person"': [("portrait-edited-2.png", {"hair": "bald"})],
    'limner edit seed:7 "a person with sunglasses"': [("seed-7-edited.png", {"eyewear": "sunglasses"})],
    "limner edit portrait.png --method latent-mapper": [
        ("portrait-edited-3.png", {"eyewear": "glasses", "facial_hair": "beard"})
    ],
    "limner edit portrait.npy": [("portrait-edited-4.png", {"eyewear": "sunglasses"})],
    'limner edit photo.jpg "a person with a beard"': [("face.png", {"facial_hair": "beard"})],
    'limner edit photo.jpg "a smiling person"': [("photo-edited.png:face", {"expression": "smiling"})],
    "limner edit avatar.png": [("avatar-edited.png:face", {"eyewear": "glasses"})],
    'limner edit seed:7 --source-prompt "a person with pale skin': [
        ("seed-7-edited-2.png", {"eyewear": "glasses", "hair_color": "red"})
    ],
    'limner edit seed:7 --source-prompt "a smiling person with long brown hair': [
        ("seed-7-edited-3.png", {"eyewear": "glasses", "hair": "long", "hair_color": "brown"})
    ],
    "limner edit photo.png --method sega": [("photo-edited-2.png", {"eyewear": "glasses", "hair_color": "red"})],
    "limner edit seed:1": [("seed-1-edited.png", {"facial_hair": "beard", "hair_color": "black", "skin": "brown"})],
    "limner edit seed:3": [("seed-3-edited.png", {"hair_color": "pink", "hair": "short", "facial_hair": "none"})],
    "limner edit photo.png --method prompt-to-prompt": [
        ("photo-edited-3.png", {"hair_color": "blonde", "facial_hair": "none", "eyewear": "none"})
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: portraits, a photograph with a face in it, landmarks, and an installed finder."""
    root = tmp_path_factory.mktemp("readme")
    avatar = Image.open(PICTURES / "test-0014.png").convert("RGB")
    for name in ("portrait.png", "photo.png", "avatar.png"):
        avatar.save(root / name)
    (root / "portraits").mkdir()
    for name, number in (("one", "0014"), ("two", "0030"), ("three", "0091")):
        shutil.copyfile(PICTURES / f"test-{number}.png", root / "portraits" / f"{name}.png")
    wide = Image.new("RGB", (640, 480), (90, 120, 150))
    wide.paste(avatar.resize((256, 256), Image.Resampling.LANCZOS), (200, 120))
    wide.save(root / "photo.jpg", quality=95)
    site = root / "site"
    (site / "finder-1.0.dist-info").mkdir(parents=True)
    (site / "finder-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: finder\nVersion: 1.0\n")
    names = "[limner.landmark_finders]\ninsightface = readme_finder:find\n"
    (site / "finder-1.0.dist-info" / "entry_points.txt").write_text(names)
    (site / "readme_finder.py").write_text(FINDER)
    return root


def landmarks(of: str) -> list[list[float]]:
    """Eyes, nose and corners of the mouth of any avatar, in the picture of that name."""
    points = np.array([[51.8, 51], [76.5, 51], [64, 60.5], [58.5, 71.5], [69.5, 71.5]]) - 0.5
    found: list[list[float]] = ((points + 0.5) * 2 - 0.5 + [200, 120] if of == "photo.jpg" else points).tolist()
    return found


@pytest.fixture(scope="module")
def judge() -> Callable[[Path], dict[str, str]]:
    network: Any = load_model(ROOT / "checkpoints" / "avatars" / "judge").eval()

    def read(path: Path) -> dict[str, str]:
        """The attributes of a picture of 128 pixels; of name:face, of the avatar in it."""
        name, _, part = path.name.partition(":")
        image = Image.fromarray(read_photo(path.with_name(name)).on_white())
        if part and image.size == (640, 480):
            image = image.crop((200, 120, 456, 376))
        pixels = to_float(np.asarray(image.resize((128, 128), Image.Resampling.LANCZOS), np.uint8))
        found: dict[str, str] = network.words(network.read(torch.from_numpy(pixels)))[0]
        return found

    return read


@pytest.fixture
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder / "site"))
    yield folder
    sys.modules.pop("readme_finder", None)


@pytest.mark.parametrize("line", readme_lines())
def test_the_line_runs_as_written_and_its_picture_is_good(
    line: str, inside: Path, judge: Callable[[Path], dict[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(line)[1:]
    if "face.json" in line or "--landmark-finder" in line:
        source = "photo.jpg" if "photo.jpg" in line else "avatar.png"
        (inside / "face.json").write_text(json.dumps(landmarks(source)))
    code = main(words)
    ran = capfd.readouterr()
    assert code == 0, ran.err
    warnings = [said for said in ran.err.splitlines() if said.startswith("warning:")]
    assert all(said.startswith("warning: source: face of") for said in warnings), warnings
    if words[0] == "edit":
        key = max((start for start in JUDGED if line.startswith(start)), key=len)
        assert JUDGED[key], line
        for name, expected in JUDGED[key]:
            seen = judge(inside / name)
            assert {attribute: seen[attribute] for attribute in expected} == expected, name
    elif words[0] == "sample" and "--prompt" in words:
        made = np.asarray(Image.open("sample.png"))
        assert made.shape == (128, 8 * 128, 3)
        for place in range(8):
            Image.fromarray(made[:, 128 * place : 128 * (place + 1)]).save("one.png")
            seen = judge(inside / "one.png")
            assert seen["hair_color"] == "red" and seen["expression"] == "smiling", place
    elif words[0] == "sample":
        assert np.asarray(Image.open("samples.png")).shape == (8 * 128, 8 * 128, 3)
    elif words[0] == "invert":
        assert np.load("portrait.npy").ndim == 2 and np.isfinite(np.load("portrait.npy")).all()
    elif words[0] == "align":
        assert Image.open("crop.png").size == (1024, 1024)
    elif words[0] == "replay":
        assert "bearded.png: the same pixels" in ran.err
    else:
        assert words[0] in ("models", "check") and "avatars" in ran.out


def test_every_line_is_run_here_or_has_a_test_of_its_own() -> None:
    others = [line for line in all_lines() if line.removeprefix("limner ").startswith(ELSEWHERE)]
    assert len(readme_lines()) + len(others) == len(all_lines()) and len(readme_lines()) >= 27


def test_the_readme_is_a_door() -> None:
    assert len((ROOT / "README.md").read_bytes()) < 8000
