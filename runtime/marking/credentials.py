"""What a picture's Content Credentials say, and whether they hold: read by c2pa-python, with no request."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from limner.runtime.errors import InputError
from limner.runtime.marking.manifest import OFFLINE, RECIPE_PARAMETER, mime_of
from limner.runtime.marking.signing import library

__all__ = ["Credentials", "read_credentials"]

State = Literal["trusted", "valid", "broken"]
UNTRUSTED = "signingCredential.untrusted"  # alone it says that nobody vouches for the signer


@dataclass(frozen=True)
class Credentials:
    """A picture's active manifest."""

    state: State  # trusted: by the given authorities; valid: unchanged since it was signed; broken: changed, or unsound
    signer: str | None
    time: str | None  # of the signature, where an authority stamped it
    software: str | None
    actions: tuple[str, ...]
    recipe: str | None  # sha256, of an edit by Limner
    parents: tuple[str, ...]  # ingredients, each with the state of its own manifest
    problems: tuple[str, ...] = ()  # codes of C2PA's specification


def read_credentials(data: bytes, anchors: str | None = None) -> Credentials | None:
    """Read the manifest in a picture's bytes; None where there is none, or no place for one.

    `anchors` are certificates of authorities (PEM) that are trusted. InputError where they are none.
    """
    c2pa, mime = library(), mime_of(data)
    if mime is None or mime not in c2pa.Reader.get_supported_mime_types():
        return None
    settings: dict[str, Any] = {"verify": {**OFFLINE["verify"], "verify_trust": anchors is not None}}
    if anchors is not None:
        settings["trust"] = {"user_anchors": _checked(anchors)}
    context = c2pa.Context.from_dict(settings)
    try:
        with c2pa.Reader(mime, io.BytesIO(data), context=context) as reader:
            return _read(json.loads(reader.json()))
    except c2pa.C2paError as reason:
        if type(reason).__name__.endswith("ManifestNotFound"):
            return None
        return Credentials("broken", None, None, None, (), None, (), (str(reason),))


def _checked(anchors: str) -> str:
    from cryptography import x509

    try:
        x509.load_pem_x509_certificates(anchors.encode())
    except ValueError as reason:
        raise InputError("anchors", "no certificates", "PEM certificates of authorities") from reason
    return anchors


def _read(store: Mapping[str, Any]) -> Credentials:
    active = store["manifests"][store["active_manifest"]]
    problems = tuple(dict.fromkeys(
        one["code"] for one in store.get("validation_status") or [] if one.get("code") != UNTRUSTED))  # fmt: skip
    said = store.get("validation_state")
    state: State = "broken" if said == "Invalid" or problems else "trusted" if said == "Trusted" else "valid"
    signature = active.get("signature_info") or {}
    actions = [one for found in active.get("assertions", []) if str(found.get("label", "")).startswith("c2pa.actions")
               for one in found["data"].get("actions", [])]  # fmt: skip
    recipe = next((one["parameters"][RECIPE_PARAMETER] for one in actions
                   if RECIPE_PARAMETER in (one.get("parameters") or {})), None)  # fmt: skip
    generators = active.get("claim_generator_info") or [{}]
    return Credentials(
        state=state,
        signer=signature.get("common_name") or signature.get("issuer"),
        time=signature.get("time"),
        software=" ".join(str(generators[0][key]) for key in ("name", "version") if key in generators[0]) or None,
        actions=tuple(str(one.get("action")) for one in actions),
        recipe=recipe,
        parents=tuple(_parent(one) for one in active.get("ingredients", [])),
        problems=problems,
    )


def _parent(ingredient: Mapping[str, Any]) -> str:
    name = str(ingredient.get("title") or "untitled")
    if "active_manifest" not in ingredient:
        return f"{name}, without credentials"
    failures = (ingredient.get("validation_results") or {}).get("activeManifest", {}).get("failure", [])
    bad = [one["code"] for one in failures if one.get("code") != UNTRUSTED]
    return f"{name}, whose credentials {'do not hold' if bad else 'hold'}"
