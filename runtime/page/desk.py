"""What one browser has made, as files: the sources that it sent, and its versions.

    pages/<desk>/sources/<sha256>/<name>        a file as it came, a picture, latents
    pages/<desk>/versions/0001/limner-0001.png  the result with its recipe, as `limner replay` takes it
                               before.png       what it is compared with
                               version.json     all else, written last: a version without it is none

A desk is named by a secret that the browser keeps, so that a reload, another tab and a new start of the server find it.
"""

import contextlib
import json
import re
import secrets
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from limner.runtime.errors import InputError
from limner.runtime.page.placing import Square
from limner.runtime.recipe import Recipe, Source
from limner.runtime.schema import from_dict, read_json
from limner.runtime.storage.files import sha256_bytes, write_atomically

__all__ = ["MOST_SOURCES", "MOST_VERSIONS", "Desk", "Overlay", "Version", "forget_old_desks", "new_secret"]

SECRET = re.compile(r"[\w-]{22,64}", re.ASCII)
MOST_VERSIONS = 200
MOST_SOURCES = 400
KEPT_S = 30 * 86_400.0  # of a desk that nobody touched


@dataclass(frozen=True)
class Overlay:
    """Something to be seen over the picture: where a word looks, the mask of a concept."""

    name: str
    kind: str  # "word", "mask"
    image: str  # PNG with transparency, as a data URL


@dataclass(frozen=True)
class Version:
    """One result."""

    number: int
    parent: int | None  # what it was made from, where that is a result as well
    title: str
    model: str  # of the server: BUNDLE:METHOD
    asked: dict[str, Any]  # the recipe as it was asked for; its file is named by its name alone
    recipe: dict[str, Any]  # the complete one
    digest: str = ""  # sha256 of the file that `asked` starts from, where it is one
    shows: str | None = None  # what the result shows, as far as words say it
    overlays: tuple[Overlay, ...] = ()
    warnings: tuple[str, ...] = ()
    scores: dict[str, float] | None = None
    milliseconds: float = 0.0
    square: Square | None = None  # of a face in a photograph, which overlays are laid over
    thumb: str = ""  # JPEG, as a data URL
    strength: float = 1.0  # what all strengths of `asked` are multiplied with


def new_secret() -> str:
    """The name of a new desk."""
    return secrets.token_urlsafe(24)


class Desk:
    """The files of one browser; several tabs may write at one time."""

    def __init__(self, pages: Path, secret: str, owner: str = "") -> None:
        if not SECRET.fullmatch(secret):
            raise InputError("desk", "a name that this page did not give", "the one that the browser keeps")
        self.name = sha256_bytes(f"{owner}\n{secret}".encode())[:32]  # the folder gives the secret to nobody
        self.folder = pages / self.name

    def keep(self, name: str, data: bytes) -> Path:
        """Keep a file that came, under its name, once. InputError where there are too many."""
        folder = self.folder / "sources" / sha256_bytes(data)[:32]
        path = folder / name
        if not path.is_file():
            if len([*self.folder.glob("sources/*")]) >= MOST_SOURCES:
                raise InputError("sources", f"{MOST_SOURCES} of them", f"at most {MOST_SOURCES}", "forget them, below")
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data, "source")
        self.touch()
        return path

    def place(self, source: Source, digest: str = "") -> Path | None:
        """Where the file of a source lies on this desk, by its hash; None where it is not."""
        wanted = source.sha256 or digest
        if not wanted:
            return None
        for path in self.folder.glob(f"sources/{wanted[:32]}/*"):
            return path
        results = self.folder.glob("versions/*/limner-*.png")
        return next((path for path in results if sha256_bytes(path.read_bytes()) == wanted), None)

    def versions(self) -> list[Version]:
        """All of them in the order in which they were made; those that do not read are left out."""
        found = []
        for path in sorted(self.folder.glob("versions/*/version.json")):
            with contextlib.suppress(InputError):
                found.append(from_dict(Version, read_json(path, "version"), "version"))
        return found

    def version(self, number: int) -> Version:
        """One of them; InputError where it is gone."""
        try:
            return from_dict(Version, read_json(self._of(number) / "version.json", "version"), "version")
        except InputError as reason:
            raise InputError("version", f"{number}, which is gone", "one of the strip") from reason

    def picture(self, number: int) -> Path:
        """The file of a result."""
        return self._of(number) / f"limner-{number:04d}.png"

    def before(self, number: int) -> Path:
        """The picture that it is compared with."""
        return self._of(number) / "before.png"

    def add(self, version: Version, picture: bytes, before: bytes) -> Version:
        """Keep a result under the next number, which it comes back with. InputError where there are too many."""
        taken = [int(path.name) for path in self.folder.glob("versions/*") if path.name.isdigit()]
        if len(taken) >= MOST_VERSIONS:
            raise InputError("versions", f"{len(taken)} of them", f"at most {MOST_VERSIONS}", "forget them, below")
        number = max(taken, default=0)
        while True:  # another tab may be as quick
            number += 1
            with contextlib.suppress(FileExistsError):
                self._of(number).mkdir(parents=True)
                break
        version = replace(version, number=number)
        write_atomically(self.before(number), before, "version")
        self.change(version, picture)
        return version

    def change(self, version: Version, picture: bytes) -> None:
        """Another picture and what is known of it in the place of a version's own, as its strength changes."""
        write_atomically(self.picture(version.number), picture, "version")
        text = json.dumps(asdict(version), ensure_ascii=False, allow_nan=False)
        write_atomically(self._of(version.number) / "version.json", text.encode(), "version")
        self.touch()

    def asked(self, version: Version) -> Recipe:
        """The recipe that a version was asked for, its file where it lies here; InputError where that is gone."""
        return self.placed(Recipe.from_dict(version.asked), version.digest)

    def placed(self, recipe: Recipe, digest: str = "") -> Recipe:
        """A recipe with its file where it lies here."""
        source = recipe.source
        if source.path is None:
            return recipe
        path = self.place(source, digest)
        if path is None:
            name = Path(source.path).name
            raise InputError("source", f"a recipe of the file {name!r}, which is not here", "that file, dropped beside")
        return replace(recipe, source=replace(source, path=str(path)))

    def forget(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def touch(self) -> None:
        """Somebody uses it."""
        with contextlib.suppress(OSError):
            (self.folder / "touched").touch()

    def _of(self, number: int) -> Path:
        return self.folder / "versions" / f"{number:04d}"


def forget_old_desks(pages: Path, seconds: float = KEPT_S) -> None:
    """Delete desks that nobody has touched for so long."""
    for folder in pages.glob("*/"):
        with contextlib.suppress(OSError):
            mark = folder / "touched"
            if time.time() - (mark if mark.exists() else folder).stat().st_mtime > seconds:
                shutil.rmtree(folder, ignore_errors=True)
