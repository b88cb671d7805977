"""The serving certificate: read from files, checked apart, swapped into the live context.

A mismatched pair that reaches the live context breaks every later handshake, so a pair is
first loaded into a scratch context; what is then loaded is the very same bytes, from
memory, not the files again, which may have changed in between. The listener never closes.
A pair that is refused leaves the one before in place.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import ssl
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

__all__ = [
    "CertificateError",
    "CertificateReloader",
    "CertificateSource",
    "FileSource",
    "LoadOutcome",
    "ServingCertificate",
    "server_context",
]

logger = logging.getLogger(__name__)

MAX_FILE_BYTES: Final = 1024 * 1024


class CertificateError(ValueError):
    """A certificate and key cannot be used; the message names the files and the cause."""


class LoadOutcome(StrEnum):
    """What a look at the files led to."""

    LOADED = "Loaded"
    UNCHANGED = "Unchanged"
    REFUSED = "Refused"


@dataclass(frozen=True, slots=True)
class ServingCertificate:
    """What is being served.

    Attributes:
        fingerprint: SHA-256 of the leaf, hex.
        subject: of the leaf.
        not_after: end of its validity.
    """

    fingerprint: str
    subject: str
    not_after: datetime


class CertificateSource(Protocol):
    """Where the serving certificate comes from; keeps the live context supplied."""

    @property
    def current(self) -> ServingCertificate | None:
        """What is being served; None as long as there is nothing."""
        ...

    def problem(self) -> str:
        """Why nothing can be served; "" when something is."""
        ...

    async def follow(self) -> None:
        """Keep it current until cancelled; never raises anything else."""
        ...


def server_context() -> ssl.SSLContext:
    """A context for the listener, without a certificate yet: until one is loaded, handshakes fail."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


class CertificateReloader:
    """Keeps a live context's certificate in step with two files.

    Not thread-safe: `read` may run anywhere, `load` runs where the context is used.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        context: ssl.SSLContext,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._context = context
        self._now = now
        self._seen = ""
        self.current: ServingCertificate | None = None
        self.last_problem = "" if certificate and key else "no files are given"

    def read(self) -> tuple[bytes, bytes]:
        """Read both files; blocking.

        Raises:
            CertificateError: one of them cannot be read.
        """
        return _read(self._certificate), _read(self._key)

    def check(self) -> LoadOutcome:
        """Read and load; the blocking form, for the start."""
        try:
            pair = self.read()
        except CertificateError as error:
            return self.refuse(str(error))
        return self.load(pair)

    def load(self, pair: tuple[bytes, bytes]) -> LoadOutcome:
        """Load a pair into the live context if it differs from the last one seen, and is usable."""
        seen = hashlib.sha256(b"\0".join(pair)).hexdigest()
        if seen == self._seen:
            return LoadOutcome.UNCHANGED if not self.last_problem else LoadOutcome.REFUSED
        try:
            leaf = self._usable(pair)
        except CertificateError as error:
            outcome = self.refuse(str(error))
            self._seen = seen
            return outcome
        with _in_memory(pair) as (certificate, key):
            self._context.load_cert_chain(certificate, key, _no_password)
        self._seen, self.last_problem, self.current = seen, "", leaf
        logger.info(
            "serving certificate loaded",
            extra={
                "subject": leaf.subject,
                "not_after": leaf.not_after.isoformat(),
                "fingerprint": leaf.fingerprint[:16],
            },
        )
        return LoadOutcome.LOADED

    def refuse(self, problem: str) -> LoadOutcome:
        """Note (and log, once per problem) why the files cannot be used."""
        if problem != self.last_problem:
            kept = "the one before stays in use" if self.current else "there is none to serve with yet"
            logger.warning("serving certificate refused: %s; %s", problem, kept)
        self._seen, self.last_problem = "", problem
        return LoadOutcome.REFUSED

    def _usable(self, pair: tuple[bytes, bytes]) -> ServingCertificate:
        """Try the pair in a scratch context.

        Raises:
            CertificateError: it cannot be served, or has expired while a better one is in use.
        """
        certificate_pem, _ = pair
        scratch = server_context()
        try:
            with _in_memory(pair) as (certificate, key):
                scratch.load_cert_chain(certificate, key, _no_password)
            leaf = x509.load_pem_x509_certificates(certificate_pem)[0]
        except (ssl.SSLError, ValueError, IndexError) as error:
            raise CertificateError(f"{self._certificate} and {self._key}: {_cause(error)}") from error
        not_after = leaf.not_valid_after_utc
        if not_after <= self._now():
            problem = f"{self._certificate} expired at {not_after.isoformat()}"
            if self.current is not None:
                raise CertificateError(problem)
            logger.warning("%s; serving it because there is no other", problem)
        return ServingCertificate(
            fingerprint=hashlib.sha256(leaf.public_bytes(Encoding.DER)).hexdigest(),
            subject=leaf.subject.rfc4514_string(),
            not_after=not_after,
        )


class FileSource:
    """Two files that somebody else writes, as cert-manager does; looked at every so often."""

    def __init__(self, certificate: Path, key: Path, context: ssl.SSLContext, *, poll_seconds: float) -> None:
        self._reloader = CertificateReloader(certificate, key, context)
        self._poll_seconds = poll_seconds
        self._reloader.check()

    @property
    def current(self) -> ServingCertificate | None:
        """See `CertificateSource`."""
        return self._reloader.current

    def problem(self) -> str:
        """See `CertificateSource`."""
        return "" if self.current else f"no serving certificate: {self._reloader.last_problem}"

    async def follow(self) -> None:
        """See `CertificateSource`."""
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                self._reloader.load(await asyncio.to_thread(self._reloader.read))
            except CertificateError as error:
                self._reloader.refuse(str(error))
            except Exception:
                logger.exception("looking at the certificate files failed; the certificate in use stays")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CertificateError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_FILE_BYTES:
        raise CertificateError(f"{path} is larger than {MAX_FILE_BYTES} bytes: not a PEM file")
    return content


@contextlib.contextmanager
def _in_memory(pair: tuple[bytes, bytes]) -> Generator[tuple[str, str]]:
    """Paths under which a pair can be opened, without it ever being on a disk."""
    with contextlib.ExitStack() as stack:
        paths: list[str] = []
        for content in pair:
            descriptor = os.memfd_create("bubu-webhook-tls", os.MFD_CLOEXEC)
            stack.callback(os.close, descriptor)
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(content)
            paths.append(f"/proc/self/fd/{descriptor}")
        yield paths[0], paths[1]


def _no_password() -> str:
    """Called for an encrypted key only: rather fail than ask at a terminal."""
    raise ValueError("the key is encrypted; give an unencrypted one")


def _cause(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    if reason == "KEY_VALUES_MISMATCH":
        return "the key does not belong to the certificate"
    if isinstance(error, ssl.SSLError):
        return f"not a usable PEM certificate and key ({reason or 'unreadable'})"
    return str(error)
