"""Make an authority, sign a leaf with it, and read both back from PEM.

Keys are ECDSA on P-256. Each authority has a subject and a key identifier of its own, so
that a client with several authorities finds the right one at once. Invariant: a leaf never
outlives its authority; no message holds a key.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = [
    "CA_NAME",
    "Authority",
    "IssuedLeaf",
    "TrustedCertificate",
    "UnusableAuthorityError",
    "check_name",
    "issue_authority",
    "issue_leaf",
    "load_authority",
    "load_trusted",
    "serving_names",
]

CA_NAME = "bubu-storage-webhook-ca"
"""Begins the common name of every authority that this module makes."""

_LEAF_NAME = "bubu-storage-webhook"


class UnusableAuthorityError(ValueError):
    """A certificate or key of an authority cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class TrustedCertificate:
    """The certificate of an authority, as it stands in caBundle.

    Attributes:
        fingerprint: SHA-256 of the certificate, hex.
        pem: one PEM block with a line break at its end.
        ours: made by this module, by its name and by signing itself.
        not_before, not_after: its validity.
    """

    fingerprint: str
    pem: str = field(repr=False)
    ours: bool
    not_before: datetime
    not_after: datetime

    def valid_at(self, moment: datetime) -> bool:
        """Tell whether a client whose clock shows ``moment`` accepts it."""
        return self.not_before <= moment < self.not_after

    @property
    def short(self) -> str:
        """Enough of the fingerprint to tell authorities apart in a log."""
        return self.fingerprint[:12]


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate that may sign, and its key."""

    certificate: TrustedCertificate
    key_pem: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class IssuedLeaf:
    """A serving certificate with its key.

    Attributes:
        certificate_pem, key_pem: what a TLS server loads.
        issuer: fingerprint of the authority that signed it.
        not_before, not_after: its validity.
    """

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)
    issuer: str
    not_before: datetime
    not_after: datetime


def serving_names(service: str, namespace: str, more: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names of a Service as the API server calls it, and more names or addresses."""
    names = (
        f"{service}.{namespace}.svc",
        f"{service}.{namespace}",
        f"{service}.{namespace}.svc.cluster.local",
    )
    return tuple(dict.fromkeys((*names, *more)))


def check_name(name: str) -> str:
    """Return a DNS name or IP address as it is, if it can stand in a certificate.

    Raises:
        ValueError: it cannot.
    """
    if not name or (any(char.isspace() or char in "/:@" for char in name) and not _is_address(name)):
        raise ValueError(f"{name!r} is neither a DNS name nor an IP address")
    try:
        _general_name(name)
    except ValueError as error:
        raise ValueError(f"{name!r} cannot stand in a certificate: write a DNS name in ASCII") from error
    return name


def issue_authority(now: datetime, *, lifetime: timedelta, backdate: timedelta) -> Authority:
    """Make a key and a certificate that signs itself, valid from ``backdate`` before ``now``."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    # Of the key, so that two authorities never share a name; 64 characters is what the field takes.
    identity = hashlib.sha256(
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{CA_NAME} {identity[:16]}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - backdate)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(_trusted(certificate), _key_pem(key))


def issue_leaf(
    authority: Authority, names: Sequence[str], now: datetime, *, lifetime: timedelta, backdate: timedelta
) -> IssuedLeaf:
    """Sign a serving certificate with a key of its own.

    Args:
        authority: who signs.
        names: DNS names and IP addresses that it is for.
        now: by the clock of those who verify it.
        lifetime: from now; cut off at the end of the authority's.
        backdate: how long before now its validity begins.

    Raises:
        UnusableAuthorityError: the authority is not valid at ``now``, or its content is damaged.
        ValueError: a name cannot stand in a certificate.
    """
    trusted = authority.certificate
    if not trusted.valid_at(now):
        raise UnusableAuthorityError(
            f"the authority {trusted.short} is valid from {trusted.not_before.isoformat()} to "
            f"{trusted.not_after.isoformat()}, and it is {now.isoformat()}"
        )
    ca = x509.load_pem_x509_certificate(trusted.pem.encode("ascii"))
    ca_key = _private_key(authority.key_pem)
    key = ec.generate_private_key(ec.SECP256R1())
    not_before = max(now - backdate, trusted.not_before).replace(microsecond=0)
    not_after = min(now + lifetime, trusted.not_after).replace(microsecond=0)
    if not_after <= not_before:
        raise UnusableAuthorityError(f"the authority {trusted.short} ends within a second")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _LEAF_NAME)]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    return IssuedLeaf(
        certificate_pem=certificate.public_bytes(Encoding.PEM),
        key_pem=_key_pem(key).encode("ascii"),
        issuer=trusted.fingerprint,
        not_before=not_before,
        not_after=not_after,
    )


def load_authority(certificate_pem: str, key_pem: str) -> Authority:
    """Read an authority back.

    Raises:
        UnusableAuthorityError: not PEM, no authority, or the key belongs to another certificate.
    """
    certificates = load_trusted(certificate_pem)
    if len(certificates) != 1:
        raise UnusableAuthorityError(f"there are {len(certificates)} certificates where one belongs")
    key = _private_key(key_pem)
    loaded = x509.load_pem_x509_certificate(certificates[0].pem.encode("ascii"))
    if _public_bytes(loaded) != key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    ):
        raise UnusableAuthorityError("the key does not belong to the certificate")
    if not _may_sign(loaded):
        raise UnusableAuthorityError("the certificate is not one of an authority")
    return Authority(certificates[0], _key_pem(key))


def load_trusted(pem: str) -> tuple[TrustedCertificate, ...]:
    """Read the certificates of a bundle, each once, in their order.

    Raises:
        UnusableAuthorityError: it is not a sequence of PEM certificates.
    """
    try:
        loaded = x509.load_pem_x509_certificates(pem.encode("ascii", errors="replace"))
        return tuple({item.fingerprint: item for item in map(_trusted, loaded)}.values())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UnusableAuthorityError("there is no readable PEM certificate") from error


def _trusted(certificate: x509.Certificate) -> TrustedCertificate:
    der = certificate.public_bytes(Encoding.DER)
    return TrustedCertificate(
        fingerprint=hashlib.sha256(der).hexdigest(),
        pem=certificate.public_bytes(Encoding.PEM).decode("ascii"),
        ours=_is_ours(certificate),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def _is_ours(certificate: x509.Certificate) -> bool:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if not names or not str(names[0].value).startswith(f"{CA_NAME} ") or not _may_sign(certificate):
        return False
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False


def _public_bytes(certificate: x509.Certificate) -> bytes:
    try:
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnusableAuthorityError("the certificate's key is of an unknown kind") from error


def _private_key(pem: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem.encode("ascii", errors="replace"), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The library's words may quote what it read.
        raise UnusableAuthorityError("the key is no readable, unencrypted PEM key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UnusableAuthorityError("the key is not an elliptic-curve key")
    return key


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


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
