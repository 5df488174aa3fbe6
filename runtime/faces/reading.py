"""A picture file, or an array, to the square that is edited: centred, or the face as FFHQ would have cut it."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.errors import InputError
from limner.runtime.faces.alignment import align_face
from limner.runtime.faces.face import Face
from limner.runtime.pictures.images import Picture, read_photo, read_picture

__all__ = ["cut_array", "read_source"]

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
