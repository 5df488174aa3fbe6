"""What comes with a request: fields and files, checked before anything is done with them.

A picture is written into the server's own folder, under its name without any path, and read there as one on a command
line is: the same colours, the same limits. The folder goes when the request ends. A recipe may name no path: what it
starts from is sent along, or is a seed or a text.
"""

import base64
import binascii
import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from limner.runtime.edit import Edit
from limner.runtime.errors import BundleError, InputError, ProviderError
from limner.runtime.recipe import Recipe
from limner.runtime.server.errors import Refusal, refused
from limner.runtime.server.settings import Limits

__all__ = ["Fields", "Given", "check_size", "check_source", "placed", "read_request", "safe_name", "without_place"]

UNSAFE = re.compile(r"[^\w.()+ -]", re.ASCII)
MOST_FIELDS, MOST_FILES = 64, 16
USUAL_NAME = "source.png"


@dataclass(frozen=True)
class Given:
    """A file that was sent."""

    name: str  # safe, without a path
    data: bytes


@dataclass(frozen=True)
class Fields:
    """A request's fields by name, as text, and its pictures."""

    values: Mapping[str, Any]
    pictures: tuple[Given, ...] = ()
    others: Mapping[str, Given] = field(default_factory=dict)  # files that are no picture to be edited

    def text(self, name: str, default: str | None = None) -> str | None:
        """A field's text."""
        value = self.values.get(name)
        if value is None or value == "":
            return default
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise refused(name, f"{type(value).__name__}", "a text", code="invalid_type")
        return str(value)

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number in a range."""
        text = self.text(name)
        if text is None:
            return default
        if not re.fullmatch(r"-?\d{1,18}", text) or not low <= int(text) <= high:
            raise refused(name, f"{text[:40]!r}", f"a whole number from {low} to {high}")
        return int(text)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.values.get(name, default)
        known = {"true": True, "false": False, "1": True, "0": False}
        if isinstance(value, bool):
            return value
        if str(value).lower() not in known:
            raise refused(name, f"{str(value)[:40]!r}", "true or false")
        return known[str(value).lower()]

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        """One of several words."""
        text = self.text(name, default) or default
        if text not in allowed:
            raise refused(name, f"{text[:40]!r}", f"{', '.join(allowed)}")
        return text

    def listed(self, name: str) -> tuple[str, ...]:
        """A list of words: a JSON list, or words with commas between."""
        value = self.values.get(name)
        if isinstance(value, list):
            return tuple(str(one) for one in value)
        return tuple(part.strip() for part in str(value or "").split(",") if part.strip())

    def json(self, name: str) -> Any:
        """A field that is JSON: an object, or its text."""
        value = self.values.get(name)
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as reason:
            raise refused(name, f"{value[:40]!r}", "JSON", code="invalid_json") from reason


async def read_request(request: Request, limits: Limits) -> Fields:
    """The fields and files of a multipart form, or of a JSON object whose pictures are base64."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return _of_json(await request.body())
    if kind not in ("multipart/form-data", "application/x-www-form-urlencoded"):
        given = repr(kind[:60]) if kind else "nothing"
        allowed = "multipart/form-data or application/json"
        raise Refusal(415, f"content-type: got {given}; allowed: {allowed}", None, "unsupported_media_type")
    size = int(limits.upload_mb * 1e6)
    try:
        async with request.form(max_files=MOST_FILES, max_fields=MOST_FIELDS, max_part_size=size) as form:
            return await _of_form(form)
    except HTTPException as reason:
        raise Refusal(400, f"the form does not read: {str(reason.detail)[:200]}", None, "invalid_form") from reason


