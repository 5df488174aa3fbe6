"""How a picture is inverted, as data: the part of a recipe that belongs to a picture as the source."""

from dataclasses import dataclass
from typing import Literal

from limner.runtime.checks import require_number
from limner.runtime.errors import InputError, nearest

__all__ = ["DiffusionInversionParameters", "InversionKind"]

InversionKind = Literal["edit-friendly", "ddim", "negative-prompt", "direct"]
KINDS = ("edit-friendly", "ddim", "negative-prompt", "direct")


@dataclass(frozen=True)
class DiffusionInversionParameters:
    """None takes the method's own: SEGA inverts edit-friendly at 3.5, Prompt-to-Prompt directly at 1."""

    kind: InversionKind | None = None
    skip: float = 0.15  # edit-friendly: the part of the steps that is left out, 0 to 0.9
    guidance_scale: float | None = None  # of the source prompt while inverting; None takes the method's own

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in KINDS:
            hint = nearest(str(self.kind), KINDS)
            raise InputError("inversion.kind", repr(self.kind), ", ".join(map(repr, KINDS)), hint)
        require_number("inversion.skip", self.skip, 0.0, 0.9)
        if self.guidance_scale is not None:
            require_number("inversion.guidance_scale", self.guidance_scale, 0.0, 100.0)
