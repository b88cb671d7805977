"""Throw-away certificates and keys for a local API server.

A fresh authority signs one serving certificate; its key exists only in memory and is forgotten.
Keys are elliptic-curve (made in a millisecond) and files are private to the user.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ServingFiles", "private_key_pem", "write_private", "write_serving_files"]

_LIFETIME = timedelta(days=365)
# A machine whose clock was just set back must still accept them.
_BACKDATE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class ServingFiles:
    """Paths of an authority's certificate, and of a serving certificate with its key."""

    ca: Path
    certificate: Path
    key: Path

    @property
    def leaf_der(self) -> bytes:
        """The serving certificate as a handshake shows it."""
        leaf = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        return leaf.public_bytes(serialization.Encoding.DER)


def write_private(path: Path, text: str) -> Path:
    """Write a file that only its owner can read, whatever the umask; replaces atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
    temporary.replace(path)
    return path


def private_key_pem(key: ec.EllipticCurvePrivateKey | None = None) -> str:
    """Return a key (a new one if absent) as unencrypted PEM in the form that Kubernetes reads."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ).decode("ascii")


def write_serving_files(
    folder: Path, names: list[str], addresses: list[str], *, key_identifiers: bool = True
) -> ServingFiles:
    """Make an authority and a serving certificate for DNS names and IP addresses, as files.

    Without key identifiers they are as the authorities of some old clusters are.
    """
    now = datetime.now(UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bubu-test-ca")])

    def builder(subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATE)
            .not_valid_after(now + _LIFETIME)
        )

    ca_identifier = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    ca = (
        builder(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
    )
    if key_identifiers:
        ca = ca.add_extension(ca_identifier, critical=False)
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    certificate = (
        builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]), key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    )
    if key_identifiers:
        certificate = certificate.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_identifier), critical=False
        )

    def pem(item: x509.CertificateBuilder) -> str:
        return item.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode("ascii")

    return ServingFiles(
        ca=write_private(folder / "ca.crt", pem(ca)),
        certificate=write_private(folder / "apiserver.crt", pem(certificate)),
        key=write_private(folder / "apiserver.key", private_key_pem(key)),
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
