"""One face of a picture file, as a recipe names it: where it is, and how its edit goes back."""

from dataclasses import dataclass
from typing import Literal, get_args

from limner.runtime.errors import InputError, nearest
from limner.runtime.faces.landmarks import Points, check_landmarks
from limner.runtime.schema import require_number

__all__ = ["FFHQ", "PASTE_MODES", "Face", "Framing", "PasteMode"]

PasteMode = Literal["replace", "difference"]
PASTE_MODES: tuple[str, ...] = get_args(PasteMode)
MIN_FEATHER, MAX_FEATHER = 0.01, 0.25


@dataclass(frozen=True)
class Framing:
    """How a model's pictures frame a face, beside FFHQ's square: what the shipped avatars need, for one.

    `scale` is the square's side over that of FFHQ, `shift` how far its centre lies below, a part of FFHQ's side.
    """

    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        require_number("framing.scale", self.scale, 0.25, 4.0)
        require_number("framing.shift", self.shift, -1.0, 1.0)


FFHQ = Framing()


@dataclass(frozen=True)
class Face:
    """A face to be cut out, edited and pasted back.

    `landmarks` are 68 or 5 points (x, y) in pixels of the picture as it is displayed, after its EXIF rotation; the
    centre of the first pixel is (0, 0). `paste` says what goes back: "replace" puts the edited square over the
    picture, "difference" adds to the picture what the edit changed in the reconstruction. Both do so where the edit
    changed the square by more than `threshold`, a part of the full range (0 takes the whole square), with a soft edge
    of the width `feather`, a part of the square's side.
    """

    landmarks: Points
    framing: Framing = FFHQ
    paste: PasteMode = "replace"
    threshold: float = 0.1
    feather: float = 0.06

    @property
    def place(self) -> tuple[Points, Framing]:
        """What is cut out: faces that differ in how they go back alone have the same."""
        return self.landmarks, self.framing

    def __post_init__(self) -> None:
        object.__setattr__(self, "landmarks", check_landmarks(self.landmarks, "landmarks"))
        if self.paste not in PASTE_MODES:
            hint = nearest(str(self.paste), PASTE_MODES)
            raise InputError("paste", repr(self.paste), " or ".join(PASTE_MODES), hint)
        require_number("paste.threshold", self.threshold, 0.0, 1.0)
        require_number("paste.feather", self.feather, MIN_FEATHER, MAX_FEATHER)
