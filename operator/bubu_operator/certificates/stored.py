"""What the authority's Secret holds: written by the leader, read by it and by every replica.

Reading is total: whatever is missing or damaged becomes a sentence in `Stored.problems`,
and what can still be read is used. Keys of ``data``::

    signing.crt, signing.key     who signs the replicas' certificates now
    upcoming.crt, upcoming.key   who will, as soon as every API server trusts it; may be absent
    ca.crt                       all that must be trusted: what caBundle is to hold
    state.json                   the rest; see `AuthorityState`

Invariant: only the signing and the upcoming authority's keys are kept; those of others are forgotten.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, cast

from bubu_operator.certificates.issuing import (
    Authority,
    TrustedCertificate,
    UnusableAuthorityError,
    load_authority,
    load_trusted,
)
from bubu_operator.certificates.lifetimes import LEAF_SECONDS_MAX, Lifetimes

__all__ = ["AuthorityState", "RetiredAuthority", "Stored", "decode", "encode"]

SIGNING: Final = "signing"
UPCOMING: Final = "upcoming"
BUNDLE: Final = "ca.crt"
REST: Final = "state.json"


@dataclass(frozen=True, slots=True)
class RetiredAuthority:
    """An authority that signs no longer, but may have signed what is still served.

    Attributes:
        certificate: stays in caBundle.
        until: how long; None where that was not known, for the leader to decide.
    """

    certificate: TrustedCertificate
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class AuthorityState:
    """All that there is to know of the authority.

    Attributes:
        signing: signs now; None when it was lost, or when another must become known first.
        upcoming: in caBundle already, or about to be; signs nothing yet.
        retired: sign no longer, are still trusted.
        revision: counts the leader's changes, so that an older content is noticed.
        leaf_seconds: how long a replica's certificate may live.
        propagation_seconds: how long a replica waits before it uses an authority that it had not
            seen in ca.crt.
        rotated: the request for a rotation that was answered last; see `rotation`.
    """

    signing: Authority | None = None
    upcoming: Authority | None = None
    retired: tuple[RetiredAuthority, ...] = ()
    revision: int = 0
    leaf_seconds: int = Lifetimes().leaf_seconds
    propagation_seconds: int = Lifetimes().propagation_seconds
    rotated: str = ""

    @property
    def trusted(self) -> tuple[TrustedCertificate, ...]:
        """What caBundle must hold, each once, in a fixed order."""
        pairs = [pair.certificate for pair in (self.signing, self.upcoming) if pair is not None]
        every = [*pairs, *(retired.certificate for retired in self.retired)]
        return tuple({item.fingerprint: item for item in every}.values())


@dataclass(frozen=True, slots=True)
class Stored:
    """A Secret as read.

    Attributes:
        state: what could be read of it.
        problems: what could not, in words; empty when all is well.
    """

    state: AuthorityState
    problems: tuple[str, ...] = ()


def encode(state: AuthorityState) -> dict[str, str]:
    """Return the Secret's ``data``."""
    texts: dict[str, str] = {BUNDLE: "".join(item.pem for item in state.trusted)}
    for name, pair in ((SIGNING, state.signing), (UPCOMING, state.upcoming)):
        if pair is not None:
            texts[f"{name}.crt"] = pair.certificate.pem
            texts[f"{name}.key"] = pair.key_pem
    rest = {
        "revision": state.revision,
        "leafSeconds": state.leaf_seconds,
        "propagationSeconds": state.propagation_seconds,
        "rotated": state.rotated,
        "retired": {
            item.certificate.fingerprint: "" if item.until is None else item.until.isoformat()
            for item in state.retired
        },
    }
    texts[REST] = json.dumps(rest, sort_keys=True)
    return {name: base64.b64encode(text.encode()).decode("ascii") for name, text in texts.items()}


def decode(data: object) -> Stored:
    """Read a Secret's ``data``, whatever it is; never raises."""
    reader = _Reader(_mapping(data))
    signing = reader.authority(SIGNING, needed=True)
    upcoming = reader.authority(UPCOMING, needed=False)
    rest = reader.rest()
    ends = _mapping(rest.get("retired"))
    named = {pair.certificate.fingerprint for pair in (signing, upcoming) if pair is not None}
    retired = tuple(
        RetiredAuthority(item, _moment(ends.get(item.fingerprint)))
        for item in reader.trusted()
        if item.fingerprint not in named
    )
    usual = Lifetimes()
    state = AuthorityState(
        signing=signing,
        upcoming=upcoming,
        retired=retired,
        revision=_count(rest.get("revision"), 0),
        leaf_seconds=min(LEAF_SECONDS_MAX, _count(rest.get("leafSeconds"), usual.leaf_seconds)),
        propagation_seconds=_count(rest.get("propagationSeconds"), usual.propagation_seconds),
        rotated=str(rest.get("rotated") or ""),
    )
    return Stored(state, tuple(reader.problems))


@dataclass(slots=True)
class _Reader:
    """Takes the parts out of the data and notes what is wrong with them."""

    data: Mapping[str, Any]
    problems: list[str] = field(default_factory=list[str])
    seen: list[TrustedCertificate] = field(default_factory=list[TrustedCertificate])

    def text(self, key: str) -> str:
        value = self.data.get(key)
        if not isinstance(value, str) or not value:
            return ""
        try:
            return base64.b64decode(value, validate=True).decode("utf-8")
        except (binascii.Error, ValueError):
            self.problems.append(f"{key} is not text")
            return ""

    def authority(self, name: str, *, needed: bool) -> Authority | None:
        """Read a pair; a certificate without its key is still one to be trusted."""
        certificate, key = self.text(f"{name}.crt"), self.text(f"{name}.key")
        if not certificate and not key:
            # Without a signing authority there must be an upcoming one, or something is lost.
            if needed and not self.data.get(f"{UPCOMING}.crt"):
                self.problems.append("there is no signing authority")
            return None
        try:
            pair = load_authority(certificate, key)
        except UnusableAuthorityError as error:
            self.problems.append(f"the {name} authority cannot be used: {error}")
            self._note(certificate)
            return None
        self.seen.append(pair.certificate)
        return pair

    def trusted(self) -> tuple[TrustedCertificate, ...]:
        """Return every certificate that is somewhere in the Secret."""
        bundle = self.text(BUNDLE)
        if not bundle:
            self.problems.append(f"{BUNDLE} is missing")
        elif not self._note(bundle):
            self.problems.append(f"{BUNDLE} is no sequence of certificates")
        return tuple({item.fingerprint: item for item in self.seen}.values())

    def rest(self) -> Mapping[str, Any]:
        text = self.text(REST)
        try:
            parsed: Any = json.loads(text)
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            self.problems.append(f"{REST} is missing or damaged")
            return {}
        return cast("dict[str, Any]", parsed)

    def _note(self, pem: str) -> bool:
        try:
            self.seen.extend(load_trusted(pem))
        except UnusableAuthorityError:
            return False
        return True


def _mapping(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _moment(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else None


def _count(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else otherwise
