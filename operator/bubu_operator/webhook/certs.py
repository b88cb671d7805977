"""The serving certificate: checked apart, then handed to new handshakes; the listener never closes.

Each pair gets a TLS context of its own. It is loaded and checked there, and new handshakes on
the listener's context are led to it when it is good. So a pair that is refused has touched
nothing, and nothing of an earlier pair is left behind: a context that has once held an
elliptic-curve certificate goes on offering it after an RSA one is loaded (measured). Keys
are never on a disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import ssl
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from bubu_operator.certificates.serving import CertificateError, ServingCertificate, inspect_pair
from bubu_operator.kube.server_clock import ServerClock

__all__ = [
    "CertificateError",
    "CertificateReloader",
    "CertificateSource",
    "FileSource",
    "LiveCertificate",
    "LoadOutcome",
    "ServingCertificate",
    "server_context",
]

logger = logging.getLogger(__name__)

MAX_FILE_BYTES: Final = 1024 * 1024


class LoadOutcome(StrEnum):
    """What a look at a pair led to."""

    LOADED = "Loaded"
    UNCHANGED = "Unchanged"
    REFUSED = "Refused"


class CertificateSource(Protocol):
    """Where the serving certificate comes from; keeps the listener's context supplied."""

    @property
    def current(self) -> ServingCertificate | None:
        """What is being served; None as long as there is nothing."""
        ...

    @property
    def last_problem(self) -> str:
        """What is wrong with the newest pair, even while an older one still serves; "" for nothing."""
        ...

    @property
    def loads(self) -> int:
        """How many pairs were taken into use."""
        ...

    @property
    def refusals(self) -> int:
        """How many times something was refused, or could not be had; the same cause counts once."""
        ...

    def problem(self) -> str:
        """Why API servers cannot be served now; "" when they can."""
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


def _utc_now() -> datetime:
    return datetime.now(UTC)


class LiveCertificate:
    """Leads the handshakes of a listener's context to the newest good pair.

    Not thread-safe: `load` runs where the context is used.

    Attributes:
        current: what is being served.
        last_problem: what is wrong with the newest pair; "" for nothing.
        loads, refusals: counted; a refusal for the same cause as the one before is not.
    """

    def __init__(self, context: ssl.SSLContext, *, now: Callable[[], datetime] = _utc_now) -> None:
        self._now = now
        self._seen: str = ""
        self._serving: ssl.SSLContext | None = None
        self.current: ServingCertificate | None = None
        self.last_problem = ""
        self.loads = 0
        self.refusals = 0
        # Called in every handshake, also where the client names no server.
        context.sni_callback = self._lead

    def _lead(self, connection: ssl.SSLObject, _name: str, _context: ssl.SSLContext) -> None:
        if self._serving is not None:
            connection.context = self._serving

    def load(self, pair: tuple[bytes, bytes], origin: str) -> LoadOutcome:
        """Take a pair (chain, key) into use if it differs from the last one seen, and is usable."""
        seen = hashlib.sha256(b"\0".join(pair)).hexdigest()
        if seen == self._seen:
            return LoadOutcome.UNCHANGED if not self.last_problem else LoadOutcome.REFUSED
        try:
            leaf, serving = _checked(pair)
        except CertificateError as error:
            outcome = self.refuse(f"{origin}: {error}")
            self._seen = seen
            return outcome
        late = leaf.out_of_time(self._now())
        if late:
            if not self._worse_than(leaf):
                # Looked at again: it may come into its time, or the one in use out of its own.
                return self.refuse(f"{origin}: the certificate {late}")
            logger.warning("%s: the certificate %s; serving it because there is no other", origin, late)
        self._seen, self.last_problem, self.current, self._serving = seen, "", leaf, serving
        self.loads += 1
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
        """Note (and log and count, once per cause) why there is nothing new to serve."""
        if problem != self.last_problem:
            self.refusals += 1
            kept = "the one before stays in use" if self.current else "there is none to serve with yet"
            logger.warning("serving certificate refused: %s; %s", problem, kept)
        self._seen, self.last_problem = "", problem
        return LoadOutcome.REFUSED

    def problem(self) -> str:
        """Why API servers cannot be served now; "" when they can."""
        if self.current is None:
            return f"no serving certificate: {self.last_problem or 'none has been looked for yet'}"
        late = self.current.out_of_time(self._now())
        if not late:
            return ""
        newer = f"; the newer one is refused: {self.last_problem}" if self.last_problem else ""
        return f"the serving certificate {late}{newer}"

    def _worse_than(self, leaf: ServingCertificate) -> bool:
        """Tell whether what is in use is out of its time, too, and ends earlier."""
        if self.current is None:
            return True
        return bool(self.current.out_of_time(self._now())) and self.current.not_after < leaf.not_after


