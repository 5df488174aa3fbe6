"""What is said of a picture (C2PA 2.x): its source as the parent, whose own manifest is kept, and what was done to it.

    c2pa.opened    the source, by its ingredient; of a picture made from a seed or words c2pa.created in its place
    c2pa.edited    by Limner, with the recipe's sha256 (org.limner.recipe) and IPTC's DigitalSourceType

The manifest is bound to the edit's own bytes. c2pa-python's ready intent for edits copies the parent's thumbnail and
leaves no place for the recipe, so the actions are written here.
"""

import io
from typing import Any

from limner.runtime.errors import InputError, LimnerError
from limner.runtime.marking.signing import Signing, library
from limner.runtime.pictures.xmp import COMPOSITE, GENERATED
from limner.runtime.versions import package_version

__all__ = ["MIME", "OFFLINE", "RECIPE_PARAMETER", "mime_of", "signed"]

MIME = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
RECIPE_PARAMETER = "org.limner.recipe"
PARENT = "source"
OFFLINE: dict[str, dict[str, Any]] = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
           "builder": {"thumbnail": {"enabled": False}}}  # fmt: skip
MAGIC = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"II*\0", "image/tiff"),
         (b"MM\0*", "image/tiff"), (b"GIF8", "image/gif"))  # fmt: skip
BRANDS = {b"avif": "image/avif", b"avis": "image/avif", b"heic": "image/heic", b"heix": "image/heic",
          b"mif1": "image/heif"}  # fmt: skip


def mime_of(data: bytes) -> str | None:
    """The type of a picture file, by its first bytes, of those that C2PA knows a place in."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp":
        return BRANDS.get(data[8:12])
    return next((mime for magic, mime in MAGIC if data.startswith(magic)), None)


def signed(
    data: bytes,  # the edit's file
    suffix: str,  # .png, .jpg, .webp
    recipe: str,  # sha256 of its recipe
    source: bytes | None,  # the file that was edited; None of a picture made from a seed or words
    signing: Signing,
) -> bytes:
    """Return the file with a signed manifest. LimnerError for a signer that does not sign; InputError for a source that
    C2PA has no place in, or whose own manifest cannot be taken along.
    """
    c2pa, mime = library(), MIME[suffix]
    context = c2pa.Context.from_dict(OFFLINE)
    builder = c2pa.Builder(_definition(mime, recipe, source is not None), context)
    if source is not None:
        parent = {"title": PARENT, "relationship": "parentOf", "label": PARENT}
        try:
            builder.add_ingredient(parent, mime_of(source) or "", io.BytesIO(source))
        except c2pa.C2paError as reason:
            raise InputError(
                "source", f"a file that C2PA does not take ({reason})", "PNG, JPEG, WebP, TIFF"
            ) from reason
    out = io.BytesIO()
    try:
        builder.sign(signing.signer(), mime, io.BytesIO(data), out)
    except c2pa.C2paError as reason:
        raise LimnerError(f"the picture was not signed: {reason}") from reason
    return out.getvalue()


def _definition(mime: str, recipe: str, has_source: bool) -> dict[str, Any]:
    agent = {"name": "Limner", "version": package_version("limner") or "unknown"}
    first: dict[str, Any] = {"action": "c2pa.created", "digitalSourceType": GENERATED, "softwareAgent": agent}
    if has_source:
        first = {"action": "c2pa.opened", "parameters": {"ingredientIds": [PARENT]}}
    edited = {"action": "c2pa.edited", "softwareAgent": agent, "parameters": {RECIPE_PARAMETER: recipe},
              "digitalSourceType": COMPOSITE if has_source else GENERATED}  # fmt: skip
    return {
        "claim_generator_info": [agent],
        "title": "edited picture",
        "format": mime,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [first, edited]}}],
    }
