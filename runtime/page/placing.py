"""What belongs to the square of a face, laid over the photograph that it was cut from, and back."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limner.runtime.edit import Edit
from limner.runtime.faces.alignment import sampled_quad

__all__ = ["Square", "square_of"]

LAID_SIDE = 512  # pixels of what is laid over a photograph, at the most
TAKEN_SIDE = 256  # of what is taken from one


@dataclass(frozen=True)
class Square:
    """Where the face's square lies: its corners top left, bottom left, bottom right, top right, in parts of the
    photograph's width and height.
    """

    corners: tuple[tuple[float, ...], ...]  # four pairs
    width: int  # of the photograph
    height: int

    def laid(self, image: Image.Image) -> Image.Image:
        """A picture of the square over the whole photograph, nothing outside; at most LAID_SIDE pixels a side."""
        scale = min(1.0, LAID_SIDE / max(self.width, self.height))
        size = max(1, round(self.width * scale)), max(1, round(self.height * scale))
        origin, across, down = self._axes(size)
        back = np.linalg.inv(np.stack([across, down], axis=1)) * np.array([[image.width], [image.height]])
        shift = -back @ origin
        coefficients = (back[0, 0], back[0, 1], shift[0], back[1, 0], back[1, 1], shift[1])
        return image.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.NEAREST)

    def taken(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask [H,W] of the photograph as one of the square, [TAKEN_SIDE,TAKEN_SIDE]."""
        height, width = mask.shape
        origin, across, down = self._axes((width, height))
        across, down = across / TAKEN_SIDE, down / TAKEN_SIDE
        coefficients = (across[0], down[0], origin[0], across[1], down[1], origin[1])
        image = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
        size = (TAKEN_SIDE, TAKEN_SIDE)
        found: NDArray[np.bool_] = (
            np.asarray(image.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.NEAREST)) > 127
        )
        return found

    def _axes(self, size: tuple[int, int]) -> tuple[NDArray[np.float64], ...]:
        """Top left corner and the sides across and down, in pixels of a picture of (width, height)."""
        corners = np.array(self.corners) * np.array(size)
        return corners[0], corners[3] - corners[0], corners[1] - corners[0]


def square_of(edit: Edit, picture: tuple[int, int]) -> Square | None:
    """The square of an edit's face in a photograph of (width, height); None where it names no face."""
    face = edit.recipe.source.face
    if face is None:
        return None
    quad = sampled_quad(picture, face.landmarks, edit.image.shape[0], face.framing)
    corners = tuple((float(x), float(y)) for x, y in (quad + 0.5) / np.array(picture))
    return Square(corners, *picture)
