"""A picture that knows how it was made: the recipe in the file's metadata, and back to the same pixels.

Texts of a PNG (iTXt); in JPEG and WebP properties of the XMP packet (`pictures.xmp`):

    limner.recipe    the complete recipe as JSON: method, source and its sha256, words, parameters, bundle
    limner.bundle    the bundle's hash, as in the recipe
    limner.source    the sha256 of the source picture or latents, where there is one
    limner.provider  the execution provider; pixels repeat exactly on the same provider and machine
    limner.pixels    the sha256 of the pixels, uint8 [H,W,3], or [H,W,4] of a photograph with transparency
    limner.compare   "no" of an edit that was made without its comparison: rows that it left out change the rounding
    limner.watermark the name of an invisible mark that the pixels carry; limner.pixels is of those without it
    limner.software  "limner <version>"
    Source           "edited by a model": says to any reader that the picture is synthetic

The packet of all three says what the picture is (IPTC's DigitalSourceType): compositeWithTrainedAlgorithmicMedia
where it comes from a picture, trainedAlgorithmicMedia where it was made from a seed.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.completing import completed, idle_settings, without_idle
from limner.runtime.edit import Edit
from limner.runtime.editor import Editor
from limner.runtime.errors import InputError
from limner.runtime.marking.credentials import read_credentials
from limner.runtime.marking.manifest import mime_of, signed
from limner.runtime.marking.marks import NO_MARKS, Marks
from limner.runtime.marking.watermarks import PAYLOAD_BYTES, marked
from limner.runtime.photograph import whole_picture
from limner.runtime.pictures.carried_texts import (
    BUNDLE,
    COMPARE,
    PIXELS,
    PROVIDER,
    RECIPE,
    SOFTWARE,
    SOURCE,
    WATERMARK,
)
from limner.runtime.pictures.images import CREDENTIALS_LOST, png_bytes, read_texts
from limner.runtime.pictures.naming import require_picture_name
from limner.runtime.pictures.writing import encode_picture
from limner.runtime.pictures.xmp import COMPOSITE, GENERATED
from limner.runtime.recipe import Recipe
from limner.runtime.storage.files import sha256_bytes, write_atomically
from limner.runtime.timing import Progress
from limner.runtime.versions import package_version

__all__ = ["Replay", "encode_edit", "metadata", "read_recipe", "replay", "save_edit", "warnings_of", "write_edit"]

GENERATED_KINDS = ("seed", "prompt")


@dataclass(frozen=True, eq=False)
class Replay:
    """A replayed edit. `same_pixels` compares with the hash in the file; None if the file has none."""

    edit: Edit
    same_pixels: bool | None


def metadata(edit: Edit, image: NDArray[np.uint8] | None = None) -> dict[str, str]:
    """Return the text chunks of an edit's picture: `image`, or its whole picture."""
    recipe = edit.recipe
    texts = {
        RECIPE: recipe.to_json(),
        PROVIDER: edit.provider,
        PIXELS: _pixels_hash(whole_picture(edit) if image is None else image),
        SOFTWARE: f"limner {package_version('limner') or 'unknown'}",
        "Source": "edited by a model",
    }
    alone = None if edit.compared else "no"
    optional = {BUNDLE: recipe.bundle, SOURCE: recipe.source.sha256, COMPARE: alone}
    return texts | {key: value for key, value in optional.items() if value is not None}


def write_edit(
    path: str | Path,
    edit: Edit,
    field: str = "output",
    image: NDArray[np.uint8] | None = None,  # `edit.image`, or a whole picture that was made already
    marks: Marks = NO_MARKS,  # a signature, an invisible mark; `environment_marks()` for those of the environment
) -> Path:
    """Write the edited picture with its recipe as PNG, JPEG or WebP, whole or not at all; InputError naming `field`.

    An edit of a face writes the whole photograph unless it is given the face alone. With a signer in
    `marks` it carries Content Credentials that name its source as the parent.
    """
    save_edit(path, edit, field, image, marks)
    return Path(path)


def save_edit(
    path: str | Path, edit: Edit, field: str = "output", image: NDArray[np.uint8] | None = None,
    marks: Marks = NO_MARKS,
) -> list[str]:  # fmt: skip
    """`write_edit`, returning what was lost on the way, one sentence each."""
    data, notes = encode_edit(edit, require_picture_name(path, field), image, marks=marks, field=field)
    write_atomically(path, data, field)
    return notes


