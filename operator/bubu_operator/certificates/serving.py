"""A certificate and key that somebody gave us: usable by a TLS server, or why not. Pure.

The messages are for the person who made the files: each names the cause and the way out, and
none quotes a key.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

__all__ = ["CertificateError", "ServingCertificate", "inspect_pair"]


class CertificateError(ValueError):
    """A certificate and key cannot be used; the message names where they are from, and the cause."""


@dataclass(frozen=True, slots=True)
class ServingCertificate:
    """What is being served.

    Attributes:
        fingerprint: SHA-256 of the leaf, hex.
        subject: of the leaf.
        not_after: end of its validity.
        not_before: begin of its validity.
    """

    fingerprint: str
    subject: str
    not_after: datetime
    not_before: datetime

    def out_of_time(self, now: datetime) -> str:
        """Return why a client refuses it at ``now``; "" when it does not."""
        if self.not_after <= now:
            return f"expired at {self.not_after.isoformat()}"
        if self.not_before > now:
            return f"is not valid before {self.not_before.isoformat()}"
        return ""


def inspect_pair(certificate_pem: bytes, key_pem: bytes) -> ServingCertificate:
    """Look at a chain and a key; whether they are in their time is left to the caller.

    Raises:
        CertificateError: they cannot be served; the message does not say where they are from.
    """
    try:
        chain = x509.load_pem_x509_certificates(certificate_pem)
        leaf = chain[0]
        serving = ServingCertificate(
            fingerprint=hashlib.sha256(leaf.public_bytes(Encoding.DER)).hexdigest(),
            subject=leaf.subject.rfc4514_string(),
            not_after=leaf.not_valid_after_utc,
            not_before=leaf.not_valid_before_utc,
        )
    except (ValueError, IndexError, UnsupportedAlgorithm) as error:
        raise CertificateError("not a usable PEM certificate and key (no readable certificate)") from error
    _match(chain, _public_key(key_pem))
    _serves(leaf)
    return serving


def _public_key(key_pem: bytes) -> bytes:
    if b"ENCRYPTED" in key_pem:
        raise CertificateError("the key is encrypted; give an unencrypted one")
    try:
        key = load_pem_private_key(key_pem, None)
        return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm) as error:
        # Not the library's words: they may quote what it read.
        raise CertificateError("not a usable PEM certificate and key (no readable key)") from error


def _match(chain: list[x509.Certificate], public_key: bytes) -> None:
    for number, certificate in enumerate(chain, start=1):
        try:
            belongs = (
                certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
                == public_key
            )
        except (ValueError, UnsupportedAlgorithm):
            belongs = False
        if belongs and number == 1:
            return
        if belongs:
            raise CertificateError(
                f"the key belongs to certificate {number} of the chain; put that one first, and those that "
                "signed it after it"
            )
    raise CertificateError("the key does not belong to the certificate")


def _serves(leaf: x509.Certificate) -> None:
    """Refuse what no API server accepts, whoever signed it."""
    try:
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        allowed = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
        if not allowed & set(usages):
            raise CertificateError("the certificate is not for servers (extended key usage serverAuth)")
    except x509.ExtensionNotFound:
        pass
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise CertificateError("the certificate's extensions cannot be read") from error
    try:
        leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        raise CertificateError(
            "the certificate has no subject alternative name; API servers look at nothing else"
        ) from None
