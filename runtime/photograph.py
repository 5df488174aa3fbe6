"""What an edit makes of the whole photograph that its face was cut from."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limner.runtime.edit import Edit
from limner.runtime.errors import InputError
from limner.runtime.faces.alignment import sampled_quad
from limner.runtime.faces.pasting import paste_face
from limner.runtime.pictures.images import Photo, read_photo

__all__ = ["whole_picture"]

ImageU8 = NDArray[np.uint8]


def whole_picture(
    edit: Edit,
    given: NDArray[np.uint8] | None = None,  # the source's array, if it was one
) -> ImageU8:
    """Return what an edit makes of its whole source, at the source's own size.

    uint8 [H,W,3], or [H,W,4] where the file has transparency, which stays as it is. An edit whose recipe names no
    face gives `edit.image`. Raises InputError if the source's file is gone or was altered.
    """
    source = edit.recipe.source
    face = source.face
    if face is None:
        return edit.image
    photo = _photo(source.path, source.sha256, given)
    height, width = photo.image_u8.shape[:2]
    quad = sampled_quad((width, height), face.landmarks, edit.image.shape[0], face.framing)
    pasted = paste_face(
        photo.image_u8, quad, edit.source, edit.reconstruction, edit.image, face.paste, face.threshold, face.feather
    )
    return pasted if photo.alpha_u8 is None else np.dstack([pasted, photo.alpha_u8])


def _photo(path: str | None, sha256: str | None, given: NDArray[np.uint8] | None) -> Photo:
    if path is None:
        if given is None:
            raise InputError("source.path", "nothing", "the path of a picture, or the array that was given")
        return Photo(given, None, Path(), "")
    photo = read_photo(path, "source")
    if sha256 is not None and photo.sha256 != sha256:
        given_hash = f"a source with sha256 {photo.sha256[:12]}..."
        raise InputError("source.sha256", given_hash, f"{sha256[:12]}..., as it was edited")
    return photo
