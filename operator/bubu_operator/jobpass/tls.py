"""The key pair of a controller's listener, and how an agent knows it: by its fingerprint, by nothing else.

The pair lives as long as the process. Its fingerprint travels in the Job's arguments, which only the API
server's users can write; no authority and no name has a say. TLS 1.3 only, on both sides.

Invariants: the key is never written anywhere but a file of this process alone for the moment of
loading it; an agent sends nothing before the fingerprint was compared.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import ssl
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

__all__ = ["PIN_PREFIX", "ServerIdentity", "WrongPinError", "check_pin", "client_context", "parse_pin"]

PIN_PREFIX: Final = "sha256:"
LIFETIME: Final = timedelta(days=3650)
"""The pin is what counts; the pair is gone with its process."""

_PIN = re.compile(r"sha256:[0-9a-f]{64}")


class WrongPinError(Exception):
    """Who answers is not the controller that started this agent."""


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """A key pair made for one process.

    Attributes:
        pin: of the certificate, as ``sha256:…``.
        context: for accepting connections.
    """

    pin: str
    context: ssl.SSLContext = field(repr=False)

    @classmethod
    def make(cls, now: datetime | None = None) -> Self:
        """Make a pair."""
        now = now or datetime.now(UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"bubu-pass {secrets.token_hex(8)}")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + LIFETIME)
            .sign(key, hashes.SHA256())
        )
        pem = certificate.public_bytes(Encoding.PEM) + key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # No session of an earlier connection is resumed: each shows its own token.
        context.num_tickets = 0
        # The ssl module loads files only; this one is readable by nobody else and gone at once.
        with tempfile.TemporaryDirectory(prefix="bubu-pin-") as folder:
            file = Path(folder) / "pair.pem"
            file.touch(mode=0o600)
            file.write_bytes(pem)
            context.load_cert_chain(file)
        return cls(_pin_of(certificate.public_bytes(Encoding.DER)), context)


def parse_pin(text: str) -> str:
    """Return a pin as it is, if it is one.

    Raises:
        ValueError: it is none.
    """
    if not _PIN.fullmatch(text):
        raise ValueError("a pin is sha256: and 64 hexadecimal digits")
    return text


def client_context() -> ssl.SSLContext:
    """Return a context that leaves the judgement of certificates to `check_pin`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def check_pin(connection: ssl.SSLSocket, pin: str) -> None:
    """Make sure that the other side has the certificate of this fingerprint, and its key.

    Raises:
        WrongPinError: it has another one.
    """
    found = connection.getpeercert(binary_form=True)
    if not found or not hmac.compare_digest(_pin_of(found), parse_pin(pin)):
        raise WrongPinError(
            "the certificate of the controller has another fingerprint than this Job was started with: "
            "another process has its address by now, or somebody is in between; nothing was sent"
        )


def _pin_of(der: bytes) -> str:
    return PIN_PREFIX + hashlib.sha256(der).hexdigest()