class CertificateReloader(LiveCertificate):
    """Keeps a context's certificate in step with two files.

    `read` may run in any thread.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        context: ssl.SSLContext,
        *,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        super().__init__(context, now=now)
        self._certificate = certificate
        self._key = key

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

    def load(self, pair: tuple[bytes, bytes], origin: str = "") -> LoadOutcome:
        """See `LiveCertificate.load`."""
        return super().load(pair, origin or f"{self._certificate} and {self._key}")


class FileSource:
    """Two files that somebody else writes, as cert-manager does; looked at every so often.

    Args:
        certificate, key: PEM files; the chain begins with the leaf.
        context: of the listener.
        poll_seconds: between two looks.
        clock: whose time counts; None for this machine's.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        context: ssl.SSLContext,
        *,
        poll_seconds: float,
        clock: ServerClock | None = None,
    ) -> None:
        self._reloader = CertificateReloader(
            certificate, key, context, now=_utc_now if clock is None else clock.now
        )
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._reloader.check()

    @property
    def current(self) -> ServingCertificate | None:
        """See `CertificateSource`."""
        return self._reloader.current

    @property
    def last_problem(self) -> str:
        """See `CertificateSource`."""
        return self._reloader.last_problem

    @property
    def loads(self) -> int:
        """See `CertificateSource`."""
        return self._reloader.loads

    @property
    def refusals(self) -> int:
        """See `CertificateSource`."""
        return self._reloader.refusals

    def problem(self) -> str:
        """See `CertificateSource`."""
        return self._reloader.problem()

    async def follow(self) -> None:
        """See `CertificateSource`."""
        while True:
            try:
                if self._clock is not None and self._clock.stale:
                    await asyncio.to_thread(self._clock.ask)
                self._reloader.load(await asyncio.to_thread(self._reloader.read))
            except CertificateError as error:
                self._reloader.refuse(str(error))
            except Exception:
                logger.exception("looking at the certificate files failed; the certificate in use stays")
            await asyncio.sleep(self._poll_seconds)


def _checked(pair: tuple[bytes, bytes]) -> tuple[ServingCertificate, ssl.SSLContext]:
    """Load a pair into a context of its own.

    Raises:
        CertificateError: it cannot be served.
    """
    leaf = inspect_pair(*pair)
    context = server_context()
    try:
        with _in_memory(pair) as (certificate, key):
            context.load_cert_chain(certificate, key, _no_password)
    except (ssl.SSLError, ValueError) as error:
        raise CertificateError(_cause(error)) from error
    return leaf, context


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


_CAUSES: Final = {
    "KEY_VALUES_MISMATCH": "the key does not belong to the certificate",
    "EE_KEY_TOO_SMALL": "the key is too short to be safe; use RSA with 2048 bits or more, or P-256",
    "CA_KEY_TOO_SMALL": "the key of a signer in the chain is too short to be safe",
    "CA_MD_TOO_WEAK": "a signature in the chain uses a hash that is not safe any more",
}


def _cause(error: Exception) -> str:
    reason = str(getattr(error, "reason", None) or "unreadable")
    if isinstance(error, ssl.SSLError):
        return _CAUSES.get(reason, f"not a usable PEM certificate and key ({reason})")
    return str(error)