def encode_edit(
    edit: Edit,
    suffix: str,  # .png, .jpg, .webp
    image: NDArray[np.uint8] | None = None,
    recipe: Recipe | None = None,  # as it is written into the file, where that is not the edit's own
    marks: Marks = NO_MARKS,
    field: str = "output",
) -> tuple[bytes, list[str]]:
    """The bytes of an edit's file with its marks, signed if somebody signs, and what was lost on the way."""
    image = whole_picture(edit) if image is None else image
    named = edit if recipe is None else replace(edit, recipe=recipe)
    texts = metadata(named, image)
    digest = sha256_bytes(texts[RECIPE].encode())
    if marks.watermark is not None:  # limner.pixels stays that of the edit, which a replay makes again
        image = marked(image, marks.watermark, bytes.fromhex(digest)[:PAYLOAD_BYTES])
        texts[WATERMARK] = marks.watermark
    mark = GENERATED if edit.recipe.source.kind in GENERATED_KINDS else COMPOSITE
    data, notes = encode_picture(image, suffix, texts, mark, edit.carried, field)
    if marks.signing is None:
        return data, notes
    source = _source_bytes(edit)
    before = None if source is None else read_credentials(source)
    if before is not None and before.state == "broken":
        notes.append(
            f"the source's Content Credentials do not hold ({', '.join(before.problems)}); they are kept as such"
        )
    return signed(data, suffix, digest, source, marks.signing), notes


def warnings_of(edit: Edit, notes: Sequence[str], marks: Marks) -> list[str]:
    """What is to be said of an edit and its file; a signed one has kept the credentials of its source."""
    kept = [one for one in edit.warnings if marks.signing is None or not one.endswith(CREDENTIALS_LOST)]
    return [*kept, *notes]


def _source_bytes(edit: Edit) -> bytes | None:
    """What was edited, as a file: the source's own where it is still there, else its pixels; None of a seed."""
    source = edit.recipe.source
    if source.kind in GENERATED_KINDS:
        return None
    if source.kind == "image" and source.path is not None:
        with suppress(OSError):
            data = Path(source.path).read_bytes()
            if sha256_bytes(data) == source.sha256 and mime_of(data) is not None:
                return data
    return png_bytes(edit.source)


def read_recipe(path: str | Path, field: str = "picture") -> Recipe:
    """Return the recipe in a picture file; InputError naming `field` if it carries none."""
    return _recipe_of(read_texts(path, field), path, field)


def replay(
    path: str | Path,  # a picture written by `write_edit`
    editor: Editor,  # on the bundle that made it
    *,
    source: str | Path | None = None,  # where the source file is now, if it was moved
    given: NDArray[Any] | None = None,  # the source's array, if it was one
    progress: Progress | None = None,
) -> Replay:
    """Run the recipe in a picture again.

    Raises InputError if the picture carries no recipe, if it was made with another bundle, or if the source
    file is missing or altered.
    """
    texts = read_texts(path)
    recipe = _recipe_of(texts, path, "picture")
    if source is not None:
        if recipe.source.kind in ("seed", "prompt"):
            raise InputError("source", repr(str(source)), "nothing, since the picture was made from a seed")
        recipe = replace(recipe, source=replace(recipe.source, path=str(source)))
    idle = idle_settings(completed(editor.bundle, recipe))
    recipe = without_idle(recipe, idle)  # older ones hold what never acted
    edit = editor.edit(recipe, progress, given=given, compare=texts.get(COMPARE) != "no")
    expected = texts.get(PIXELS)
    if expected is None:
        return Replay(edit, None)
    return Replay(edit, expected in (_pixels_hash(edit.image), _pixels_hash(whole_picture(edit, given))))


def _recipe_of(texts: Mapping[str, str], path: str | Path, field: str) -> Recipe:
    if RECIPE not in texts:
        given = f"{Path(path).name!r}, which carries no recipe"
        raise InputError(field, given, "a picture written by limner", "other programs may drop the metadata on saving")
    return Recipe.from_json(texts[RECIPE])


def _pixels_hash(image_u8: NDArray[np.uint8]) -> str:
    return sha256_bytes(np.ascontiguousarray(image_u8).tobytes())
