"""What stands in the claim on a store, and what follows from it; pure.

A claim is one small JSON object at `CLAIM_KEY`. Invariants: what cannot be read for certain is a claim
that never expires (only ``bubu-storage lock break`` removes it), for nobody can tell whose it is and until
when; expiry is reckoned from the date that the *store* gave the object, never from a clock of the holder's,
and never before the date that the holder wrote; texts from the object are shortened and made printable
before anybody sees them, since anybody who may write to the store may have written them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from bubu_storage.backend.types import EPOCH
from bubu_storage.errors import ConfigurationError
from bubu_storage.wire import RESERVED_PREFIX

__all__ = [
    "CLAIM_KEY",
    "CLOCK_TOLERANCE_SECONDS",
    "DEFAULT_TTL_SECONDS",
    "MAX_DOCUMENT_BYTES",
    "ClaimDocument",
    "ClaimSettings",
    "FoundClaim",
    "clock",
    "read_claim",
    "shown",
]

CLAIM_KEY: Final = RESERVED_PREFIX + "retention/claim.json"
"""The one object that says who may delete."""

DEFAULT_TTL_SECONDS: Final = 60.0
"""How long a claim lasts after its last renewal."""

CLOCK_TOLERANCE_SECONDS: Final = 3.0
"""Added to the end of another's claim: stores tell dates in whole seconds, and clocks tick unevenly."""

MAX_DOCUMENT_BYTES: Final = 16_384
"""Nothing of ours is longer; what is was not written by us."""

_VERSION: Final = 1
_MARGIN_SECONDS: Final = 1.0
_LONGEST_TTL_SECONDS: Final = 86_400.0
_SHORTEST_PART: Final = 3
_MAX_TEXT: Final = 200


@dataclass(frozen=True, slots=True)
class ClaimSettings:
    """Who claims, and for how long at a time.

    Attributes:
        holder: for people, as ``<cluster uid>/<namespace>/<policy>/<pass>``.
        cluster: uid of the cluster; "" outside of one.
        ttl_seconds: how long the claim lasts after each renewal, by the store's clock.
        request_timeout_seconds: the longest that one deletion may be under way, all tries included.
            The claim is given up that much, and a second, before it ends.

    Raises:
        ConfigurationError: a claim that would be over before it can be renewed, or no holder.
    """

    holder: str
    cluster: str = ""
    ttl_seconds: float = DEFAULT_TTL_SECONDS
    request_timeout_seconds: float = 10.0

    def __post_init__(self) -> None:
        if not self.holder.strip():
            raise ConfigurationError("a claim on a store needs a holder, so that others can see whose it is")
        for name, value in (("ttl", self.ttl_seconds), ("request timeout", self.request_timeout_seconds)):
            if not math.isfinite(value) or value <= 0:
                raise ConfigurationError(f"the {name} of a claim must be more than 0 seconds, not {value!r}")
        least = _SHORTEST_PART * self.margin_seconds
        if not least <= self.ttl_seconds <= _LONGEST_TTL_SECONDS:
            raise ConfigurationError(
                f"a claim for {self.ttl_seconds:g} s does not fit requests that may take "
                f"{self.request_timeout_seconds:g} s: it must last at least {least:g} s (three times that "
                f"and a second) and at most {_LONGEST_TTL_SECONDS:g} s"
            )

    @classmethod
    def fitting(cls, holder: str, cluster: str = "", *, request_timeout_seconds: float) -> ClaimSettings:
        """Return settings whose claim lasts long enough for requests of this length.

        Raises:
            ConfigurationError: requests that may take hours.
        """
        ttl = max(DEFAULT_TTL_SECONDS, 4 * (request_timeout_seconds + _MARGIN_SECONDS))
        return cls(holder, cluster, ttl, request_timeout_seconds)

    @property
    def margin_seconds(self) -> float:
        """How long before its end the claim counts no more."""
        return self.request_timeout_seconds + _MARGIN_SECONDS

    @property
    def renew_every_seconds(self) -> float:
        """Time between two renewals: two may fail before the claim is lost."""
        return (self.ttl_seconds - self.margin_seconds) / 3


