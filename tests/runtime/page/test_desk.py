"""What a browser has made, as files: kept, found by their hash, numbered while several tabs write, forgotten."""

import io
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from limner.runtime import InputError, Recipe, Source
from limner.runtime.page.desk import MOST_SOURCES, MOST_VERSIONS, Desk, Overlay, Version, forget_old_desks, new_secret
from limner.runtime.storage.files import sha256_bytes

RECIPE = {
    "method": "global-directions",
    "source": {"kind": "image", "path": "me.png"},
    "prompts": [{"text": "a beard"}],
}


def picture(colour: str = "red") -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(held, "PNG")
    return held.getvalue()


def version(**more: object) -> Version:
    overlay = Overlay("mask", "mask", "data:image/png;base64,AAAA")
    found = Version(0, None, "a beard", "avatars:global-directions", RECIPE, RECIPE, overlays=(overlay,))
    return replace(found, **more)  # type: ignore[arg-type]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "pages", new_secret())


def test_kept_and_found(desk: Desk) -> None:
    path = desk.keep("me.png", picture())
    assert desk.keep("me.png", picture()) == path and path.read_bytes() == picture()
    digest = sha256_bytes(picture())
    assert desk.place(Source("image", path="elsewhere/me.png", sha256=digest)) == path
    assert desk.place(Source("image", path="me.png"), digest) == path
    assert desk.place(Source("image", path="me.png")) is None  # a name alone finds nothing
    assert desk.place(Source("image", path=str(path), sha256="0" * 64)) is None
    made = desk.add(version(digest=digest), picture("blue"), picture())
    assert desk.place(Source("image", path="x.png", sha256=sha256_bytes(picture("blue")))) == desk.picture(1)
    assert desk.asked(made).source.path == str(path)
    with pytest.raises(InputError, match=r"'me\.png', which is not here"):
        desk.placed(Recipe.from_dict(RECIPE))


def test_versions_come_back(desk: Desk) -> None:
    first = desk.add(version(warnings=("one",), scores={"pixel": 0.5}), picture(), picture("blue"))
    second = desk.add(version(parent=1), picture(), picture())
    assert desk.versions() == [first, second] and [first.number, second.number] == [1, 2]
    desk.change(replace(first, strength=0.5), picture("green"))
    assert desk.version(1).strength == 0.5 and desk.picture(1).read_bytes() == picture("green")
    assert desk.before(1).read_bytes() == picture("blue")
    (desk.folder / "versions" / "0001" / "version.json").write_text("{")  # a crash in between, or another program
    assert [one.number for one in desk.versions()] == [2]
    with pytest.raises(InputError, match="1, which is gone"):
        desk.version(1)
    assert desk.add(version(), picture(), picture()).number == 3


def test_two_tabs_at_once(desk: Desk) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(
            threads.map(lambda _: Desk(desk.folder.parent, SECRET).add(version(), picture(), picture()), range(40))
        )
    assert sorted(one.number for one in made) == list(range(1, 41))


SECRET = new_secret()


def test_too_many(desk: Desk) -> None:
    for number in range(1, MOST_VERSIONS + 1):
        (desk.folder / "versions" / f"{number:04d}").mkdir(parents=True)
    with pytest.raises(InputError, match="at most 200"):
        desk.add(version(), picture(), picture())
    kept = desk.keep("me.png", picture())
    for number in range(MOST_SOURCES):
        (desk.folder / "sources" / f"{number:032d}").mkdir()
    with pytest.raises(InputError, match="at most 400"):
        desk.keep("me.png", picture("blue"))
    assert desk.keep("me.png", picture()) == kept  # what is there already


def test_whose_it_is(tmp_path: Path) -> None:
    names = {Desk(tmp_path, SECRET).name, Desk(tmp_path, SECRET, "anna").name, Desk(tmp_path, new_secret()).name}
    assert len(names) == 3 and not any(SECRET in name for name in names)
    for secret in ("", "short", "../" * 10, "a" * 65, "\u00e9" * 30, SECRET + "\n", "a/b" * 10):
        with pytest.raises(InputError, match="a name that this page did not give"):
            Desk(tmp_path, secret)


def test_forgotten(desk: Desk, tmp_path: Path) -> None:
    desk.keep("me.png", picture())
    other = Desk(tmp_path / "pages", new_secret())
    other.keep("me.png", picture())
    old = time.time() - 40 * 86_400
    os.utime(other.folder / "touched", (old, old))
    forget_old_desks(tmp_path / "pages")
    assert desk.folder.is_dir() and not other.folder.exists()
    desk.forget()
    assert not desk.folder.exists() and desk.versions() == []
    desk.forget()


def test_what_lies_there_is_data(desk: Desk) -> None:
    """A version's file that was changed is refused, not followed."""
    desk.add(version(), picture(), picture())
    path = desk.folder / "versions" / "0001" / "version.json"
    for changed in ({"number": "1"}, {"more": 1}, {"overlays": [1]}, {"asked": "x"}):
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))
        assert desk.versions() == []
