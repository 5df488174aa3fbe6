"""Edits as JSON: pictures in base64, each file with its recipe inside as any picture that Limner writes."""

import base64
import time
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.edit import Edit
from limner.runtime.marking.marks import environment_marks
from limner.runtime.pictures.writing import encode_picture
from limner.runtime.pictures.xmp import GENERATED
from limner.runtime.provenance import encode_edit, warnings_of
from limner.runtime.server.uploads import without_place

__all__ = ["FORMATS", "INCLUDED", "edit_answer", "edit_file", "in_base64", "plain_file"]

FORMATS = ("png", "jpeg", "webp")
INCLUDED = ("source", "reconstruction", "pictures")
SUFFIX = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


def edit_file(edit: Edit, kind: str) -> tuple[bytes, list[str]]:
    """The edited picture as a file, with the marks that the server's environment names, and what is to be said."""
    marks = environment_marks()
    data, notes = encode_edit(edit, SUFFIX[kind], recipe=without_place(edit), marks=marks)
    return data, warnings_of(edit, notes, marks)


def plain_file(image: NDArray[np.uint8], kind: str, mark: str | None = GENERATED) -> bytes:
    """A picture without a recipe as a file."""
    return encode_picture(image, SUFFIX[kind], None, mark)[0]


def edit_answer(edit: Edit, model: str, kind: str, include: Collection[str], request_id: str) -> dict[str, Any]:
    """Everything that is known of an edit."""
    data, said = edit_file(edit, kind)
    more: dict[str, Any] = {}
    if "source" in include:
        more["source"] = in_base64(plain_file(edit.source, kind, None))
    if "reconstruction" in include:
        more["reconstruction"] = in_base64(plain_file(edit.reconstruction, kind))
    if "pictures" in include:
        more["pictures"] = {name: in_base64(plain_file(image, kind, None)) for name, image in edit.pictures.items()}
    return {
        "id": request_id,
        "object": "edit",
        "created": int(time.time()),
        "model": model,
        "image": in_base64(data),
        "output_format": kind,
        "size": f"{edit.image.shape[1]}x{edit.image.shape[0]}",
        "recipe": without_place(edit).to_dict(),
        "scores": edit.scores,
        "warnings": said,
        "timing": {name: round(value, 3) for name, value in edit.timing.items()},
        "provider": edit.provider,
        "compared": edit.compared,
        **more,
    }


def in_base64(data: bytes) -> str:
    """Base64 without line ends."""
    return base64.b64encode(data).decode("ascii")
