"""What a picture says of itself: IPTC's source type, Limner's recipe, Content Credentials; whoever made it."""

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from limner.runtime.marking.credentials import read_credentials
from limner.runtime.marking.watermarks import read_marks
from limner.runtime.pictures.carried_texts import PIXELS, RECIPE, SOFTWARE, WATERMARK
from limner.runtime.pictures.containers import read_carried
from limner.runtime.pictures.images import MAX_BYTES, read_photo, read_texts
from limner.runtime.pictures.xmp import source_type
from limner.runtime.recipe import Recipe
from limner.runtime.storage.files import read_plain, sha256_bytes

__all__ = ["look_at"]


def look_at(path: Path, anchors: str | None = None) -> dict[str, Any]:
    """Everything, as JSON data. InputError for a file that is no picture, or carries a recipe that is none.

    `credentials` is None where there are none, and a sentence where there are some and nothing here reads them.
    """
    photo = read_photo(path, "file")
    data = read_plain(path, "file", MAX_BYTES)
    carried, texts = read_carried(data, "file", path.name), read_texts(path, "file")
    pixels = texts.get(PIXELS)
    payloads = {name: one.hex() for name, one in read_marks(photo.image_u8).items()}
    recipe_digest = sha256_bytes(texts[RECIPE].encode()) if RECIPE in texts else None
    credentials: dict[str, Any] | str | None = None
    if find_spec("c2pa") is not None:
        found = read_credentials(data, anchors)
        credentials = None if found is None else asdict(found)
    elif carried.c2pa:
        credentials = "there are some; pip install 'limner[sign]' to read them"
    return {
        "format": path.suffix.lower().lstrip(".") or "unknown",
        "width": int(photo.image_u8.shape[1]),
        "height": int(photo.image_u8.shape[0]),
        "bytes": len(data),
        "sha256": sha256_bytes(data),
        "source_type": None if carried.xmp is None else source_type(carried.xmp),
        "software": texts.get(SOFTWARE),
        "recipe": Recipe.from_json(texts[RECIPE]).to_dict() if RECIPE in texts else None,
        "recipe_sha256": recipe_digest,
        "watermarks": payloads,
        "pixels_kept": None
        if pixels is None or WATERMARK in texts or path.suffix.lower() in (".jpg", ".jpeg")
        else pixels == sha256_bytes(_pixels(photo)),
        "credentials": credentials,
    }


def _pixels(photo: Any) -> bytes:
    import numpy as np

    whole = photo.image_u8 if photo.alpha_u8 is None else np.dstack([photo.image_u8, photo.alpha_u8])
    return np.ascontiguousarray(whole).tobytes()
