"""Where an edit starts: a file that was dropped, a seed, words, an example; and recipes that come in files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from limner.runtime.bundle.shipped import checkpoints_folder
from limner.runtime.errors import InputError
from limner.runtime.faces.face import Face, Framing
from limner.runtime.faces.finders import faces_in
from limner.runtime.faces.landmarks import Points, check_landmarks, choose_face
from limner.runtime.page.asking import LATENTS
from limner.runtime.pictures.carried_texts import RECIPE
from limner.runtime.pictures.images import MAX_BYTES, read_photo, read_texts
from limner.runtime.provenance import read_recipe
from limner.runtime.recipe import MAX_SEED, Recipe, Source
from limner.runtime.schema import parse_json, require_int, require_number
from limner.runtime.server.settings import Limits
from limner.runtime.server.uploads import Given, check_size, safe_name
from limner.runtime.storage.files import read_plain, sha256_bytes

__all__ = ["Taken", "example_pictures", "face_of", "find_file", "seeded", "take", "worded"]

JSON = ".json"


@dataclass(frozen=True)
class Taken:
    """What came with files: a recipe to replay, or a file to start from, and whatever lay beside."""

    path: Path | None = None  # a picture, latents
    recipe: Recipe | None = None
    picture: Path | None = None  # the one that carries `recipe`


def take(paths: Sequence[str], keep: Any, limits: Limits) -> Taken:
    """Keep the files that were dropped, by `keep(name, data)`. A recipe goes first, in its own file or in a picture.

    InputError for what is no picture, no recipe and no latents, and for more of it than one edit takes.
    """
    recipes: list[tuple[Recipe, Path | None]] = []
    plain: list[Path] = []
    for given in map(Path, paths):
        data = read_plain(given, "file", MAX_BYTES)
        name, suffix = safe_name(given.name), given.suffix.lower()
        if suffix == JSON:
            recipes.append((Recipe.from_dict(parse_json(data, name)), None))
            continue
        check_size(Given(name, data), limits)
        if suffix != LATENTS:
            read_photo(given, "file")  # says what it is, if it is none
        path = keep(name, data)
        if suffix != LATENTS and RECIPE in read_texts(path, "file"):
            recipes.append((read_recipe(path, "file"), path))
        else:
            plain.append(path)
    if recipes:
        alone = [one for one in recipes if one[1] is None] or recipes
        sources = {one.source.sha256 for one, _ in recipes}  # a result that another one started from may lie beside
        last = [one for one in alone if one[1] is None or sha256_bytes(one[1].read_bytes()) not in sources]
        recipe, picture = (last or alone)[0]
        return Taken(recipe=recipe, picture=picture)
    if len(plain) != 1:
        raise InputError("files", f"{len(plain)} pictures", "one picture, or a recipe and the picture it starts from")
    return Taken(path=plain[0])


def find_file(recipe: Recipe, desk: Any) -> Recipe:
    """A recipe from outside with its file where it lies on the desk or among the examples, by its hash alone.

    A path of the recipe's own is never followed. InputError that names the file which is to be dropped beside it.
    """
    source = recipe.source
    if source.kind == "image" and source.path is None:
        raise InputError("source", "a recipe of an array", "one of a file")
    if source.path is not None and source.sha256 is not None:
        for path in example_pictures():
            if sha256_bytes(path.read_bytes()) == source.sha256:
                return replace(recipe, source=replace(source, path=str(desk.keep(path.name, path.read_bytes()))))
    placed: Recipe = desk.placed(recipe)
    return placed


def example_pictures() -> list[Path]:
    """The shipped pictures."""
    return sorted((checkpoints_folder() / "avatars" / "pictures").glob("*.png"))


def seeded(seed: object, truncation: object) -> Source:
    """A picture that the generator makes."""
    number = require_int("seed", _whole(seed), 0, MAX_SEED)
    return Source.from_seed(number, require_number("truncation", truncation, 0.0, 1.0))


def worded(text: str, seed: object) -> Source:
    """A picture that the diffusion model makes."""
    return Source.from_prompt(text.strip(), require_int("seed", _whole(seed), 0, MAX_SEED))


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def face_of(path: Path, points: str, finder: str, index: str, scale: object, shift: object, paste: str) -> Face | None:
    """The face of a photograph: its points as JSON, or by a finder; None where nothing is said of one."""
    framing = Framing(
        require_number("framing.scale", scale, 0.25, 4.0), require_number("framing.shift", shift, -1.0, 1.0)
    )
    if points and points.strip():
        return Face(_points(points), framing, paste)  # type: ignore[arg-type]
    if not finder:
        return None
    faces = faces_in(finder, path, "face", "or its points")
    return Face(choose_face(faces, _index(index)), framing, paste)  # type: ignore[arg-type]


def _index(text: str) -> int | None:
    if not text.strip():
        return None
    if not text.strip().isdecimal():
        raise InputError("face", repr(text), "a whole number from 0")
    return int(text)


def _points(text: str) -> Points:
    data = parse_json(text, "points")
    if isinstance(data, list) and len(data) < 5:
        raise InputError("points", f"{len(data)} points", "5 or 68: eyes, nose, corners of the mouth", "go on clicking")
    return check_landmarks(data, "points")
