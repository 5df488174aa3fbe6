"""Which marks an edit's file gets beside the one that every picture has: a signature, an invisible mark."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from limner.runtime.errors import InputError
from limner.runtime.marking.signing import CERT, Signing, environment_signing
from limner.runtime.marking.watermarks import find_watermark

__all__ = ["NO_MARKS", "WATERMARK", "Marks", "environment_marks"]

WATERMARK = "LIMNER_WATERMARK"


@dataclass(frozen=True)
class Marks:
    """None of either: the picture has IPTC's mark and its recipe alone."""

    signing: Signing | None = None
    watermark: str | None = None  # a name of `watermarks`


NO_MARKS = Marks()


def environment_marks(
    sign: bool | None = None,  # False: not signed; True: signed, or InputError
    watermark: str | None = None,  # goes before the environment's
    environment: Mapping[str, str] | None = None,
) -> Marks:
    """The marks that the environment names. InputError for a signer that cannot sign and a mark that is not there."""
    found = os.environ if environment is None else environment
    signing = None if sign is False else environment_signing(found)
    if sign and signing is None:
        raise InputError("sign", "--sign without a signer", f"one by {CERT} and LIMNER_SIGNING_KEY or _CALLBACK")
    name = watermark or found.get(WATERMARK) or None
    if name is not None:
        find_watermark(name)
    return Marks(signing, name)
