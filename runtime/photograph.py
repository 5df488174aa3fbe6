"""The two ends of an edit of a photograph: the file to the square that is edited, and the Edit to the photograph."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.errors import InputError
from limner.runtime.faces.alignment import align_face, sampled_quad
from limner.runtime.faces.face import Face
from limner.runtime.faces.pasting import paste_face
from limner.runtime.pictures.images import Photo, Picture, read_photo, read_picture

if TYPE_CHECKING:
    from limner.runtime.edit import Edit

__all__ = ["cut_array", "read_source", "whole_picture"]

ImageU8 = NDArray[np.uint8]


def read_source(path: str | Path, size: int, face: Face | None = None, field: str = "source") -> Picture:
    """Read a picture file as uint8 [size,size,3]: its centred square, or the face as FFHQ would have cut it."""
    if face is None:
        return read_picture(path, size, field)
    photo = read_photo(path, field)
    picture = photo.on_white()
    square = align_face(picture, face.landmarks, size, face.framing)
    side = float(np.hypot(*(square.quad[3] - square.quad[0])))
    notes = (*photo.notes, f"face of {side:.0f} pixels a side cut out")
    return Picture(square.image_u8, photo.path, photo.sha256, picture.shape[1], picture.shape[0], notes, photo.carried)


def cut_array(picture_u8: NDArray[Any], size: int, face: Face, field: str = "source") -> ImageU8:
    """The same of an array uint8 [H,W,3]."""
    if picture_u8.dtype != np.uint8 or picture_u8.ndim != 3 or picture_u8.shape[2] != 3:
        raise InputError(field, f"{picture_u8.dtype} {list(picture_u8.shape)}", "uint8 [H,W,3] with a face")
    return align_face(picture_u8, face.landmarks, size, face.framing).image_u8


def whole_picture(
    edit: "Edit",
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
