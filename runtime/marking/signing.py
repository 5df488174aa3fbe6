"""Who signs: a certificate chain, and a private key in a file or a function elsewhere (PKCS#11, a remote signer).

    LIMNER_SIGNING_CERT        file of the certificate chain, PEM, the signer's own first
    LIMNER_SIGNING_KEY         file of its private key, PEM without a passphrase
    LIMNER_SIGNING_CALLBACK    or MODULE:FUNCTION, which gets bytes and returns their signature
    LIMNER_SIGNING_TSA         URL of a time stamp authority (RFC 3161), if any: the one request that is made

The algorithm is the certificate's: ES256, ES384, ES512 by its curve, PS256 for RSA, Ed25519. c2pa-python and
cryptography are of the extra `sign`.
"""

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

from limner.runtime.errors import InputError
from limner.runtime.storage.files import read_plain

__all__ = ["CERT", "Signing", "environment_signing", "library", "load_signing"]

CERT, KEY = "LIMNER_SIGNING_CERT", "LIMNER_SIGNING_KEY"
CALLBACK, TSA = "LIMNER_SIGNING_CALLBACK", "LIMNER_SIGNING_TSA"
MAX_BYTES = 1_000_000
CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True)
class Signing:
    """A signer, checked: certificates that are valid now and fit the key."""

    certificates: bytes  # PEM chain
    algorithm: str  # es256, es384, es512, ps256, ed25519
    key: bytes | None = None  # PEM
    callback: Callable[[bytes], bytes] | None = None
    timestamps: str | None = None  # URL

    def signer(self) -> Any:
        """A signer of c2pa-python."""
        c2pa = library()
        if self.callback is not None:
            algorithm = getattr(c2pa.C2paSigningAlg, self.algorithm.upper())
            return c2pa.Signer.from_callback(self.callback, algorithm, self.certificates.decode(), self.timestamps)
        info = c2pa.C2paSignerInfo(self.algorithm.encode(), self.certificates, self.key,
                                   None if self.timestamps is None else self.timestamps.encode())  # fmt: skip
        return c2pa.Signer.from_info(info)


def library() -> Any:
    """The module c2pa; InputError with what to install where it is not."""
    try:
        import c2pa
    except ModuleNotFoundError as reason:
        given = f"an environment without {reason.name}"
        raise InputError("sign", given, "one with the extra [sign]", "run `pip install 'limner[sign]'`") from reason
    return c2pa


def environment_signing(environment: Mapping[str, str] | None = None) -> Signing | None:
    """The signer that the environment names; None where it names none. InputError names the variable that is wrong."""
    found = os.environ if environment is None else environment
    cert, key, callback, tsa = (found.get(name) or None for name in (CERT, KEY, CALLBACK, TSA))
    if cert is None:
        named = next((name for name in (KEY, CALLBACK, TSA) if found.get(name)), None)
        if named is not None:
            raise InputError(named, "a value", f"{CERT} beside it")
        return None
    return load_signing(cert, key, callback, tsa)


@lru_cache(maxsize=8)
def load_signing(
    certificates: str, key: str | None = None, callback: str | None = None, timestamps: str | None = None
) -> Signing:
    """Read and check a signer; certificates that end while it is held are refused when they sign.

    Raises InputError for files that are none, certificates that are expired, not valid yet or not for signing, and a
    key that is another one's.
    """
    library()
    if (key is None) == (callback is None):
        given = "neither" if key is None else "both"
        raise InputError(KEY, f"{given} of {KEY} and {CALLBACK}", "one of them")
    if timestamps is not None and not timestamps.startswith(("https://", "http://")):
        raise InputError(TSA, repr(timestamps), "a URL, https:// or http://")
    chain = read_plain(Path(certificates), CERT, MAX_BYTES, "a file of PEM certificates")
    own, algorithm = _leaf(chain, certificates)
    if callback is not None:
        return Signing(chain, algorithm, callback=_function(callback), timestamps=timestamps)
    data = read_plain(Path(str(key)), KEY, MAX_BYTES, "a file of a PEM private key")
    _check_key(data, own, str(key))
    return Signing(chain, algorithm, data, timestamps=timestamps)


def _leaf(chain: bytes, name: str) -> tuple[Any, str]:
    """The signer's own certificate and its algorithm."""
    from cryptography import x509

    try:
        own = x509.load_pem_x509_certificates(chain)[0]
    except ValueError as reason:
        raise InputError(CERT, f"{name!r}, which holds none", "a chain of PEM certificates") from reason
    now = datetime.now(timezone.utc)
    if own.not_valid_after_utc < now:
        raise InputError(CERT, f"{name!r}, which ended on {own.not_valid_after_utc:%Y-%m-%d}", "one that is valid now")
    if own.not_valid_before_utc > now:
        raise InputError(
            CERT, f"{name!r}, which begins on {own.not_valid_before_utc:%Y-%m-%d}", "one that is valid now"
        )
    try:
        if own.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise InputError(CERT, f"{name!r}, whose first is an authority's", "the signer's own certificate first")
        if not own.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature:
            raise InputError(CERT, f"{name!r}, which is not for signatures", "one whose key usage has digitalSignature")
    except x509.ExtensionNotFound as reason:
        given = f"{name!r} without {reason.oid._name}"
        raise InputError(CERT, given, "a certificate of C2PA's profile", "docs/marking.md has the lines") from reason
    return own, _algorithm(own.public_key(), name)


def _algorithm(public: Any, name: str) -> str:
    curve = getattr(getattr(public, "curve", None), "name", "")
    kind = type(public).__name__.lower()
    found = CURVES.get(curve) or ("ps256" if "rsa" in kind else "ed25519" if "ed25519" in kind else None)
    if found is None:
        raise InputError(
            CERT, f"{name!r} with a key of {curve or kind}", "ECDSA by P-256, P-384 or P-521, RSA, Ed25519"
        )
    return found


def _check_key(data: bytes, own: Any, name: str) -> None:
    from cryptography.hazmat.primitives import serialization

    try:
        private = serialization.load_pem_private_key(data, password=None)
    except TypeError as reason:  # a passphrase
        raise InputError(
            KEY, f"{name!r}, which has a passphrase", "a key without, or LIMNER_SIGNING_CALLBACK"
        ) from reason
    except Exception as reason:
        raise InputError(KEY, f"{name!r}, which is none", "a PEM private key") from reason
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != own.public_key().public_bytes(*form):
        raise InputError(KEY, f"{name!r}, which is not the certificate's", "the key of the chain's first certificate")


def _function(name: str) -> Callable[[bytes], bytes]:
    module, colon, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function) if colon and module and function else None
    except (ImportError, AttributeError) as reason:
        raise InputError(CALLBACK, f"{name!r} ({reason})", "MODULE:FUNCTION that can be imported") from reason
    if not callable(found):
        raise InputError(CALLBACK, repr(name), "MODULE:FUNCTION of a function")
    checked: Callable[[bytes], bytes] = found
    return checked