async def _of_form(form: FormData) -> Fields:
    values: dict[str, Any] = {}
    pictures, others = [], {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            one = Given(safe_name(value.filename), await value.read())
            if name in ("image", "image[]"):
                pictures.append(one)
            else:
                others[name] = one
        elif name.endswith("[]"):
            values.setdefault(name[:-2], []).append(value)
        elif name in values:
            raise refused(name[:60], "it twice", "once", code="repeated_field")
        else:
            values[name] = value
    return Fields(values, tuple(pictures), others)


def _of_json(body: bytes) -> Fields:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as reason:
        raise Refusal(400, "the body is no JSON", None, "invalid_json") from reason
    if not isinstance(data, dict):
        raise Refusal(400, f"the body: got {type(data).__name__}; allowed: an object", None, "invalid_type")
    image = data.pop("image", None)
    if image is None:
        return Fields(data)
    if not isinstance(image, str):
        raise refused("image", "no text", "a picture in base64", code="invalid_type")
    head, _, rest = image.partition(",")
    try:
        decoded = base64.b64decode(rest if head.startswith("data:") else image, validate=True)
    except (binascii.Error, ValueError) as reason:
        raise refused("image", "what is no base64", "a picture in base64") from reason
    return Fields(data, (Given(USUAL_NAME, decoded),))


def safe_name(name: str | None) -> str:
    """A file's name without a path or anything that a file system could take amiss."""
    last = (name or "").replace("\\", "/").rsplit("/", 1)[-1]
    return UNSAFE.sub("_", last).strip(". ")[-80:] or USUAL_NAME


@contextmanager
def placed(recipe: Recipe, picture: Given | None, folder: Path, limits: Limits) -> Iterator[Recipe]:
    """The recipe with its picture as a file of the server's own, which is gone behind the block."""
    check_source(recipe, picture, limits)
    if picture is None:
        yield recipe
        return
    folder.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=folder))
    try:
        path = place / picture.name
        path.write_bytes(picture.data)
        yield replace(recipe, source=replace(recipe.source, path=str(path)))
    except (BundleError, ProviderError):
        raise
    except InputError as reason:  # says where the file lies for a moment, which is nobody's business
        named = reason.field == "source" or reason.field.startswith(("source.path", "picture", "image"))
        message = str(reason).replace(f"{place}/", "").replace(str(place), "")
        raise Refusal(400, message, "image" if named else reason.field, "invalid_value") from reason
    finally:
        shutil.rmtree(place, ignore_errors=True)


def check_source(recipe: Recipe, picture: Given | None, limits: Limits) -> None:
    """Refuse a path, a picture that is missing or too many, and one that is too large."""
    if recipe.source.path is not None and picture is None:
        allowed = "nothing; send the picture itself as `image`"
        raise refused("recipe.source.path", "a path", allowed, code="no_paths")
    if picture is None:
        if recipe.source.kind == "w_plus":
            raise refused("recipe.source.kind", "'w_plus'", "image, seed or prompt")
        if recipe.source.kind == "image":
            raise refused("image", "nothing", "the picture of the recipe's source", code="missing_value")
        return
    if recipe.source.kind != "image":
        raise refused("image", f"a picture beside a source of kind {recipe.source.kind!r}", "either of them")
    if not picture.data:
        raise refused("image", "an empty file", "a picture")
    check_size(picture, limits)


def check_size(picture: Given, limits: Limits) -> None:
    """413 for a picture with more pixels than the server takes, by its header; nothing is decoded."""
    try:
        with Image.open(io.BytesIO(picture.data)) as opened:
            pixels = opened.width * opened.height
    except Image.DecompressionBombError:
        pixels = 1 << 40
    except Exception:  # what it is, the reader says later, in its own words
        return
    if pixels > limits.megapixels * 1e6:
        given = f"{pixels / 1e6:.1f} megapixels" if pixels < 1 << 40 else "more than any camera makes"
        raise refused("image", given, f"{limits.megapixels:g} megapixels", code="too_large", status=413)


def without_place(edit: Edit) -> Recipe:
    """The recipe of an edit with the picture's name in place of where it lay for a moment."""
    source = edit.recipe.source
    named = source if source.path is None else replace(source, path=Path(source.path).name)
    return replace(edit.recipe, source=named)
