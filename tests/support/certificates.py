"""Certificates of C2PA's profile for tests: an authority, and a signer that it vouches for."""

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Issued", "issued"]

USAGES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
          "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
KINDS: dict[str, Any] = {
    "es256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "es384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "es512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ps256": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "k1": lambda: ec.generate_private_key(ec.SECP256K1()),
}


@dataclass(frozen=True)
class Issued:
    """Files of a signer."""

    chain: Path
    key: Path
    authority: Path
    private: Any


def issued(
    folder: Path, kind: str = "es256", first: int = -1, last: int = 365, usage: str = "digital_signature",
    passphrase: bytes | None = None, bare: bool = False,
) -> Issued:  # fmt: skip
    """Write a signer's files; valid from `first` to `last` days from now. `bare` leaves the extensions out."""
    folder.mkdir(parents=True, exist_ok=True)
    root, private = ec.generate_private_key(ec.SECP256R1()), KINDS[kind]()
    authority = _certificate("Test authority", "Test authority", root.public_key(), first, last)
    authority = authority.add_extension(x509.BasicConstraints(True, None), True)
    authority = authority.add_extension(_usage("key_cert_sign", "crl_sign"), True)
    authority = authority.add_extension(x509.SubjectKeyIdentifier.from_public_key(root.public_key()), False)
    own = _certificate("Test signer", "Test authority", private.public_key(), first, last)
    if not bare:
        own = own.add_extension(x509.BasicConstraints(False, None), True).add_extension(_usage(usage), True)
        own = own.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
        own = own.add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), False)
        own = own.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), False)
    pems = [one.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) for one in (own, authority)]
    lock = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    files = Issued(folder / "chain.pem", folder / "key.pem", folder / "authority.pem", private)
    files.chain.write_bytes(b"".join(pems))
    files.authority.write_bytes(pems[1])
    files.key.write_bytes(private.private_bytes(*form))
    return files


def _certificate(name: str, issuer: str, public: Any, first: int, last: int) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder().subject_name(_name(name)).issuer_name(_name(issuer)).public_key(public)
        .serial_number(x509.random_serial_number()).not_valid_before(now + timedelta(days=first))
        .not_valid_after(now + timedelta(days=last))
    )  # fmt: skip


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Limner's tests"),
                      x509.NameAttribute(NameOID.COMMON_NAME, text)])  # fmt: skip


def _usage(*names: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{**dict.fromkeys(USAGES, False), **dict.fromkeys(names, True)})