@dataclass(frozen=True, slots=True)
class ClaimDocument:
    """The content of a claim.

    Attributes:
        holder: see `ClaimSettings`.
        cluster: likewise.
        token: random, of this claim alone: equal tokens are the same claim.
        acquired_at: the store's clock, as the holder knew it.
        renewed_at: likewise, of the last renewal.
        expires_at: likewise: ``renewed_at`` and the ttl.
        ttl_seconds: how long it lasts after the store wrote it.
        sequence: counts the writes, so that no two have the same ETag.
    """

    holder: str
    cluster: str
    token: str
    acquired_at: datetime
    renewed_at: datetime
    expires_at: datetime
    ttl_seconds: float
    sequence: int

    def to_bytes(self) -> bytes:
        """Return what is stored."""
        content = {
            "version": _VERSION,
            "holder": self.holder,
            "cluster": self.cluster,
            "token": self.token,
            "acquiredAt": self.acquired_at.isoformat(),
            "renewedAt": self.renewed_at.isoformat(),
            "expiresAt": self.expires_at.isoformat(),
            "ttlSeconds": self.ttl_seconds,
            "sequence": self.sequence,
        }
        return json.dumps(content, indent=1).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class FoundClaim:
    """A claim as it lies in a store.

    Attributes:
        etag: of the object, "" where the store gives none.
        last_modified: when the store wrote it, by its clock; the epoch where it does not tell.
        document: None where what lies there is no claim of a form that is known here.
        problem: why not, "" where it is one.
    """

    etag: str
    last_modified: datetime
    document: ClaimDocument | None
    problem: str = ""

    @property
    def expires_at(self) -> datetime | None:
        """The end of the claim by the store's clock; None for never."""
        document = self.document
        if document is None:
            return None
        if self.last_modified <= EPOCH:
            return document.expires_at
        return max(document.expires_at, self.last_modified + timedelta(seconds=document.ttl_seconds))

    def is_expired(self, now: datetime) -> bool:
        """Tell whether the claim is over for certain at this time of the store's clock."""
        end = self.expires_at
        return end is not None and now > end + timedelta(seconds=CLOCK_TOLERANCE_SECONDS)

    def describe(self) -> str:
        """Return who holds it, since when and until when, for a message."""
        document = self.document
        end = self.expires_at
        if document is None or end is None:
            return f"an unreadable claim of {clock(self.last_modified)} ({self.problem})"
        return (
            f"{shown(document.holder)} since {clock(document.acquired_at)} until {clock(end)} "
            "(the store's clock)"
        )


def read_claim(data: bytes, *, etag: str, last_modified: datetime) -> FoundClaim:
    """Read what lies at `CLAIM_KEY`; never raises.

    Args:
        data: the object's bytes, at most `MAX_DOCUMENT_BYTES` and one more.
        etag: of the object.
        last_modified: by the store's clock.
    """
    try:
        return FoundClaim(etag, last_modified, _document(data))
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        problem = str(error) if isinstance(error, _UnknownError) else "it is not what this library writes"
        return FoundClaim(etag, last_modified, None, problem)


class _UnknownError(ValueError):
    """Says in its text what is unknown; the text holds nothing of the object's."""


def _document(data: bytes) -> ClaimDocument:
    if len(data) > MAX_DOCUMENT_BYTES:
        raise _UnknownError(f"it is longer than {MAX_DOCUMENT_BYTES} bytes")
    content = cast("dict[str, Any]", json.loads(data))
    if content["version"] != _VERSION:
        raise _UnknownError("it is of another version of this library")
    ttl, sequence = content["ttlSeconds"], content["sequence"]
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl <= _LONGEST_TTL_SECONDS:
        raise _UnknownError("its ttlSeconds is out of range")
    if isinstance(sequence, bool) or not isinstance(sequence, int):
        raise TypeError("sequence")
    return ClaimDocument(
        holder=_text(content["holder"]),
        cluster=_text(content["cluster"]),
        token=_text(content["token"]),
        acquired_at=_date(content["acquiredAt"]),
        renewed_at=_date(content["renewedAt"]),
        expires_at=_date(content["expiresAt"]),
        ttl_seconds=float(ttl),
        sequence=sequence,
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text expected")
    return value


def _date(value: object) -> datetime:
    when = datetime.fromisoformat(_text(value))
    if when.tzinfo is None:
        raise ValueError("date without timezone")
    return when.astimezone(UTC)


def shown(text: str) -> str:
    """Return a text from a store fit for a message: printable, on one line, not too long."""
    safe = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:_MAX_TEXT])
    return safe + "…" if len(text) > _MAX_TEXT else safe or "nobody"


def clock(when: datetime) -> str:
    """Return a time as people read it: UTC, whole seconds."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
